"""Which permits this session has in hand, which it asks for, and which it releases.

    Ledger (a request waits, ends; slots change) -> Permits -> Line.asked, Line.spare, Outbox

It asks for no more than it could use, so that no permit lies with a session that can't start its task. What depends
on slots is decided here: the *room* of a session is how many more grants it could start this instant.

Thread: any, under the ledger's lock.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Generic

from celery_gconc.clock import now
from celery_gconc.limits.claims import Limits
from celery_gconc.limits.table import LimitTable
from celery_gconc.protocol.messages import Grant
from celery_gconc.worker.ledger.lines import Line, Lines
from celery_gconc.worker.ledger.moves import Moves
from celery_gconc.worker.ledger.outbox import Outbox
from celery_gconc.worker.ledger.permit import Permit
from celery_gconc.worker.ledger.request import R
from celery_gconc.worker.ledger.started import Started
from celery_gconc.worker.ledger.trust import Trust
from celery_gconc.worker.pool import Pool

#: How long, in seconds, a permit is kept with no task for it (never while another session waits for it).
IDLE_SECONDS = 0.1

#: How long, in seconds, the outbox may keep an ask that no slot is free for, or the release of an idle permit, so that
#: it shares a round trip. (An ask is sent with its age, so it loses no position.)
LAZY_SECONDS = 0.02

#: The same for an ask that can't start a task here at once: others wait for its limits, or one of ours is ahead of it.
SOON_SECONDS = 0.001

#: A session that has this many asks in one line adds further ones lazily.
MANY_ASKED = 4

#: A session has no more asks than this in one line.
MAX_ASKED = 32


class Permits(Generic[R]):
    """Owns ``asked`` and ``spare`` of each line, and the slots that are reserved."""

    def __init__(
        self, pool: Pool, lines: Lines[R], started: Started[R], trust: Trust[R], outbox: Outbox[R], moves: Moves
    ) -> None:
        self.pool = pool
        #: How many free slots are for requests that no limit covers. The ledger writes it.
        self.reserved = 0
        self._lines = lines
        self._running = started.running
        self._started = started
        self._trust = trust
        self._outbox = outbox
        self._moves = moves

    # -- Slots -------------------------------------------------------------------------------------------

    def room(self) -> int:
        """How many more grants could be started this instant: those in hand and not started yet are taken off."""
        free = self.pool.startable - len(self._running)
        if free > 0:
            for line in self._lines.by_limits.values():
                if line.spare:
                    free -= sum([permit.is_new for permit in line.spare])
        if free > self.reserved:
            return free - self.reserved
        # Redis would grant one of ours a permit: the next slot is kept for it, for the round trip to say so.
        return 1 if free > 0 and self._trust.is_offered else 0

    def slots_changed(self) -> None:
        """Ask for what could start now; release what can't, and ask again: the age of an ask keeps its position."""
        room = self.room()
        if room > 0:
            self._moves.caught_up()
        elif self.pool.startable <= len(self._running):
            self._release_new()
        for limits in self._lines.occupied():
            self.ask(limits, room)
        if room > self._trust.believed_room and any(line.asked for line in self._lines.by_limits.values()):
            self._outbox.due()

    def plan_moves(self) -> None:
        """Redis would grant a permit, and there is no slot for its task: if it stays so, ask who else has one."""
        if self.room() > 0:
            self._moves.caught_up()
        elif self._trust.is_offered:
            self._moves.missed()
        delay = self._moves.due_in(self._lines.by_limits.values())
        if delay is not None:
            self._outbox.due(delay)

    # -- Asks --------------------------------------------------------------------------------------------

    def ask(self, limits: Limits, room: int | None = None) -> None:
        """Ask for as many permits as could be used now; where others wait, for all, so that each has its position.

        *room* is :meth:`room`, where that is known.
        """
        line = self._lines.by_limits[limits]
        asked = line.asked
        lacking = line.waiting - len(line.spare)
        if lacking <= 0:
            while asked:
                self._outbox.withdraw(asked.pop())
            return
        room = self.room() if room is None else room
        is_contended = self._trust.is_contended(limits)
        # One even without room: so Redis knows that it may offer a permit as soon as there is one.
        useful = MAX_ASKED if is_contended else max(room, 1)
        wanted = min(lacking, max(useful, len(asked)))
        if len(asked) < wanted:
            # Behind one of ours that has asked already, or others', there is no hurry: the age keeps the position.
            if room <= 0 or len(asked) >= MANY_ASKED:
                delay = LAZY_SECONDS
            else:
                delay = SOON_SECONDS if is_contended or asked else 0.0
            for request in islice(line.after(len(asked)), wanted - len(asked)):
                asked.append(self._outbox.ask(limits, request, delay))
        while len(asked) > wanted:
            self._outbox.withdraw(asked.pop())

    def ask_for_all(self) -> None:
        """Bring every line's asks in step with who waits in it, and forget those lines that are done with."""
        for limits in list(self._lines.by_limits):
            self.ask(limits)
            self._lines.drop_if_idle(limits)

    # -- Permits -----------------------------------------------------------------------------------------

    def grant(self, grant: Grant) -> None:
        """A permit has come: for one of ours that waits, or to be released at once."""
        limits = self._outbox.match(grant.number)
        line = self._lines.by_limits.get(limits) if limits is not None else None
        if line is None or not line.asked:
            self._outbox.release(grant.number)
            return
        if grant.number in line.asked:
            line.asked.remove(grant.number)
        else:  # its ask was withdrawn, which Redis didn't know: it serves the next
            self._outbox.withdraw(line.asked.popleft())
        line.spare.append(
            Permit(
                grant.number,
                line.limits,
                is_new=True,
                idle_since=now(),
                fence=grant.fence,
                granted_at=grant.at,
            )
        )

    def give(self, line: Line[R], permit: Permit, request: R) -> None:
        """A request starts with a spare permit of its line."""
        line.spare.remove(permit)
        limits = line.limits
        if permit.is_new:
            permit.is_new = False
        else:
            permit.step += 1
            trust, lines = self._trust, self._lines
            if (trust.contended and trust.is_contended(limits)) or (
                len(lines.by_limits) > 1 and lines.is_shared(limits)
            ):
                self._take_turn(line)
        self._started.start(request, permit)
        if line.waiting or line.asked:
            self.ask(limits)

    def keep(self, permit: Permit) -> Line[R] | None:
        """A task has ended: keep its permit for the next, and return the line; None where it was released."""
        moment = now()
        if not (permit.may_pass_on and self._trust.may_pass(permit.limits, moment)):
            self._outbox.release(permit.number)
            return None
        permit.idle_since = moment
        line = self._lines.line(permit.limits)
        line.spare.append(permit)
        return line

    def recall(self) -> None:
        """Release the idle permits that may not pass to a next task any more."""
        moment = now()
        for limits, line in self._lines.by_limits.items():
            if line.spare and not self._trust.may_pass(limits, moment):
                for permit in [spare for spare in line.spare if not spare.is_new]:
                    line.spare.remove(permit)
                    self._outbox.release(permit.number)

    def release_all(self) -> None:
        """Release all that are spare."""
        for line in self._lines.by_limits.values():
            for permit in line.spare:
                self._outbox.release(permit.number)
            line.spare.clear()

    def release_idle(self) -> float | None:
        """Release those that were spare for too long; return the seconds until the next would be."""
        soonest: float | None = None
        moment = now()
        for limits, line in list(self._lines.by_limits.items()):
            for permit in list(line.spare):
                left = permit.idle_since + IDLE_SECONDS - moment
                if left > 0 and (permit.is_new or self._trust.may_pass(limits, moment)):
                    soonest = left if soonest is None else min(soonest, left)
                else:
                    line.spare.remove(permit)
                    self._outbox.release(permit.number, LAZY_SECONDS)
                    self.ask(limits)
            self._lines.drop_if_idle(limits)
        return soonest

    def go_by(self, before: LimitTable, table: LimitTable) -> None:
        """Another table holds: release new grants that may be above a max by now.

        Where a version was skipped, nobody here knows what held in between. (Used permits are recalled by Redis.)
        """
        if table.version > before.version + 1 or any(table[limit] < before.get(limit, math.inf) for limit in table):
            self._release_new()

    def void(self) -> None:
        """A new session begins: what is spare and what was asked for under the old one is void."""
        for limits, line in list(self._lines.by_limits.items()):
            line.spare.clear()
            line.asked.clear()
            self._lines.drop_if_idle(limits)

    # -- Questions ---------------------------------------------------------------------------------------

    def left(self, limits: Limits, table: LimitTable) -> int:
        """How many more could run here under these limits, if nothing else ran under them anywhere."""
        running = [request.permit.limits for request in self._started.covered if request.permit is not None]
        return min(table.get(limit, 0) - sum(limit in held for held in running) for limit in limits)

    def startable(self, line: Line[R], table: LimitTable) -> int:
        """How many requests of a line a further slot each would start."""
        if self._trust.is_offered:  # Redis would grant one of ours a permit, and perhaps as many as the max allows
            return max(self.left(line.limits, table), 0)
        return len(line.spare)

    # -- Its own -----------------------------------------------------------------------------------------

    def _take_turn(self, line: Line[R]) -> None:
        """A permit passes on where others wait: one of ours has had its turn at the head of the line.

        The ask of the request that gets it is no longer needed, and the next has an age of its own. Redis hears of it
        after the task has gone to the pool.
        """
        contended = self._trust.contended
        for limit in line.limits:
            if limit in contended:
                contended[limit] -= 1
        if line.asked:
            self._outbox.withdraw(line.asked.popleft(), delay=LAZY_SECONDS)

    def _release_new(self) -> None:
        """Release grants that find no slot."""
        for limits, line in self._lines.by_limits.items():
            if new := [spare for spare in line.spare if spare.is_new]:
                for permit in new:
                    line.spare.remove(permit)
                    self._outbox.release(permit.number)
                self.ask(limits)
