"""The pool of one worker: of which kind it is, how many tasks it can run, what it can do, and how to resize it.

Thread: any reads; the consumer's resizes.

Everything that is known of Celery's pools, and of billiard's inside, is known here.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from typing import Any

from celery.concurrency.base import BasePool

from celery_gconc.errors import LimitError, SettingError

#: The names by which ``celery worker -P`` knows Celery's pools, by their modules in ``celery.concurrency``.
KINDS = {"prefork": "prefork", "thread": "threads", "gevent": "gevent", "eventlet": "eventlet", "solo": "solo"}


class Pool:
    """One worker's pool, as its ledger, gate and session ask for it.

    Raises:
        SettingError: the pool isn't Celery's own (``-P custom``) and doesn't follow Celery's interface, so nobody could
            know when its tasks end, or how many it can run.
    """

    def __init__(self, consumer: Any) -> None:
        check_pool(consumer.pool)
        self._consumer = consumer
        #: Celery's own object. It stays the same for the worker's life, through ``pool_restart`` too.
        self.pool: BasePool = consumer.pool
        #: Which of Celery's pools it is, or is derived from; empty for one that is made from scratch.
        self.kind = _kind_by_class(type(self.pool))  # type: ignore[arg-type]
        #: The name by which ``celery worker -P`` knows it; of one that isn't Celery's own, its class.
        self.name = _own_kind(type(self.pool)) or type(self.pool).__qualname__
        #: Whether tasks run in processes of their own, which can die with them.
        self.has_children = self.kind == "prefork"
        #: Whether tasks run on the consumer's thread, so that its loop stands still meanwhile.
        self.blocks_loop = self.kind == "solo"
        #: Whether a pool that gives nothing back has run the task (solo), or takes none any more (prefork, closed).
        self.runs_inline = self.kind in ("prefork", "solo")
        #: Whether the next request may be started from the callback that ends one. (Not in green pools, whose slot
        #: is free only after the callback; not in solo, where the next would run inside it.)
        self.starts_when_ended = self.kind in ("prefork", "threads")
        #: Whether the callbacks that end requests run on the consumer's thread.
        self.ends_on_consumer_thread = self.has_children and consumer.hub is not None
        #: Whether a task can be terminated while it runs.
        self.can_terminate = self.kind in ("prefork", "gevent", "eventlet")
        #: Whether nothing can be started at present, because the event loop stands still. Written by the stall watch.
        self.is_stalled = False
        #: The size that was asked for, while tasks still run in the slots that are too many. The consumer's thread's.
        self._wanted: int | None = None
        self._pid = os.getpid()

    # -- Its size ----------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many tasks it can run at once now. Never kept: autoscale, grow and shrink change it.

        (celery 5.4-5.6: ``num_processes`` of the green pools is the number of tasks that run; ``limit`` is their size.)
        """
        if self.has_children:
            return 0 if self._processes is None else int(self.pool.num_processes)
        return self.pool.limit or 0

    @property
    def startable(self) -> int:
        """How many tasks it can run at once, where the worker can start any at all."""
        if self.is_stalled:
            return 0
        return self.size if self.has_children else self.pool.limit or 0

    @property
    def growth(self) -> int | None:
        """By how many slots the autoscaler may still grow it; None where there is none."""
        autoscaler = self.autoscaler
        return None if autoscaler is None else max(int(autoscaler.max_concurrency) - self.size, 0)

    @property
    def autoscaler(self) -> Any:
        """Celery's, if the worker has one (``--autoscale``)."""
        return self._consumer.controller.autoscaler

    @property
    def pending(self) -> int:
        """How many slots are still to go as their tasks end."""
        return 0 if self._wanted is None else max(self.size - self._wanted, 0)

    def resize(self, size: int) -> str:
        """Grow or shrink it to *size*, as far as slots are free; return what came of it.

        Raises:
            LimitError: this pool, or this worker, can't.
        """
        pool: Any = self.pool
        if self.autoscaler:
            raise LimitError(
                "this worker's pool size is a range (--autoscale): change it with 'celery control autoscale MAX MIN'"
            )
        if not hasattr(pool, "grow") or not hasattr(pool, "shrink"):
            raise LimitError(
                f"the {self.name} pool can't change its size while it runs: restart the worker with -c {size}"
            )
        before = self.size
        self._wanted = size
        if size > before:
            pool.grow(size - before)
            self._consumer._update_prefetch_count(size - before)
            self._wanted = None
        else:
            self.shrink_on()
        now, pending = self.size, self.pending
        if pending:
            return f"pool size was {before}, now {now}; {pending} more to go as tasks end"
        return f"pool size was {before}, now {now}"

    def shrink_on(self) -> None:
        """Shrink to the wanted size as far as slots are free. Called whenever a task has ended, and now and then."""
        if self._wanted is None:
            return
        before = self.size
        excess = before - self._wanted
        if excess > 0 and not self._is_one_leaving():
            pool: Any = self.pool
            with suppress(ValueError):  # billiard: fewer are free; those that were are gone all the same
                pool.shrink(excess)
            # Celery's own pool_shrink leaves the prefetch count as it was where shrink raises half-way.
            if self.size < before:
                self._consumer._update_prefetch_count(self.size - before)
        if self.size <= self._wanted:
            self._wanted = None

    def _is_one_leaving(self) -> bool:
        """Whether a child is on its way out: billiard 4.2-4.3 would count it twice."""
        children = getattr(self._processes, "_pool", None) or ()
        return any(getattr(child, "_controlled_termination", False) for child in children)

    # -- Inside prefork ----------------------------------------------------------------------------------

    @property
    def _processes(self) -> Any:
        """The pool inside, billiard's; None before it is made and once it is stopped (celery 5.4-5.7)."""
        return getattr(self.pool, "_pool", None)

    @property
    def is_stopped(self) -> bool:
        """Whether its children have been joined or killed."""
        return self.has_children and self._processes is None

    def is_child(self, pid: int | None) -> bool:
        """Whether a task that was accepted by this process runs in a child of the pool."""
        return self.has_children and pid is not None and pid != self._pid

    def result_pipes(self) -> dict[int, int]:
        """The pid of each child by the descriptor of the pipe that its results come from (celery 5.4-5.7)."""
        pipes = dict(getattr(self._processes, "_fileno_to_outq", {}))  # those that the event loop reads
        return {fd: child.pid for fd, child in pipes.items()}

    def take_thrown_away(self, job: Any, *, is_accepted: bool) -> bool:
        """Whether the pool has thrown a job away before any child had read it: then nobody calls for its end.

        ``Consumer.on_close`` calls ``pool.flush``, which also forgets jobs that children run: celery 5.4 all, celery
        5.7 those of whose start it has not read yet. Such a job is put back, so that it is acknowledged, its end is
        heard of, and a shutdown waits for it. On the consumer's thread.
        """
        processes = self._processes
        if not self.has_children or processes is None:
            return False
        if job is None:
            return True  # it stood in Celery's own semaphore, which on_close has cleared
        if job._write_to is not None and job._write_to._is_alive():
            processes._cache[job._job] = job
        elif not is_accepted:
            processes._cache.pop(job._job, None)
            return True
        return False


def check_pool(pool: Any) -> None:
    """See to it that a pool that isn't Celery's own (``-P custom``) follows Celery's interface.

    Raises:
        SettingError: nobody could know when its tasks end, or how many it can run.
    """
    name = f"{type(pool).__module__}:{type(pool).__qualname__}"
    instead = "use -P prefork, threads, gevent or solo (worker_pool)"
    if not isinstance(pool, BasePool):
        raise SettingError(
            f"the pool {name} is not a celery.concurrency.base.BasePool: there is no way to know when its tasks end, "
            f"so limits can't be enforced; {instead}"
        )
    if not isinstance(pool.limit, int):
        raise SettingError(
            f"the pool {name} doesn't say how many tasks it runs at once (its 'limit' is {pool.limit!r}), so limits "
            f"can't be enforced; {instead}"
        )


@lru_cache
def _kind_by_class(cls: type) -> str:
    # By module: importing gevent's here would load gevent, and not every Python has what prefork's needs.
    return next(filter(None, map(_own_kind, cls.__mro__)), "")


def _own_kind(cls: type) -> str:
    package, _, module = cls.__module__.rpartition(".")
    return KINDS.get(module, "") if package == "celery.concurrency" else ""
