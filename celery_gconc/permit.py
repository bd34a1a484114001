"""What a running task can learn about its permit: :func:`current_permit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celery._state import get_current_worker_task

#: Where a permit travels to the task: a key of its request's ``delivery_info``. The worker makes that mapping anew for
#: each delivery, so no sender can forge it; and it is none of the headers that a retry copies (celery 5.4-5.7).
PERMIT_KEY = "global_concurrency"


@dataclass(frozen=True, slots=True)
class TaskPermit:
    """The permit of a running task.

    ``number`` is a fencing number (M. Kleppmann, "How to do distributed locking", 2016): for a limit of 1, each task
    that is started under it has a higher one than all those before it, whatever was killed, stalled or lost in
    between. Have the store that the task writes to refuse any number below the highest that it has seen. Each number
    is unique, and those of one worker increase with each task that it starts: it is the newest that Redis gave the
    session, with a grant or a heartbeat, times 65,536, and the count of its starts since. It fits a signed 64-bit
    integer. It can go backwards in one case: Redis loses all data and its clock is set back.
    """

    #: The limits that it covers.
    limits: tuple[str, ...]
    number: int
    #: The session (one worker's lifetime) that has it.
    session: str
    #: When Redis last granted the session something before the task started, by Redis' clock: Unix time in seconds.
    #: It may have been for an earlier task.
    granted_at: float


def current_permit() -> TaskPermit | None:
    """The permit of the task running in this thread or greenlet.

    None outside a worker's task (eager mode, direct calls), if no limit covers the task, or if it was started before
    its limit existed or while Redis was unavailable (``global_concurrency_on_redis_error="run"``).
    """
    task = get_current_worker_task()
    if task is None:
        return None
    told: Any = (task.request.delivery_info or {}).get(PERMIT_KEY)
    return None if told is None else TaskPermit(*told)
