"""Starts the requests that are held here, first come, first served, as permits and slots allow.

    Gate (park, wait_for_slot, start_next), Hooks (stopped_running, done) -> Dispatcher -> Ledger, Runs -> the pool
    notes of what is parked -> the intake, on the consumer's thread

Thread: the one that may start requests (starter.py); where the pool allows it, also the one that ends a task, for the
next starts from the callback that ends one. Only one of them starts requests at a time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

from celery.utils.log import get_logger
from celery.worker import state

from celery_gconc.limits.claims import limits_of
from celery_gconc.worker.events import Events
from celery_gconc.worker.intake.intake import Intake
from celery_gconc.worker.intake.metering import Metering
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.rounds import Rounds
from celery_gconc.worker.run import ENDED, GRANTED, Run
from celery_gconc.worker.runs import Runs
from celery_gconc.worker.session.health import Health
from celery_gconc.worker.turns import Turns

logger = get_logger(__name__)

#: How many requests change their state in one turn of the event loop at most: some milliseconds' worth.
MAX_AT_ONCE = 500

#: How long, in seconds, a purge waits for another thread that starts requests.
PURGE_SECONDS = 0.1


def is_shutting_down() -> bool:
    """Whether Celery is about to stop, which it will as soon as its loop comes round (celery 5.4-5.7)."""
    stop, terminate = state.should_stop, state.should_terminate
    return not ((stop is None or stop is False) and (terminate is None or terminate is False))


class Dispatcher:
    """One worker's. Holds what the gate doesn't start at once."""

    def __init__(
        self,
        start: Callable[[Any], None],
        ledger: Ledger[Run],
        pool: Pool,
        runs: Runs,
        intake: Intake,
        metering: Metering,
        events: Events,
        health: Health,
        turns: Turns,
        *,
        runs_without_redis: bool,
    ) -> None:
        #: Hands a request to the pool: ``Consumer.on_task_request``, as Celery made it.
        self._start = start
        self._ledger, self.pool, self.runs = ledger, pool, runs
        self._intake, self._metering = intake, metering
        self._events, self._health, self._turns = events, health, turns
        #: Whether tasks run without permits while Redis is unreachable (``global_concurrency_on_redis_error="run"``),
        #: and how many have.
        self._runs_without_redis = runs_without_redis
        self.unlimited_runs = 0
        #: All that are held here and not started: for the gate's sweeps. Any thread.
        self.rounds = Rounds()
        #: Uncovered requests that wait for a slot; in use only while covered ones wait too. The consumer's thread adds
        #: to its end; else it is changed with :attr:`_pumping` only. Any may read it.
        self.ready: deque[Run] = deque()
        #: Parked requests that have waited only while no slot was free. Any thread that starts requests; each takes
        #: single entries, which none of them relies on finding.
        self._unnoted: OrderedDict[Run, None] = OrderedDict()
        #: What the intake and the events are still to hear, in order: a request is parked (true), or no more. Any
        #: thread adds; the consumer's takes, for the intake talks to the broker.
        self._notes: deque[tuple[bool, Run]] = deque()
        #: Held by the one thread that starts requests; the flag has it look once more for another that came meanwhile.
        self._pumping = threading.Lock()
        self._is_pump_wanted = False
        #: The class of the hooked requests of each class (hooks.py), hooked or not. Celery makes request classes anew
        #: with each connection. The consumer's thread.
        self.hooked: dict[type, type] = {}
        #: Set once, by :meth:`close`.
        self.is_closed = False

    # -- What is held here -------------------------------------------------------------------------------

    @property
    def session(self) -> str:
        """The session whose permits are given."""
        return self._ledger.session

    @property
    def has_unnoted(self) -> bool:
        """Whether some wait of which the intake hasn't heard, for no slot was free."""
        return bool(self._unnoted)

    def wait_for_slot(self, run: Run) -> None:
        """An uncovered request waits behind covered ones. On the consumer's thread."""
        self.rounds.add(run)
        self.ready.append(run)
        self._ledger.reserve(len(self.ready))

    def park(self, run: Run) -> None:
        """A request waits for a permit."""
        self.rounds.add(run)
        self._unnoted[run] = None  # before another thread can start it
        has_slot = self._ledger.wait(run)
        if has_slot and self._unnoted.pop(run, self) is None:
            self._note_wait(run)

    def unpark(self, run: Run) -> None:
        """It waits no more, for a permit or for a slot."""
        self.rounds.remove(run)
        if run.has_waited:
            run.has_waited = False
            self._notes.append((False, run))
        else:
            self._unnoted.pop(run, None)

    def take_all(self) -> list[Run]:
        """Every request that waits here, for a permit or for a slot, out of its line; in order of arrival."""
        unstarted = [*self._ledger.leave_all(), *self._ledger.uncovered(), *self.ready]
        self.ready.clear()
        self._unnoted.clear()
        self.rounds.clear()
        self._ledger.reserve(0)
        return sorted(unstarted, key=lambda run: run.arrived)

    def take_of(self, limit: str, count: int) -> list[Run]:
        """Requests that wait here and that a limit covers, or would if it were set, out of their lines."""
        if not self._pumping.acquire(timeout=PURGE_SECONDS):
            return []  # called from within: a message was read while another was written
        try:
            self.ready.extend(self._ledger.uncovered())
            parked = [run for run in self._ledger.waiting() if run.could_claim(limit)][:count]
            ready = [run for run in self.ready if run.could_claim(limit)][: count - len(parked)]
            gone = set(ready)
            self.ready = deque(run for run in self.ready if run not in gone)
            self._ledger.reserve(len(self.ready))
            return [*(run for run in parked if self._ledger.leave(run)), *ready]
        finally:
            self._pumping.release()

    def let_go(self, runs: Iterable[Run]) -> None:
        """These leave, unstarted: to Celery, they were never here. On the consumer's thread."""
        for run in runs:
            self.unpark(run)
            run.let_go()
            state.task_ready(run.request)
        self._tell_notes()

    def connection_lost(self) -> None:
        """The broker's connection is gone, with what the intake was to hear, and the requests of this connection."""
        self._notes.clear()
        self.hooked.clear()

    def close(self) -> None:
        """Start nothing any more."""
        self.is_closed = True

    # -- Starting ----------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing is started any more, now or soon."""
        return self.is_closed or is_shutting_down()

    @property
    def runs_unlimited(self) -> bool:
        """Whether tasks run without permits now: Redis is unreachable."""
        return self._runs_without_redis and self._health.is_away

    def dispatch(self, run: Run) -> None:
        """Hand a request to the pool; with its permit, where it has one."""
        run.state = GRANTED
        if run.permit is not None:
            run.limits_at_start = limits_of(run.claims)
            self._events.granted(run)
        try:
            self._start(run.request)
        except BaseException:
            self.done(run)
            raise

    def start_next(self) -> None:
        """Start what can be started. Where another thread is at it, that one looks once more."""
        self._is_pump_wanted = True
        while self._is_pump_wanted and self._pumping.acquire(blocking=False):
            try:
                self._is_pump_wanted = False
                if not self.is_over:
                    self._start_all()
            finally:
                self._pumping.release()

    def _start_all(self) -> None:
        ledger = self._ledger
        self.ready.extend(ledger.uncovered())
        while ((has_slot := ledger.free_slots > 0) or self.ready) and (run := self._next()) is not None:
            if run.is_revoked:
                self._discard(run)
            else:
                self.dispatch(run)
        ledger.reserve(len(self.ready))
        if ledger.waiting_count and (has_slot or ledger.may_ask_without_slot):
            ledger.slots_changed()
            if has_slot:
                self._note_waits()
        else:
            ledger.were_started()

    def _next(self) -> Run | None:
        """The next request to start, in order of arrival, out of its line; None where there is none or no slot."""
        uncovered = self._first_uncovered() if self.ready else None
        run = self._ledger.next(before=uncovered.arrived if uncovered is not None else None)
        if run is None and self.runs_unlimited:
            run = self._next_unlimited()
        if run is not None:
            self.unpark(run)
            return run
        if uncovered is None or (free := self._ledger.free_slots) <= 0:
            return None
        # Redis would grant a permit if there were room: one free slot is kept for the round trip to say so.
        if self._ledger.holds_slot and free == 1:
            return None
        self.ready.popleft()
        if not self._ledger.start_uncovered(uncovered):
            self.park(uncovered)
            return self._next()
        self.unpark(uncovered)
        return uncovered

    def _first_uncovered(self) -> Run | None:
        for _ in range(MAX_AT_ONCE):
            if not self.ready:
                return None
            run = self.ready[0]
            run.claims = self._ledger.covering(run.candidates)
            if not run.claims:
                return run
            self.ready.popleft()  # a limit began while it waited for its slot
            self.park(run)
        self._turns.wake()  # more of them may be covered by now
        return None

    def _next_unlimited(self) -> Run | None:
        """Redis is unreachable and tasks are to run all the same: the one that has waited longest."""
        first = [queued.first for queued in self._ledger.queued()]
        if not first or self._ledger.free_slots <= 0:
            return None
        run = min(first, key=lambda run: run.arrived)
        if not self._ledger.leave(run):
            return None
        self._ledger.start_unlimited(run)
        self.unlimited_runs += 1
        run.is_unlimited = True
        self._events.ran_without_permit()
        logger.info("celery-gconc: task %s[%s] runs without a permit: Redis is unreachable", run.task, run.task_id)
        return run

    def _discard(self, run: Run) -> None:
        self._ledger.ended(run)
        run.let_go()

    # -- Ending: any thread ------------------------------------------------------------------------------

    def stopped_running(self, run: Run) -> None:
        """A task runs no more: the next starts, before the callbacks of this one take their time."""
        if self.runs.ended(run) and (self.ready or self._ledger.waiting_count):
            if self.pool.starts_when_ended:
                self.start_next()
            else:
                self._turns.wake()

    def done(self, run: Run) -> None:
        """A request is done with altogether."""
        if run.state is not ENDED:
            self.stopped_running(run)
        run.let_go()
        self._metering.touch(run.queue)
        if self.pool.ends_on_consumer_thread:
            self.tell_intake(in_a_moment=True)
        elif self._notes or self._metering.is_due:
            self._turns.wake()
        if run.started_at:
            self._ledger.watch_idle()

    # -- What the intake hears: the consumer's thread ----------------------------------------------------

    def tell_intake(self, *, in_a_moment: bool = False) -> None:
        """Tell the intake what has changed; it then fetches more, *in a moment* where something was just started."""
        if self._notes:
            self._tell_notes()
        metering, intake = self._metering, self._intake
        if metering.is_due and not (in_a_moment and not metering.is_urgent and self._turns.resume_later()):
            metering.read()
        if intake.is_quiet:
            return
        surplus = [run for run in intake.take_surplus() if self._ledger.leave(run)]
        if surplus:
            self.let_go(surplus)
            intake.put_back(surplus)
        if intake.wants_more and not (in_a_moment and self._turns.resume_later()):
            intake.resume()

    def _tell_notes(self) -> None:
        while self._notes:
            is_parked, run = self._notes.popleft()
            if is_parked:
                self._intake.parked(run)
                self._events.waiting(run)
            else:
                self._intake.unparked(run)
                self._metering.touch(run.queue)

    def _note_waits(self) -> None:
        """A slot is free, and these wait all the same."""
        for _ in range(MAX_AT_ONCE):
            try:
                run, _none = self._unnoted.popitem(last=False)
            except KeyError:
                return
            run.claims = self._ledger.covering(run.candidates)
            if run.claims:  # else it is free by now
                self._note_wait(run)
        self._turns.wake()

    def _note_wait(self, run: Run) -> None:
        if not run.has_waited:
            run.has_waited = True
            self._notes.append((True, run))
