"""Says why a task isn't running, in one sentence.

explain -> gather (all I/O) -> Evidence -> judge (pure) -> Explanation
"""

from __future__ import annotations

from collections.abc import Iterable

from celery_gconc.diagnosis.evidence import gather
from celery_gconc.diagnosis.explanation import UNSURE, Explanation
from celery_gconc.diagnosis.judges import judge
from celery_gconc.operations.operations import Operations
from celery_gconc.operations.worker_query import ANSWER_SECONDS


def explain(
    operations: Operations, task_id: str, *, queues: Iterable[str] = (), timeout: float = ANSWER_SECONDS
) -> Explanation:
    """Say where a task is and why it isn't running. A task that nobody knows is an answer, too.

    *queues*: more queues to search. Workers have *timeout* seconds to answer. Everything is asked once more where the
    answers don't fit together, as they may while a task moves on.

    Raises:
        StoreUnavailable: the coordination Redis can't be reached.
    """
    names = tuple(queues)
    found = judge(gather(operations, task_id, names, timeout))
    if found.state in UNSURE:
        found = judge(gather(operations, task_id, names, timeout))
    return found
