"""Changes a worker's pool size at run time, to an absolute number, as far as its pool can.

    control (set_local_concurrency) -> Resizer -> pool.grow / pool.shrink, and the prefetch count with it

And keeps Celery's own reckoning of how much there is to do (autoscale, ``worker_disable_prefetch``) right where
requests wait that no further process could start.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery.worker.state import reserved_requests

from celery_gconc.errors import LimitError
from celery_gconc.worker.pool import pool_name, pool_size


class Resizer:
    """One worker's wanted pool size. On the consumer's thread."""

    def __init__(self, consumer: Any, on_resized: Callable[[], None]) -> None:
        self._consumer = consumer
        self._on_resized = on_resized
        self._wanted: int | None = None

    @property
    def pending(self) -> int:
        """How many slots are still to go as their tasks end."""
        return 0 if self._wanted is None else max(self._size - self._wanted, 0)

    def resize(self, size: int) -> str:
        """Grow or shrink the pool to *size*; return what came of it.

        Raises:
            LimitError: this pool, or this worker, can't.
        """
        pool = self._consumer.pool
        if self._consumer.controller.autoscaler:
            raise LimitError(
                "this worker's pool size is a range (--autoscale): change it with 'celery control autoscale MAX MIN'"
            )
        if not hasattr(pool, "grow") or not hasattr(pool, "shrink"):
            raise LimitError(
                f"the {pool_name(pool)} pool can't change its size while it runs: restart the worker with -c {size}"
            )
        before = self._size
        self._wanted = size
        if size > before:
            pool.grow(size - before)
            self._consumer._update_prefetch_count(size - before)
            self._wanted = None
        else:
            self.go_on()
        self._on_resized()
        now, pending = self._size, self.pending
        if pending:
            return f"pool size was {before}, now {now}; {pending} more to go as tasks end"
        return f"pool size was {before}, now {now}"

    def go_on(self) -> None:
        """Shrink as far as slots are free. Called whenever a task has ended, and every now and then."""
        if self._wanted is None:
            return
        before = self._size
        excess = before - self._wanted
        if excess > 0 and not self._is_one_leaving():
            with suppress(ValueError):  # billiard: not so many are free; those that were are gone all the same
                self._consumer.pool.shrink(excess)
            # Celery's own pool_shrink leaves the prefetch count as it was where shrink raises half-way.
            if self._size < before:
                self._consumer._update_prefetch_count(self._size - before)
        if self._size <= self._wanted:
            self._wanted = None

    def _is_one_leaving(self) -> bool:
        """Whether a child was told to go and is still there: billiard 4.2-4.3 would count it twice."""
        processes = getattr(self._consumer.pool, "_pool", None)
        children = getattr(processes, "_pool", None) or ()
        return any(getattr(child, "_controlled_termination", False) for child in children)

    @property
    def _size(self) -> int:
        return pool_size(self._consumer.pool)


def count_only_startable(consumer: Any, stuck: Callable[[], int], would_be_stuck: Callable[[Any], bool]) -> None:
    """Have Celery leave *stuck* requests out where it decides by the number of reserved ones. After each connect.

    They stay reserved, for ``inspect reserved`` and revokes. The autoscaler would grow the pool for them, and
    ``worker_disable_prefetch`` would stop the consumption of every queue because of them.
    """
    autoscaler = consumer.controller.autoscaler
    if autoscaler is not None and not isinstance(autoscaler, _OnlyStartable):
        # celery 5.4-5.7: qty is a property of the class, which worker_autoscaler may name: so a subclass of that one.
        kind = type(autoscaler)
        autoscaler.__class__ = type(kind.__name__, (_OnlyStartable, kind), {"__module__": kind.__module__})
        autoscaler.stuck_requests, autoscaler.would_be_stuck = stuck, would_be_stuck
    if consumer.app.conf.get("worker_disable_prefetch") and consumer.connection.transport.driver_type == "redis":
        # celery 5.6-5.7: the Tasks step has put its own can_consume on this channel just before, in the same way.
        qos = consumer.task_consumer.channel.qos

        def can_consume() -> bool:
            most = getattr(consumer.controller, "max_concurrency", None) or pool_size(consumer.pool)
            return len(reserved_requests) - stuck() < most and bool(type(qos).can_consume(qos))

        qos.can_consume = can_consume


class _OnlyStartable:
    """Mixed into the autoscaler's class."""

    stuck_requests: Callable[[], int]
    would_be_stuck: Callable[[Any], bool]
    _is_coming_stuck = False

    @property
    def qty(self) -> int:
        stuck = self.stuck_requests() + self._is_coming_stuck
        return max(int(super().qty) - stuck, 0)  # type: ignore[misc]

    def maybe_scale(self, req: Any = None) -> None:
        # It is called for each request that is received, before that comes to the gate.
        self._is_coming_stuck = req is not None and self.would_be_stuck(req)
        try:
            super().maybe_scale(req)  # type: ignore[misc]
        finally:
            self._is_coming_stuck = False
