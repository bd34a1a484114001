"""Which limits could cover a request: found once for each task and queue.

Thread: consumer (the autoscaler's own reads too).
"""

from __future__ import annotations

from typing import Any

from celery_gconc.brokers.queues import goes_by, queue_named
from celery_gconc.limits.claims import Limits, TaskOption, candidates


class Claims:
    """One worker's. An answer is kept for its life: a task's option doesn't change."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._known: dict[tuple[str, str | None], Limits] = {}

    def of(self, task: Any, queue: str | None) -> Limits:
        """The names of the limits that would cover a *task* of this *queue* if each had a max."""
        key = (task.name, queue)
        names = self._known.get(key)
        if names is None:
            option = TaskOption.parse(task.name, getattr(task, "global_concurrency", None))
            consumed = queue_named(self._consumer.task_consumer, queue) if queue is not None else None
            names = self._known[key] = candidates(task.name, goes_by(consumed) if consumed else queue, option)
        return names
