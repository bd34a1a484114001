"""Keeps Celery's own reckoning of its work right where requests wait that no further process could start.

    Celery's autoscaler, ``worker_disable_prefetch`` -> how many requests are stuck -> Gate

Thread: consumer (the autoscaler's own thread asks too).

Both go by the number of reserved requests. Those that wait for a permit stay reserved, for ``inspect reserved`` and
revokes: so the autoscaler would grow the pool for them, and ``worker_disable_prefetch`` would stop the consumption of
every queue because of them. Neither asks anybody, and Celery has no hook for it, hence the two patches below.
"""

from __future__ import annotations

from typing import Any

from celery.worker.state import reserved_requests

from celery_gconc.worker.gate import Gate
from celery_gconc.worker.pool import Pool


def count_only_startable(consumer: Any, pool: Pool, gate: Gate) -> None:
    """Have Celery leave out what is stuck where it decides by the number of reserved requests. After each connect."""
    autoscaler = pool.autoscaler
    if autoscaler is not None and not isinstance(autoscaler, _OnlyStartable):
        # celery 5.4-5.7: qty is a property of the class, which worker_autoscaler may name: so a subclass of that one.
        kind = type(autoscaler)
        autoscaler.__class__ = type(kind.__name__, (_OnlyStartable, kind), {"__module__": kind.__module__})
        autoscaler.gate = gate
    if consumer.app.conf.get("worker_disable_prefetch") and consumer.connection.transport.driver_type == "redis":
        # celery 5.6-5.7: the Tasks step has put its own can_consume on this channel just before, in the same way.
        qos = consumer.task_consumer.channel.qos

        def can_consume() -> bool:
            slots = getattr(consumer.controller, "max_concurrency", None) or pool.size
            return len(reserved_requests) - gate.ledger.stuck() < slots and bool(type(qos).can_consume(qos))

        qos.can_consume = can_consume


class _OnlyStartable:
    """Mixed into the autoscaler's class."""

    gate: Gate
    _is_coming_stuck = False

    @property
    def qty(self) -> int:
        stuck = self.gate.ledger.stuck() + self._is_coming_stuck
        return max(int(super().qty) - stuck, 0)  # type: ignore[misc]

    def maybe_scale(self, req: Any = None) -> None:
        # It is called for each request that is received, before that comes to the gate.
        self._is_coming_stuck = req is not None and self.gate.would_be_stuck(req)
        try:
            super().maybe_scale(req)  # type: ignore[misc]
        finally:
            self._is_coming_stuck = False
