"""What others are told of this worker's limited tasks: signals, task events, a warning of long waits, counters.

Gate (waiting, granted, released), Health (lost leases) -> Observer -> signals, events, Counters
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery.utils.dispatch import Signal
from celery.utils.log import get_logger

from celery_gconc import signals
from celery_gconc.clock import now
from celery_gconc.limits.claims import Limits
from celery_gconc.worker.ledger.lines import Queued
from celery_gconc.worker.run import Run
from celery_gconc.worker.session.counts import Counters
from celery_gconc.worker.session.health import Health, LostLeases

logger = get_logger(__name__)


class Observer:
    """One worker's. What is slow goes to the consumer's thread; :meth:`granted` and :meth:`released` are for any."""

    def __init__(
        self, counters: Counters, health: Health, *, send_event: Callable[..., Any], wait_warning: float
    ) -> None:
        self._counters = counters
        self._lost_leases = LostLeases()
        health.listen(self._lost_leases)
        #: Sends a task event where they are on, else does nothing.
        self._send_event = send_event
        #: After how many seconds of waiting a line is logged; 0 = never.
        self._wait_warning = wait_warning
        #: The sets of limits for which it was, and whose requests still wait so long.
        self._warned: set[Limits] = set()
        self._table: Mapping[str, int] | None = None

    # -- Any thread --------------------------------------------------------------------------------------

    def granted(self, run: Run) -> None:
        """A task that a limit covers goes to the pool."""
        run.granted, run.counted = moment, limits = now(), run.limits
        waited = moment - run.arrived
        self._counters.granted(limits, waited)
        if signals.permit_granted.receivers:
            _send(signals.permit_granted, run, limits, waited=waited, headers=run.request.request_dict)

    def released(self, run: Run) -> None:
        """Its permit is free again."""
        moment = now()
        held = moment - run.granted
        self._counters.released(run.counted, moment, run.granted - run.arrived, held)
        if signals.permit_released.receivers:
            _send(signals.permit_released, run, run.counted, held=held)

    def ran_without_permit(self) -> None:
        """A task that a limit covers goes to the pool while Redis is away."""
        self._counters.count("without_redis")

    # -- The consumer's thread ---------------------------------------------------------------------------

    def waiting(self, run: Run) -> None:
        """A task waits for a permit though a slot is free."""
        if not run.waits:
            return  # it has got it meanwhile
        if signals.permit_waiting.receivers:
            _send(signals.permit_waiting, run, run.limits, headers=run.request.request_dict)
        self._send_event("task-waiting", uuid=run.task_id, name=run.task, limits=list(run.limits))

    def look(self, table: Mapping[str, int]) -> None:
        """There may be news of the limits."""
        while (lost := self._lost_leases.take()) is not None:
            signals.lease_lost.send(sender=lost.session, running=lost.running)
        before, self._table = self._table, table
        if before is None or before is table or not signals.limit_changed.receivers:
            return
        for limit in sorted({*before, *table}):
            if before.get(limit) != table.get(limit):
                signals.limit_changed.send(sender=limit, max=table.get(limit), was=before.get(limit))

    def look_for_long_waits(self, queued: Iterable[Queued[Run]]) -> None:
        """Log one line for each set of limits whose requests have begun to wait for too long; once, until none does."""
        if not self._wait_warning:
            return
        moment = now()
        long = {one.limits: one for one in queued if one.first.waits and self._waits_long(one.first, moment)}
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

    def _waits_long(self, run: Run, moment: float) -> bool:
        return moment - run.arrived >= self._wait_warning


def _send(signal: Signal, run: Run, limits: Limits, **facts: Any) -> None:
    signal.send(sender=run.task, task_id=run.task_id, limits=limits, **facts)
