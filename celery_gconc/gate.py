"""The gate: decides for each request that the worker has received whether it runs now or is parked.

    message -> Consumer.on_task_request -> Gate.admit -> Ledger (a permit?) -> the pool
    the pool's callbacks -> Gate (ended) -> Ledger -> the next request

It stands at the one funnel through which plain, rate-limited and ETA requests all go on their way to the pool.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.concurrency.base import BasePool
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.exceptions import TaskRevokedError
from celery.utils.log import get_logger

from .ledger import Ledger, Permit, now
from .limits import Limits

logger = get_logger(__name__)

#: Errors that a pool reports while the child that ran the task may still live (billiard runs the callbacks of a
#: hard time limit, and Celery those of a terminate, before the kill): the permit is free when the child is gone.
_BEFORE_DEATH = (TimeLimitExceeded, Terminated, WorkerLostError, SystemExit, KeyboardInterrupt)


class Watcher(Protocol):
    """What the gate tells about requests that wait (the intake)."""

    def parked(self, run: Run) -> None: ...
    def unparked(self, run: Run) -> None: ...


class Run:
    """One request on its way through the gate: its callbacks are ours for as long as it lives.

    The hooks stand on the request *instance*: ``create_request_cls`` makes a subclass whose ``on_success`` and
    ``execute_using_pool`` don't call super (celery 3.1 to 5.7), so no ``Task.Request`` class could see them.
    """

    __slots__ = ("arrived", "ended", "gate", "limits", "names", "permit", "queue", "request")

    def __init__(self, gate: Gate, request: Any, names: Limits, limits: Limits, queue: str | None) -> None:
        self.gate = gate
        self.request = request
        self.names = names
        self.limits = limits
        self.queue = queue
        self.permit: Permit | None = None
        self.arrived = 0.0
        self.ended = False

    @property
    def task_id(self) -> str:
        """The id of the task."""
        return str(self.request.id)

    @property
    def task(self) -> str:
        """The registered name of the task."""
        return str(self.request.task.name)

    def hook(self) -> None:
        """Take the request's callbacks over. They are looked up on the instance when it goes to the pool."""
        request = self.request
        request.execute_using_pool = self.execute_using_pool
        request.on_accepted = self.on_accepted
        request.on_success = self.on_success
        request.on_failure = self.on_failure
        request.on_timeout = self.on_timeout

    def unhook(self) -> None:
        """Give the callbacks back, which also breaks the reference cycle."""
        attributes = self.request.__dict__
        for name in ("execute_using_pool", "on_accepted", "on_success", "on_failure", "on_timeout"):
            attributes.pop(name, None)

    def execute_using_pool(self, pool: BasePool, **kwargs: Any) -> Any:
        """Hand the request to the pool; revoked or refused, it ends here."""
        request = self.request
        try:
            return type(request).execute_using_pool(request, pool, **kwargs)
        except TaskRevokedError:  # swallowed by WorkController._process_task
            self.gate.end(self)
            raise
        except BaseException:
            self.gate.end(self)
            raise

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The task starts in the child *pid*."""
        request = self.request
        try:
            type(request).on_accepted(request, pid, time_accepted)
        finally:
            if self.permit is not None:
                self.gate.accepted(self, pid)

    def on_success(self, *args: Any, **kwargs: Any) -> Any:
        """A result has come from the task, good or bad: it runs no more."""
        self.gate.release(self)
        request = self.request
        try:
            return type(request).on_success(request, *args, **kwargs)
        finally:
            self.gate.end(self)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """The task failed, or the pool lost it."""
        exc = exc_info.exception
        exc = getattr(exc, "exc", exc)  # celery and billiard: ExceptionWithTraceback
        dying = isinstance(exc, _BEFORE_DEATH) and self.gate.may_still_run(self)
        if not dying:
            self.gate.release(self)
        request = self.request
        try:
            return type(request).on_failure(request, exc_info, *args, **kwargs)
        finally:
            if not dying:
                self.gate.end(self)

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """A time limit has passed: after a hard one the child is killed, but only after this call."""
        request = self.request
        try:
            return type(request).on_timeout(request, soft, timeout)
        finally:
            if not soft and not self.gate.may_still_run(self):
                self.gate.end(self)


@dataclass(frozen=True, slots=True)
class GateCounts:
    """How many requests are where, for ``inspect stats``."""

    running: int
    parked: int
    ready: int


class Gate:
    """One worker's gate. Requests are started on the consumer's thread only; they may end on any."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: BasePool,
        start: Callable[[Any], None],
        names_of: Callable[[Any], tuple[Limits, str | None]],
        watcher: Watcher,
        watch_child: Callable[[int], None],
        wake: Callable[[], None],
        runs_unlimited: Callable[[], bool],
        starts_when_ended: bool,
    ) -> None:
        self.ledger = ledger
        self.pool = pool
        self._start = start
        self._names_of = names_of
        self._watcher = watcher
        self._watch_child = watch_child
        self._wake = wake
        self._runs_unlimited = runs_unlimited
        self._starts_when_ended = starts_when_ended
        self._has_children = isinstance(pool, PreforkPool)
        #: Uncovered requests that wait for a slot; in use only while covered ones wait too.
        self._ready: deque[Run] = deque()
        self._is_pumping = False
        self._is_closed = False
        #: How many tasks ran without a permit while Redis was away (``global_concurrency_on_redis_error="run"``).
        self.unlimited_runs = 0

    # -- The consumer's thread ---------------------------------------------------------------------------

    def admit(self, request: Any) -> None:
        """Run a request now, or park it. Takes the place of ``Consumer.on_task_request``."""
        names, queue = self._names_of(request)
        ledger = self.ledger
        limits = ledger.covering(names)
        run = Run(self, request, names, limits, queue)
        run.hook()
        if not limits:
            if (self._ready or not ledger.is_quiet) and self.free_slots <= 0:
                run.arrived = now()
                self._ready.append(run)
            else:
                self._run(run)
            return
        run.arrived = now()
        if self.free_slots > 0 and not self._ready and ledger.take(run):
            self._dispatch(run)
            return
        ledger.set_room(self.free_slots)
        ledger.wait(run)
        self._watcher.parked(run)
        if self._runs_unlimited():
            self.pump()

    def pump(self) -> None:
        """Start what can be started now, first come, first served. Harmless when there is nothing."""
        if self._is_pumping or self._is_closed:
            return
        self._is_pumping = True
        try:
            for run in self.ledger.uncovered():
                assert isinstance(run, Run)
                self._watcher.unparked(run)
                self._ready.append(run)
            while (run := self._next()) is not None:
                self._discard(run) if _is_revoked(run) else self._dispatch(run)
            self.ledger.set_room(self.free_slots)
        finally:
            self._is_pumping = False

    def sweep(self) -> None:
        """Let go of parked requests that were revoked or have expired since."""
        for run in self.ledger.waiting():
            assert isinstance(run, Run)
            if _is_revoked(run):
                self.ledger.leave(run)
                self._watcher.unparked(run)
                run.unhook()

    def drop_parked(self) -> None:
        """The broker's connection is gone: what waits here was never started, and the broker delivers it again."""
        for run in self.ledger.waiting():
            assert isinstance(run, Run)
            self.ledger.leave(run)
            run.unhook()
        self._ready.clear()

    def drop_unaccepted(self) -> None:
        """After a lost connection: ``pool.flush`` has thrown away jobs that no child had accepted, without a call."""
        if not self._has_children:
            return
        cache = self.pool._pool._cache if self.pool._pool is not None else {}
        for run in list(self.ledger.running):
            assert isinstance(run, Run)
            result = run.request._apply_result() if run.request._apply_result is not None else None
            if not run.request.time_start and (result is None or result._job not in cache):
                self.end(run)

    def close(self) -> None:
        """Start nothing any more: the worker shuts down. Parked messages go back with the broker's connection."""
        self._is_closed = True
        self.drop_parked()
        self.ledger.finish()

    # -- Any thread --------------------------------------------------------------------------------------

    @property
    def free_slots(self) -> int:
        """How many tasks the pool could start now, by its present size."""
        return int(self.pool.num_processes or 0) - len(self.ledger.running)

    @property
    def counts(self) -> GateCounts:
        """How many requests are where."""
        return GateCounts(len(self.ledger.running), self.ledger.count_waiting(), len(self._ready))

    def running_with_permits(self) -> list[Run]:
        """The tasks that run under limits."""
        with self.ledger.lock:
            return [run for run in self.ledger.running if isinstance(run, Run) and run.permit is not None]

    def may_still_run(self, run: Run) -> bool:
        """Whether the child that had the task may still be alive: then its exit ends the run, and nothing before."""
        pid = run.request.worker_pid
        if not self._has_children or pid is None or pid == os.getpid():
            return False
        self._watch_child(pid)
        return True

    def accepted(self, run: Run, pid: int) -> None:
        """A task with a permit started in a child: its exit is to be noticed at once."""
        if self._has_children and pid != os.getpid():
            self._watch_child(pid)

    def child_exited(self, pid: int) -> None:
        """A child is gone, and whatever it ran with it. On the link's thread."""
        with self.ledger.lock:
            lost = [run for run in self.ledger.running if isinstance(run, Run) and run.request.worker_pid == pid]
        for run in lost:
            self.release(run)
            run.unhook()
        if lost:
            self._wake()

    def release(self, run: Run) -> None:
        """A task runs no more: its permit is free. Any further call for the same run does nothing."""
        with self.ledger.lock:
            if run.ended:
                return
            run.ended = True
            self.ledger.ended(run)
        if not self._starts_when_ended and (self._ready or not self.ledger.is_quiet):
            self._wake()

    def end(self, run: Run) -> None:
        """A request is done with altogether; the next may start."""
        self.release(run)
        run.unhook()
        if self._starts_when_ended and (self._ready or not self.ledger.is_quiet):
            self.pump()

    # -- Its own -----------------------------------------------------------------------------------------

    def _next(self) -> Run | None:
        """The next request to start, in order of arrival, out of its line; None where there is none or no slot."""
        free = self.free_slots
        if free <= 0:
            return None
        ledger = self.ledger
        covered = ledger.peek()
        if covered is None and self._runs_unlimited():
            covered = self._next_unlimited()
        assert covered is None or isinstance(covered, Run)
        while self._ready:
            run = self._ready[0]
            run.limits = ledger.covering(run.names)
            if not run.limits:
                break
            self._ready.popleft()  # a limit began while it waited for its slot
            ledger.wait(run)
            self._watcher.parked(run)
        if self._ready and (covered is None or self._ready[0].arrived < covered.arrived):
            # Redis would grant a permit if there were room: one free slot is kept for the round trip to say so.
            if covered is None and ledger.holds_slot and free == 1:
                return None
            run = self._ready.popleft()
            ledger.started(run)
            return run
        if covered is None:
            return None
        if covered not in ledger.running:
            ledger.next(covered)
        self._watcher.unparked(covered)
        return covered

    def _next_unlimited(self) -> Run | None:
        """Redis is away and tasks are to run all the same: the one that waits longest."""
        waiting = self.ledger.waiting()
        if not waiting:
            return None
        run = min(waiting, key=lambda run: run.arrived)
        assert isinstance(run, Run)
        self.ledger.leave(run)
        self.ledger.started(run)
        self.unlimited_runs += 1
        logger.info("celery-gconc: task %s[%s] runs without a permit: Redis is away", run.task, run.task_id)
        return run

    def _run(self, run: Run) -> None:
        self.ledger.started(run)
        self._dispatch(run)

    def _dispatch(self, run: Run) -> None:
        try:
            self._start(run.request)
        except BaseException:
            self.end(run)
            raise

    def _discard(self, run: Run) -> None:
        self.ledger.ended(run)
        run.ended = True
        run.unhook()


def _is_revoked(run: Run) -> bool:
    """Whether a parked request is not to be run any more. (Celery acknowledges and announces it on this call.)"""
    return bool(run.request.revoked())
