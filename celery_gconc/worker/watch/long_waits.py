"""Warns of tasks that have waited for a permit for longer than ``global_concurrency_wait_warning``.

    tick -> LongWaits.warn -> one line for each set of limits

Thread: the one that may start requests.
"""

from __future__ import annotations

from collections.abc import Iterable

from celery.utils.log import get_logger

from celery_gconc.clock import now
from celery_gconc.limits.claims import Limits
from celery_gconc.worker.ledger.lines import Queued
from celery_gconc.worker.run import Run

logger = get_logger(__name__)


class LongWaits:
    """One worker's."""

    def __init__(self, seconds: float) -> None:
        #: After how many seconds of waiting a line is logged; 0 = never.
        self._seconds = seconds
        #: The sets of limits for which it was, and whose requests still wait so long.
        self._warned: set[Limits] = set()

    def warn(self, queued: Iterable[Queued[Run]]) -> None:
        """Log one line for each set of limits whose requests have begun to wait for too long; once, until none does."""
        if not self._seconds:
            return
        moment = now()
        long = {
            one.limits: one for one in queued if one.first.has_waited and moment - one.first.arrived >= self._seconds
        }
        for limits in long.keys() - self._warned:
            run, others = long[limits].first, long[limits].count - 1
            logger.warning(
                "celery-gconc: %s[%s] has waited %.0f s for a permit under %s%s; `celery gconc explain %s` says why",
                run.task,
                run.task_id,
                moment - run.arrived,
                " and ".join(limits),
                f", and {others} more here" if others else "",
                run.task_id,
                extra={"limits": list(limits), "task_id": run.task_id, "task_name": run.task},
            )
        self._warned = set(long)
