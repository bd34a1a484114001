"""Tells others what happens to this worker's limited tasks: signals, task events, counters.

    Dispatcher (granted, waiting), Runs (released), Health (lost leases) -> Events -> signals, events, Counters

Thread: each method says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.utils.dispatch import Signal

from celery_gconc import signals
from celery_gconc.limits.claims import Limits
from celery_gconc.worker.run import Run
from celery_gconc.worker.session.counts import Counters
from celery_gconc.worker.session.health import Health, LostLeases


class Events:
    """One worker's."""

    def __init__(self, consumer: Any, counters: Counters, health: Health, *, task_events: bool) -> None:
        self._consumer = consumer
        self._counters = counters
        #: Whether task events of ours are on (``global_concurrency_task_events``).
        self._has_task_events = task_events
        self._lost_leases = LostLeases()
        health.listen(self._lost_leases)
        #: The limits that receivers know of. The consumer's thread.
        self._table: Mapping[str, int] | None = None

    # -- Any thread --------------------------------------------------------------------------------------

    def granted(self, run: Run) -> None:
        """A task that a limit covers goes to the pool."""
        waited = run.started_at - run.arrived
        self._counters.granted(run.limits_at_start, waited)
        if signals.permit_granted.receivers:
            headers = run.request.request_dict
            _send(signals.permit_granted, run, run.limits_at_start, waited=waited, headers=headers)

    def released(self, run: Run, moment: float) -> None:
        """Its permit is free again, since this *moment*."""
        held = moment - run.started_at
        self._counters.released(run.limits_at_start, moment, run.started_at - run.arrived, held)
        if signals.permit_released.receivers:
            _send(signals.permit_released, run, run.limits_at_start, held=held)

    def ran_without_permit(self) -> None:
        """A task that a limit covers goes to the pool while Redis is unreachable."""
        self._counters.count("without_redis")

    # -- The consumer's thread ---------------------------------------------------------------------------

    def waiting(self, run: Run) -> None:
        """A task waits for a permit though a slot is free."""
        if not run.has_waited:
            return  # it has got it meanwhile
        if signals.permit_waiting.receivers:
            _send(signals.permit_waiting, run, run.limits, headers=run.request.request_dict)
        if self._has_task_events and (dispatcher := self._consumer.event_dispatcher) and dispatcher.enabled:
            dispatcher.send("task-waiting", uuid=run.task_id, name=run.task, limits=list(run.limits))

    def tell_changes(self, table: Mapping[str, int]) -> None:
        """Tell of leases that were lost, and of limits that have changed since the last call."""
        while (lost := self._lost_leases.take()) is not None:
            signals.lease_lost.send(sender=lost.session, running=lost.running)
        before, self._table = self._table, table
        if before is None or before is table or not signals.limit_changed.receivers:
            return
        for limit in sorted({*before, *table}):
            if before.get(limit) != table.get(limit):
                signals.limit_changed.send(sender=limit, max=table.get(limit), was=before.get(limit))


def _send(signal: Signal, run: Run, limits: Limits, **facts: Any) -> None:
    signal.send(sender=run.task, task_id=run.task_id, limits=limits, **facts)
