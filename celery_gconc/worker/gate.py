"""The gate: decides for each request that the worker has received whether it runs now or is parked.

    message -> Consumer.on_task_request -> Gate.admit -> Ledger (a permit?) -> the pool
    the pool's callbacks -> Gate (ended) -> Ledger -> the next request

It stands at the one funnel through which plain, rate-limited and ETA requests all go on their way to the pool.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from celery.utils.log import get_logger
from celery.worker import state

from celery_gconc.clock import now
from celery_gconc.limits.claims import Limits
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.rounds import Rounds
from celery_gconc.worker.run import Run

logger = get_logger(__name__)

#: How many requests change their state in one turn of the event loop at most: some milliseconds' worth.
MOST_AT_ONCE = 500

#: In how many sweeps each request that is held is looked at, where the broker doesn't want to hear of it more often.
ROUND_SWEEPS = 120.0


#: How long, in seconds, a purge waits for another thread that starts requests.
PURGE_SECONDS = 0.1


class Watcher(Protocol):
    """What the gate tells about requests that are not started (the intake)."""

    def parked(self, run: Run) -> None:
        """A request waits for a permit though a slot is free."""

    def unparked(self, run: Run) -> None:
        """A request waits no more."""

    def holds_for(self, name: str | None) -> float | None:
        """For how many seconds at most a message of a queue may be held, if there is a bound."""

    @property
    def keep_seconds(self) -> float | None:
        """How often the broker is to hear that a message is held; None = never."""

    def keep(self, runs: Collection[Run]) -> None:
        """These are held, whether a slot is free or not."""

    def give_back(self, runs: Sequence[Run]) -> None:
        """These go back to the broker, in this order."""

    def may_move(self, run: Run) -> bool:
        """Whether a request may go back to its queue for other workers to take."""

    def move(self, runs: Sequence[Run]) -> None:
        """These do, in this order; their queues are left alone."""

    def take_up(self, names: Iterable[str]) -> None:
        """These queues are left alone no more."""

    def take_surplus(self) -> list[Run]:
        """Requests that came though their queue is stopped, and may not wait here. Each is told once."""

    def put_back(self, runs: Sequence[Run]) -> None:
        """These go back, in this order; nothing else changes."""

    def end(self, *, reading: bool) -> None:
        """Nothing is taken any more; where *reading*, what is under way comes now."""

    @property
    def wants_more(self) -> bool:
        """Whether :meth:`resume` is to be called when nothing is more urgent."""

    def resume(self) -> None:
        """Fetch more."""


class Audience(Protocol):
    """Who is told what happens to requests that a limit covers (the observer)."""

    def waiting(self, run: Run) -> None:
        """A request waits for a permit though a slot is free. On the consumer's thread."""

    def granted(self, run: Run) -> None:
        """A request goes to the pool with a permit."""

    def released(self, run: Run) -> None:
        """Its permit is free again."""

    def ran_without_permit(self) -> None:
        """A request that a limit covers goes to the pool without a permit: Redis is away."""


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
        ledger: Ledger[Run],
        pool: Pool,
        start: Callable[[Any], None],
        names_of: Callable[[Any], tuple[Limits, str | None]],
        watcher: Watcher,
        audience: Audience,
        watch_child: Callable[[int], None],
        wake: Callable[[], None],
        runs_unlimited: Callable[[], bool],
        later: Callable[[Callable[[], None]], None],
        keep_turning: Callable[[], None],
    ) -> None:
        self.ledger = ledger
        self.pool = pool
        self._start = start
        self._names_of = names_of
        self._watcher = watcher
        self._audience = audience
        self._watch_child = watch_child
        self._wake = wake
        self._runs_unlimited = runs_unlimited
        #: Runs something on the consumer's thread in a moment, when what was started has reached the pool.
        self._later = later
        #: Has the consumer's thread come round again where it may be about to sleep with requests that are due.
        self._keep_turning = keep_turning
        self.runs_inline = pool.runs_inline
        #: Uncovered requests that wait for a slot; in use only while covered ones wait too.
        self._ready: deque[Run] = deque()
        #: All that are held here and not started.
        self._rounds = Rounds()
        #: Those of them that have waited only while no slot was free.
        self._unnoted: OrderedDict[Run, Any] = OrderedDict()
        #: The queues of which all that may goes back, in some turns.
        self._moving: frozenset[str] = frozenset()
        #: What the watcher is still to be told: it talks to the broker, so on the consumer's thread only.
        self._notes: deque[tuple[Callable[[Run], None], Run]] = deque()
        self._pumping = threading.Lock()
        self._is_pump_wanted = False
        self._is_closed = False
        #: What came after the end: it goes back.
        self._late: list[Run] = []
        #: How many tasks ran without a permit while Redis was away (``global_concurrency_on_redis_error="run"``).
        self.unlimited_runs = 0
        #: Those of them that run.
        self._unlimited: set[Run] = set()

    # -- The consumer's thread ---------------------------------------------------------------------------

    def admit(self, request: Any) -> None:
        """Run a request now, or park it. Takes the place of ``Consumer.on_task_request``."""
        names, queue = self._names_of(request)
        ledger = self.ledger
        limits = ledger.covering(names)
        run = Run(self, request, names, limits, queue)
        if self._is_closed:
            self._late.append(run)
            return
        run.hook()
        if not limits:
            if (self._ready or ledger.waiting_count) and self.free_slots <= 0:
                self._arrive(run)
                run.may_move = self._watcher.may_move(run)
                self._rounds.add(run)
                self._ready.append(run)
                ledger.reserve(len(self._ready))
                self._keep_turning()
                return
            if ledger.start_uncovered(run):
                self._dispatch(run)
                return
        self._arrive(run)
        if not self._ready and ledger.take(run):
            self._dispatch(run)
            return
        run.may_move = self._watcher.may_move(run)
        self._park(run)
        self._keep_turning()
        self._tell_watcher()
        if not run.limits or self._runs_unlimited():
            self.pump()

    def pump(self) -> None:
        """Start what can be started now, first come, first served. Harmless when there is nothing."""
        self._start_next()
        self._move()
        self._tell_watcher(in_a_moment=True)

    def sweep(self, seconds: float) -> list[Run]:
        """Let go of parked requests that were revoked or have expired since; keep the others, or give them back.

        Called every so many seconds. Returns those that were looked at: some in turn, where many are held. Those that
        have no slot either are let go at their turn, as in plain Celery.
        """
        has_slot = self.free_slots > 0
        every = self._watcher.keep_seconds
        looked_at = self._rounds.next(ROUND_SWEEPS if every is None else min(every / 2 / seconds, ROUND_SWEEPS))
        for run in [*self._rounds.ended(), *looked_at] if has_slot else ():
            if self.ledger.is_waiting(run) and run.is_revoked and self.ledger.leave(run):
                self._unpark(run)
                run.unhook()
        if every is not None:
            moment = now()
            due = [run for run in looked_at if moment - run.kept >= every]
            for run in due:
                run.kept = moment
            if due:
                self._watcher.keep(due)
        self._give_back_overdue(looked_at)
        self._tell_watcher()
        return looked_at

    def purge(self, limit: str, most: int) -> int:
        """Discard requests that wait here and that a limit covers, or would if it were set; return how many.

        Each ends as REVOKED, as those do that are revoked one by one. *most* at once, for that takes its time.
        """
        if not self._pumping.acquire(timeout=PURGE_SECONDS):
            return 0  # called from within: a message was read while another was written
        try:
            self._ready.extend(self.ledger.uncovered())
            parked = [run for run in self.ledger.waiting() if limit in run.names][:most]
            ready = [run for run in self._ready if limit in run.names][: most - len(parked)]
            gone = set(ready)
            self._ready = deque(run for run in self._ready if run not in gone)
            self.ledger.reserve(len(self._ready))
            found = [*(run for run in parked if self.ledger.leave(run)), *ready]
        finally:
            self._pumping.release()
        for run in found:
            self._unpark(run)
            run.unhook()
            run.purge()
        self._wake()
        return len(found)

    def connection_lost(self) -> None:
        """The broker's connection is gone: what was not started here is dropped, for the broker delivers it again."""
        for run in self._take_unstarted():
            run.unhook()
        self._notes.clear()
        self._moving = frozenset()
        for run in self._take_forgotten():
            self.end(run)

    def close(self, *, by_consumer: bool = True) -> None:
        """Start nothing any more: the worker shuts down. What was not started goes back to its queues, in order.

        May be called early by another thread that starts requests, and once more on the consumer's: then what came
        in between goes back too.
        """
        if self._is_closed and not by_consumer:
            return
        self._is_closed = True
        self._watcher.end(reading=by_consumer)
        forgotten = self._take_forgotten() if by_consumer else []
        for run in forgotten:
            self.release(run)
        unstarted, self._late = [*forgotten, *self._take_unstarted(), *self._late], []
        self.ledger.stop()
        self._give_back(unstarted)

    def pool_stopped(self) -> None:
        """The pool has been joined or killed: a job that it took and never wrote to a child ends without a call."""
        if self.pool.is_stopped:
            for run in self.ledger.running():
                self.release(run)
                run.unhook()

    # -- Any thread --------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether nothing is started any more."""
        return self._is_closed

    @property
    def is_shutting_down(self) -> bool:
        """Whether Celery has been told to stop, and will as soon as its loop comes round (celery 5.4-5.7)."""
        return any(flag is not None and flag is not False for flag in (state.should_stop, state.should_terminate))

    @property
    def free_slots(self) -> int:
        """How many tasks the pool could start now, by its present size."""
        return self.ledger.free_slots

    @property
    def session(self) -> str:
        """The session whose permits are given."""
        return self.ledger.session

    @property
    def counts(self) -> GateCounts:
        """How many requests are where."""
        return GateCounts(self.ledger.running_count, self.ledger.waiting_count, len(self._ready))

    def would_be_stuck(self, request: Any) -> bool:
        """Whether a request that is to come would wait for others to end, however many slots there were."""
        limits = self.ledger.covering(self._names_of(request)[0])
        return bool(limits) and self.ledger.is_stuck(limits)

    def where(self, task_id: str) -> dict[str, Any]:
        """What this worker does with a task: empty where the gate doesn't have it. For ``inspect``."""
        running = self.ledger.running()
        parked = sorted(self.ledger.waiting(), key=lambda run: run.arrived)
        for state_, runs in (("running", running), ("parked", parked), ("waits for a slot", list(self._ready))):
            for number, run in enumerate(runs):
                if run.task_id == task_id:
                    before = runs[:number] if state_ != "running" else []
                    shared = [one for one in before if not set(run.limits).isdisjoint(one.limits)]
                    return {
                        "state": "waits for a slot" if state_ == "parked" and self.free_slots <= 0 else state_,
                        "task": run.task,
                        "limits": list(run.limits),
                        "waited": (run.granted or now()) - run.arrived if run.arrived else 0.0,
                        "ahead": len(shared if run.limits else before),
                    }
        return {}

    def running_with_permits(self) -> list[Run]:
        """The tasks that run under limits."""
        return self.ledger.covered()

    def running_on_lease(self, *, ends_within: float | None = None) -> list[Run]:
        """The tasks that were started with a permit; none where the lease ends no sooner than in so many seconds."""
        return [run for run in self.ledger.covered(ends_within) if run not in self._unlimited]

    def may_still_run(self, run: Run) -> bool:
        """Whether the child that had the task may still be alive: then its exit ends the run, and nothing before."""
        pid = run.request.worker_pid
        if not self.pool.is_child(pid):
            return False
        self._watch_child(pid)
        return True

    def accepted(self, run: Run, pid: int) -> None:
        """A task with a permit started in a child: its exit is to be noticed at once."""
        if self.pool.is_child(pid):
            self._watch_child(pid)

    def child_exited(self, pid: int) -> None:
        """A child is gone, and whatever it ran with it. On the link's thread."""
        lost = [run for run in self.ledger.running() if run.request.worker_pid == pid]
        for run in lost:
            self.release(run)
            run.unhook()
        if lost:
            self._wake()

    def busy_pipes(self) -> dict[int, int]:
        """The result pipes of the pool's children that run a task with a permit: the job's number by descriptor.

        By the job, not the child: it may have another one by the time at which something is seen to be written.
        """
        busy = {run.request.worker_pid: run.job for run in self.running_with_permits() if run.request.time_start}
        pipes = self.pool.result_pipes().items()
        return {fd: job._job for fd, pid in pipes if (job := busy.get(pid)) is not None}

    def result_written(self, job: int) -> None:
        """A job's task has ended, though its result is not read yet: its permit is free. On the link's thread."""
        for run in self.running_with_permits():
            if run.job is not None and run.job._job == job:
                self.release(run)

    def release(self, run: Run) -> bool:
        """A task runs no more: its permit and its slot are free. Return false where that was known before."""
        if not self.ledger.ended(run):
            return False
        run.ended = True
        self._unlimited.discard(run)
        if run.granted:
            self._audience.released(run)
        return True

    def succeed(self, run: Run) -> None:
        """A task runs no more: the next starts, before the callbacks of this one take their time."""
        if self.release(run) and (self._ready or self.ledger.waiting_count):
            if self.pool.starts_when_ended:
                self._start_next()
            else:
                self._wake()

    def end(self, run: Run) -> None:
        """A request is done with altogether."""
        self.succeed(run)
        run.unhook()
        if self.pool.ends_on_consumer_thread:
            self._tell_watcher(in_a_moment=True)
        elif self._notes:
            self._wake()
        self.ledger.watch_idle()

    # -- Its own -----------------------------------------------------------------------------------------

    def _start_next(self) -> None:
        """Start what can be started. Where another thread is at it, that one looks once more."""
        self._is_pump_wanted = True
        while self._is_pump_wanted and self._pumping.acquire(blocking=False):
            try:
                self._is_pump_wanted = False
                if not self._is_closed and not self.is_shutting_down:
                    self._start_all()
            finally:
                self._pumping.release()

    def _start_all(self) -> None:
        ledger = self.ledger
        self._ready.extend(ledger.uncovered())
        while (run := self._next()) is not None:
            self._discard(run) if run.is_revoked else self._dispatch(run)
        ledger.reserve(len(self._ready))
        if ledger.waiting_count:
            ledger.slots_changed()
            if self.free_slots > 0:
                self._note_waits()

    def _take_unstarted(self) -> list[Run]:
        """Every request that waits here, for a permit or for a slot, out of its line; in order of arrival."""
        unstarted = [*self.ledger.leave_all(), *self.ledger.uncovered(), *self._ready]
        self._ready.clear()
        self._unnoted.clear()
        self._rounds.clear()
        self.ledger.reserve(0)
        return sorted(unstarted, key=lambda run: run.arrived)

    def _take_forgotten(self) -> list[Run]:
        """Every run whose job the pool has thrown away, without a call, before any child had read it."""
        return [
            run
            for run in self.ledger.running()
            if self.pool.take_thrown_away(run.job, is_accepted=bool(run.request.time_start))
        ]

    def _give_back(self, runs: Sequence[Run]) -> None:
        self._let_go(runs)
        self._watcher.give_back(runs)

    def _let_go(self, runs: Iterable[Run]) -> None:
        """These leave, unstarted: to Celery, they were never here."""
        for run in runs:
            self._unpark(run)
            run.unhook()
            state.task_ready(run.request)
        self._tell_notes()

    def _move(self) -> None:
        """Give back what waits here for a slot where Redis has answered that another worker has one."""
        answer = self.ledger.take_answer()
        if self._is_closed or self.is_shutting_down:
            return
        if answer is not None:
            self._moving = answer.elsewhere
            self._watcher.take_up(answer.asked - answer.elsewhere)
        if not self._moving or self.free_slots > 0:
            self._moving = frozenset()
            return
        runs = self.ledger.take_out(self._moving, MOST_AT_ONCE)
        if len(runs) < MOST_AT_ONCE:
            self._moving = frozenset()
        else:
            self._wake()  # those before them go in the next turn
        if runs:
            self._let_go(runs)
            self._watcher.move(runs)
            logger.debug("celery-gconc: gave %d messages back, which other workers have room for", len(runs))

    def _give_back_overdue(self, looked_at: Iterable[Run]) -> None:
        """Give parked requests back that the broker delivered too long ago, with the others of their queues.

        They come again, and find a place behind those that wait in other workers.
        """
        moment, overdue = now(), set()
        bounds: dict[str | None, float | None] = {}
        for run in looked_at:
            if run.queue not in bounds:
                bounds[run.queue] = self._watcher.holds_for(run.queue)
            most = bounds[run.queue]
            if most is not None and moment - run.delivered_at >= most and self.ledger.is_waiting(run):
                overdue.add(run.queue)
        if overdue:
            runs = [run for run in self.ledger.waiting() if run.queue in overdue and self.ledger.leave(run)]
            self._give_back(sorted(runs, key=lambda run: run.arrived))

    def _tell_notes(self) -> None:
        while self._notes:
            tell, run = self._notes.popleft()
            tell(run)

    def _tell_watcher(self, *, in_a_moment: bool = False) -> None:
        self._tell_notes()
        surplus = [run for run in self._watcher.take_surplus() if self.ledger.leave(run)]
        if surplus:
            self._let_go(surplus)
            self._watcher.put_back(surplus)
        if self._watcher.wants_more:
            if in_a_moment:
                self._later(self._watcher.resume)
            else:
                self._watcher.resume()

    def _next(self) -> Run | None:
        """The next request to start, in order of arrival, out of its line; None where there is none or no slot."""
        uncovered = self._first_uncovered()
        run = self.ledger.next(before=uncovered.arrived if uncovered is not None else None)
        if run is None and self._runs_unlimited():
            run = self._next_unlimited()
        if run is not None:
            self._unpark(run)
            return run
        free = self.free_slots
        if uncovered is None or free <= 0:
            return None
        # Redis would grant a permit if there were room: one free slot is kept for the round trip to say so.
        if self.ledger.holds_slot and free == 1:
            return None
        self._ready.popleft()
        if not self.ledger.start_uncovered(uncovered):
            self._park(uncovered)
            return self._next()
        self._unpark(uncovered)
        return uncovered

    def _first_uncovered(self) -> Run | None:
        for _ in range(MOST_AT_ONCE):
            if not self._ready:
                return None
            run = self._ready[0]
            run.limits = self.ledger.covering(run.names)
            if not run.limits:
                return run
            self._ready.popleft()  # a limit began while it waited for its slot
            self._park(run)
        self._wake()  # more of them may be covered by now
        return None

    def _arrive(self, run: Run) -> None:
        run.arrived = now()
        request = run.request
        # What waited for its ETA or its rate was delivered long ago.
        run.kept = 0.0 if request.eta or request.task.rate_limit else run.arrived

    def _park(self, run: Run) -> None:
        self._rounds.add(run)
        self._unnoted[run] = None  # before another thread can start it
        self.ledger.wait(run)
        if self.free_slots > 0 and self._unnoted.pop(run, self) is None:
            self._note_wait(run)

    def _note_waits(self) -> None:
        """A slot is free, and these wait all the same."""
        for _ in range(MOST_AT_ONCE):
            try:
                run, _none = self._unnoted.popitem(last=False)
            except KeyError:
                return
            run.limits = self.ledger.covering(run.names)
            if run.limits:  # else it is free by now
                self._note_wait(run)
        self._wake()

    def _note_wait(self, run: Run) -> None:
        if not run.waits:
            run.waits = True
            self._notes.append((self._watcher.parked, run))
            self._notes.append((self._audience.waiting, run))

    def _unpark(self, run: Run) -> None:
        """It waits no more, for a permit or for a slot."""
        self._rounds.remove(run)
        self._unnoted.pop(run, None)
        if run.waits:
            run.waits = False
            self._notes.append((self._watcher.unparked, run))

    def _next_unlimited(self) -> Run | None:
        """Redis is away and tasks are to run all the same: the one that waits longest."""
        first = [queued.first for queued in self.ledger.queued()]
        if not first or self.free_slots <= 0:
            return None
        run = min(first, key=lambda run: run.arrived)
        if not self.ledger.leave(run):
            return None
        self.ledger.start_unlimited(run)
        self.unlimited_runs += 1
        self._audience.ran_without_permit()
        self._unlimited.add(run)
        logger.info("celery-gconc: task %s[%s] runs without a permit: Redis is away", run.task, run.task_id)
        return run

    def _dispatch(self, run: Run) -> None:
        if run.permit is not None:
            self._audience.granted(run)
        try:
            self._start(run.request)
        except BaseException:
            self.end(run)
            raise

    def _discard(self, run: Run) -> None:
        self._unlimited.discard(run)
        self.ledger.ended(run)
        run.ended = True
        run.unhook()
