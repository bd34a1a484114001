"""The gate: decides for each request that the worker has received whether it runs now or is parked.

    message -> Consumer.on_task_request -> Gate.admit -> Ledger (a permit?) -> Dispatcher -> the pool

Thread: the one that may start requests (starter.py); what only reads is for any.

It stands at the one funnel through which plain, rate-limited and ETA requests all go on their way to the pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from celery.utils.log import get_logger

from celery_gconc.clock import now
from celery_gconc.worker.candidates import Candidates
from celery_gconc.worker.dispatch import MAX_AT_ONCE, Dispatcher
from celery_gconc.worker.hooks import hook
from celery_gconc.worker.intake.intake import Intake
from celery_gconc.worker.intake.metering import Metering
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.run import Run
from celery_gconc.worker.turns import Turns

logger = get_logger(__name__)

#: In how many sweeps each request that is held is looked at, where the broker doesn't want to hear of it more often.
ROUND_SWEEPS = 120.0


@dataclass(frozen=True, slots=True)
class GateCounts:
    """How many requests are where, for ``inspect stats``."""

    running: int
    parked: int
    ready: int


class Gate:
    """One worker's gate. All fields belong to the thread that may start requests."""

    def __init__(
        self,
        ledger: Ledger[Run],
        candidates: Candidates,
        intake: Intake,
        metering: Metering,
        dispatcher: Dispatcher,
        turns: Turns,
    ) -> None:
        self.ledger = ledger
        self._candidates, self._intake, self._metering = candidates, intake, metering
        self._dispatcher, self._turns = dispatcher, turns
        #: The queues of which all that may goes back, in some turns.
        self._moving: frozenset[str] = frozenset()
        #: What came after the end: it goes back.
        self._late: list[Run] = []

    def admit(self, request: Any) -> None:
        """Run a request now, or park it. Takes the place of ``Consumer.on_task_request``."""
        dispatcher = self._dispatcher
        queue = self._intake.queue_of(request.message)
        run = Run(request, self._candidates.of(request, queue), queue)
        if dispatcher.is_closed:
            self._late.append(run)
            return
        hook(run, dispatcher)
        run.arrived = now()
        if self.ledger.start(run, is_first=not dispatcher.ready):
            dispatcher.dispatch(run)
        else:
            self._hold(run)

    def pump(self) -> None:
        """Start what can be started now, first come, first served. Harmless when there is nothing."""
        self._dispatcher.start_next()
        self._move()
        self._dispatcher.tell_intake(in_a_moment=True)

    def send_back(self) -> list[Run]:
        """Have what waits here for its queue's limit wait at the broker, each message once; return what went."""
        sent: list[Run] = []
        if self._dispatcher.is_over:
            return sent
        if self._dispatcher.runs_unlimited:
            self._metering.end_all()
            return sent
        names = self._metering.overdue(self._intake.parked_queues())
        for name in names:
            self._metering.begin(name)
        while names and (runs := self.ledger.take_out(names, MAX_AT_ONCE)):
            self._dispatcher.let_go(runs)
            self._intake.send_back(runs)
            sent += runs
        self._metering.read(everything=True)
        return sent

    def sweep(self, seconds: float) -> list[Run]:
        """Let go of parked requests that were revoked or have expired since; keep the others, or give them back.

        Called every *seconds*. Returns those whose turn it was: a part, where many are held. Those that have no slot
        either are let go when they would start, as in plain Celery.
        """
        rounds, ledger = self._dispatcher.rounds, self.ledger
        has_slot = ledger.free_slots > 0
        every = self._intake.keep_seconds
        looked_at = rounds.next(ROUND_SWEEPS if every is None else min(every / 2 / seconds, ROUND_SWEEPS))
        for run in [*rounds.ended(), *looked_at] if has_slot else ():
            if ledger.is_waiting(run) and run.is_revoked and ledger.leave(run):
                self._dispatcher.unpark(run)
                run.let_go()
        if every is not None:
            moment = now()
            due = [run for run in looked_at if moment - run.kept >= every]
            for run in due:
                run.kept = moment
            if due:
                self._intake.keep(due)
        self._give_back_overdue(looked_at)
        self._dispatcher.tell_intake()
        return looked_at

    def purge(self, limit: str, count: int) -> int:
        """Discard requests that wait here and that a limit covers, or would if it were set; return how many.

        Each ends as REVOKED, as those do that are revoked one by one. *count* at once, for that takes its time.
        """
        found = self._dispatcher.take_of(limit, count)
        for run in found:
            self._dispatcher.unpark(run)
            run.let_go()
            run.purge()
        self._turns.wake()
        return len(found)

    def connection_lost(self) -> None:
        """The broker's connection is gone: what was not started here is dropped, for the broker delivers it again."""
        dispatcher = self._dispatcher
        for run in dispatcher.take_all():
            run.let_go()
        dispatcher.connection_lost()
        self._moving = frozenset()
        dispatcher.runs.connection_lost()
        for run in dispatcher.runs.thrown_away():
            dispatcher.done(run)

    def close(self, *, by_consumer: bool = True) -> None:
        """Start nothing any more: the worker shuts down. What was not started goes back to its queues, in order.

        May be called early by another thread that starts requests, and once more on the consumer's: then what came
        in between goes back too.
        """
        dispatcher = self._dispatcher
        if dispatcher.is_closed and not by_consumer:
            return
        dispatcher.close()
        self._metering.clear()
        self._intake.end(reading=by_consumer)
        forgotten = dispatcher.runs.thrown_away() if by_consumer else []
        for run in forgotten:
            dispatcher.runs.ended(run)
        unstarted, self._late = [*forgotten, *dispatcher.take_all(), *self._late], []
        self.ledger.stop()
        self._give_back(unstarted)

    # -- What only reads: any thread ---------------------------------------------------------------------

    @property
    def counts(self) -> GateCounts:
        """How many requests are where."""
        return GateCounts(self.ledger.running_count, self.ledger.waiting_count, len(self._dispatcher.ready))

    def would_be_stuck(self, request: Any) -> bool:
        """Whether a request that is to come would wait for others to end, however many slots there were."""
        claims = self.ledger.covering(self._candidates.of(request, self._intake.queue_of(request.message)))
        return bool(claims) and self.ledger.is_stuck(claims)

    def where(self, task_id: str) -> dict[str, Any]:
        """What this worker does with a task: empty where the gate doesn't have it. For ``inspect``."""
        parked = sorted(self.ledger.waiting(), key=lambda run: run.arrived)
        held = (
            ("running", self.ledger.running()),
            ("parked", parked),
            ("waits for a slot", list(self._dispatcher.ready)),
        )
        for state, runs in held:
            for number, run in enumerate(runs):
                if run.task_id == task_id:
                    before = runs[:number] if state != "running" else []
                    shared = [one for one in before if not set(run.limits).isdisjoint(one.limits)]
                    return {
                        "state": "waits for a slot" if state == "parked" and self.ledger.free_slots <= 0 else state,
                        "task": run.task,
                        "limits": list(run.limits),
                        "waited": (run.started_at or now()) - run.arrived if run.arrived else 0.0,
                        "ahead": len(shared if run.claims else before),
                    }
        return {}

    # -- Its own -----------------------------------------------------------------------------------------

    def _hold(self, run: Run) -> None:
        """A request can't start now."""
        dispatcher, request = self._dispatcher, run.request
        run.may_move = self._intake.may_move(run)
        # What waited for its ETA or its rate was delivered long ago.
        run.kept = 0.0 if request.eta or request.task.rate_limit else run.arrived
        if run.claims:
            dispatcher.park(run)
            dispatcher.tell_intake()
            if not run.claims or dispatcher.runs_unlimited:
                self.pump()
        else:
            dispatcher.wait_for_slot(run)
        self._turns.keep_turning()

    def _give_back(self, runs: Sequence[Run]) -> None:
        self._dispatcher.let_go(runs)
        self._intake.give_back(runs)

    def _move(self) -> None:
        """Give back what waits here for a slot where Redis has answered that another worker has one."""
        answer = self.ledger.take_answer()
        if self._dispatcher.is_over:
            return
        if answer is not None:
            self._moving = answer.elsewhere
            self._intake.take_up(answer.asked - answer.elsewhere)
        if not self._moving or self.ledger.free_slots > 0:
            self._moving = frozenset()
            return
        runs = self.ledger.take_out(self._moving, MAX_AT_ONCE)
        if len(runs) < MAX_AT_ONCE:
            self._moving = frozenset()
        else:
            self._turns.wake()  # those before them go in the next turn
        if runs:
            self._dispatcher.let_go(runs)
            self._intake.move(runs)
            logger.debug("celery-gconc: gave back %d messages that other workers have room for", len(runs))

    def _give_back_overdue(self, looked_at: Iterable[Run]) -> None:
        """Give parked requests back that the broker delivered too long ago, with the others of their queues.

        They come again, and stand behind those that wait in other workers.
        """
        moment, overdue = now(), set()
        bounds: dict[str | None, float | None] = {}
        for run in looked_at:
            if run.queue not in bounds:
                bounds[run.queue] = self._intake.holds_for(run.queue)
            bound = bounds[run.queue]
            if bound is not None and moment - run.delivered_at >= bound and self.ledger.is_waiting(run):
                overdue.add(run.queue)
        if overdue:
            runs = [run for run in self.ledger.waiting() if run.queue in overdue and self.ledger.leave(run)]
            self._give_back(sorted(runs, key=lambda run: run.arrived))
