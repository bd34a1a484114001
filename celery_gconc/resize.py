"""Changes a worker's pool size at run time, to an absolute number, as far as its pool can.

control (set_local_concurrency) -> Resizer -> pool.grow / pool.shrink, and the prefetch count with it
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery.concurrency.prefork import TaskPool as PreforkPool

from .errors import LimitError

#: How often, in seconds, a pool that could not shrink all the way is looked at again.
RETRY_SECONDS = 0.2


def pool_size(pool: Any) -> int:
    """How many tasks a pool can run at once now. Never kept: autoscale, grow and shrink change it.

    (celery 5.4-5.6: ``num_processes`` of the green pools is the number of tasks that run; ``limit`` is their size.)
    """
    return int((pool.num_processes if isinstance(pool, PreforkPool) else pool.limit) or 0)


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
            kind = type(pool).__module__.rpartition(".")[2]
            raise LimitError(f"the {kind} pool can't change its size while it runs: restart the worker with -c {size}")
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
            return f"pool size was {before}, is {now} now, {pending} pending as tasks end"
        return f"pool size was {before}, is {now} now"

    def go_on(self) -> None:
        """Shrink as far as slots are free. Called whenever a task has ended."""
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
        elif self._consumer.hub is not None:
            self._consumer.hub.call_later(RETRY_SECONDS, self.go_on)

    def _is_one_leaving(self) -> bool:
        """Whether a child was told to go and is still there: billiard 4.2-4.3 would count it twice."""
        processes = getattr(self._consumer.pool, "_pool", None)
        children = getattr(processes, "_pool", None) or ()
        return any(getattr(child, "_controlled_termination", False) for child in children)

    @property
    def _size(self) -> int:
        return pool_size(self._consumer.pool)
