"""For how many of its requests this session asks Redis, by line.

    Ledger (a request waits, ends; slots change) -> Asks -> Line.asked, Line.granted, Outbox

It asks for no more than it could use, so that nothing is granted to a session that can't start its task. What depends
on slots is decided here: the *room* of a session is how many more grants it could start this instant.

Thread: any, under the ledger's lock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Generic

from celery_gconc.clock import now
from celery_gconc.limits.claims import Claims
from celery_gconc.limits.table import LimitTable
from celery_gconc.protocol.messages import Grant, Row, Want
from celery_gconc.worker.ledger.holdings import IDLE_SECONDS, LAZY_SECONDS, Holdings
from celery_gconc.worker.ledger.lines import Granted, Line, Lines
from celery_gconc.worker.ledger.meters import Meters
from celery_gconc.worker.ledger.moves import Moves
from celery_gconc.worker.ledger.outbox import Outbox
from celery_gconc.worker.ledger.request import R
from celery_gconc.worker.ledger.started import Started
from celery_gconc.worker.ledger.trust import Trust
from celery_gconc.worker.pool import Pool

#: How long, in seconds, the outbox may keep an ask that can't start a task here at once: others wait for its limits, or
#: one of ours is ahead of it. (LAZY_SECONDS where no slot is free: an ask has an age, so it loses no position.)
SOON_SECONDS = 0.001

#: The same where no slot is free and nobody else waits: mostly one frees sooner, and brings the units.
PATIENT_SECONDS = 0.25

#: A session that has this many asks in one line adds further ones lazily.
MANY_ASKED = 4

#: A session has no more asks than this in one line.
MAX_ASKED = 32


class Asks(Generic[R]):
    """Owns ``asked``, ``told`` and ``granted`` of each line, and the slots that are reserved."""

    def __init__(
        self,
        pool: Pool,
        lines: Lines[R],
        started: Started[R],
        holdings: Holdings[R],
        trust: Trust,
        outbox: Outbox[R],
        moves: Moves,
        meters: Meters,
    ) -> None:
        self.pool = pool
        #: How many free slots are for requests that no limit covers. The ledger writes it.
        self.reserved = 0
        self._lines = lines
        self._running = started.running
        self._holdings = holdings
        self._trust = trust
        self._outbox = outbox
        self._moves = moves
        self._meters = meters

    # -- Slots -------------------------------------------------------------------------------------------

    def room(self) -> int:
        """How many more grants could be started this instant: those in hand and not started yet are taken off."""
        free = self.pool.startable - len(self._running) - self._lines.granted_count
        if free > self.reserved:
            return free - self.reserved
        # Redis would grant something to one of ours: the next slot is kept for it, for the round trip to say so.
        return 1 if free > 0 and self._trust.is_offered else 0

    def slots_changed(self) -> None:
        """Ask for what could start now; release what can't, and ask again: the age of an ask keeps its position."""
        room = self.room()
        if room > 0:
            self._moves.caught_up()
        elif self.pool.startable <= len(self._running):
            self.release_granted()
        has_asked = False
        for line in self._lines.occupied():
            self.ask(line, room)
            has_asked = has_asked or line.asked > 0
        if room > self._trust.believed_room and has_asked:
            self._outbox.due()

    def plan_moves(self) -> None:
        """Redis would grant something, and there is no slot for its task: if it stays so, ask who else has one."""
        if self.room() > 0:
            self._moves.caught_up()
        elif self._trust.is_offered:
            self._moves.missed()
        delay = self._moves.due_in(self._lines.by_claims.values())
        if delay is not None:
            self._outbox.due(delay)

    # -- Asks --------------------------------------------------------------------------------------------

    def ask(self, line: Line[R], room: int | None = None, least_delay: float = 0.0) -> None:
        """Ask for as many requests as could start now; where others wait, for all, so that each has its position.

        *room* is :meth:`room`, where that is known. Redis need not hear of it before *least_delay* seconds are over.
        """
        ahead = self._ahead(line)
        lacking = line.waiting - ahead
        if lacking <= 0 or self._was_read_ahead(line):
            if line.asked:  # of which Redis may not have heard yet
                self._set(line, 0, least_delay if line.told else max(PATIENT_SECONDS, least_delay))
            return
        room = (self.room() if room is None else room) - (ahead - len(line.granted))  # spare units take the rest
        is_contended = self._trust.is_contended(line.claims)
        # One even without room: so Redis knows that it may offer something as soon as it has it.
        useful = MAX_ASKED if is_contended else max(room, 1)
        wanted = min(lacking, max(useful, line.asked))
        if line.asked < wanted:
            # Behind one of ours that has asked already, or others', there is no hurry: the age keeps the position.
            if room <= 0 and not is_contended:
                delay = PATIENT_SECONDS
            elif room <= 0 or line.asked >= MANY_ASKED:
                delay = LAZY_SECONDS
            else:
                delay = SOON_SECONDS if is_contended or line.asked else 0.0
            self._set(line, wanted, max(delay, least_delay))
        elif line.asked > wanted:
            self._set(line, wanted, least_delay)

    def one_more(self, line: Line[R], *, has_slot: bool) -> None:
        """One more waits in a line. While no slot is free, and nobody else waits, one that is asked for is enough."""
        if has_slot or not line.asked or self._trust.contended:
            self.ask(line)

    def ask_for_all(self) -> None:
        """Bring what is asked for and was granted in step with who waits here, and forget lines that are done with."""
        for line in list(self._lines.by_claims.values()):
            self.trim(line)
            self.ask(line)
            self._lines.drop_if_idle(line)
        self.settle()

    def pass_by(self, line: Line[R]) -> None:
        """The first of a line has started with units of ours, though Redis was asked for it.

        Where others wait, or ours of another line, the next has a position of its own, and Redis hears of it after the
        task has gone to the pool. Else the next takes its position until Redis is told more, with a statement at the
        latest.
        """
        contended = self._trust.contended
        is_turn = self._lines.is_shared(line)
        for limit, _ in line.claims:
            if limit in contended:
                contended[limit] -= 1
                is_turn = True
        if is_turn and line.asked:
            self._set(line, line.asked - 1, LAZY_SECONDS)

    def said(self, line: Line[R], *, anew: bool) -> Want:
        """What Redis is told of a line: what has changed, or all of it *anew* where it may know something else."""
        told, asked = line.told, list(line.some(self._ahead(line), line.asked))
        skip = kept = 0
        if told and asked and not anew:
            while skip < len(told) and told[skip] is not asked[0]:
                skip += 1
            for one, other in zip(islice(told, skip, None), asked, strict=False):
                if one is not other:
                    break
                kept += 1
        line.told, line.asked = deque(asked), len(asked)
        moment = now()
        requests = [Row(moment - request.arrived, request.task_id, request.task) for request in asked[kept:]]
        queue_limit = self._meters.queue_limit(line.claims) if all(request.may_move for request in asked) else None
        return Want(line.number, line.claims, skip, kept, requests, queue_limit)

    def stand(self, stands: Iterable[tuple[int, str]]) -> None:
        """Redis has heard of lines by number, and says of which limits it lacks units for the first of each."""
        moment = now()
        for number, limit in stands:
            line = self._lines.by_number.get(number)
            if line is not None and (line.at is None or line.at[0] != limit):
                line.at = limit, moment

    # -- Grants ------------------------------------------------------------------------------------------

    def grant(self, grant: Grant) -> None:
        """Units have come: for one of ours that waits; else they are spare, and to be settled."""
        self._holdings.granted(grant.claims)
        self._trust.take_fence(grant.fence, grant.at)
        line = self._lines.by_number.get(grant.set)
        if line is not None:
            line.asked = max(line.asked - 1, 0)
            if line.told:
                line.told.popleft()
        elif self._meters.granted(grant.claims):
            self._outbox.due(LAZY_SECONDS)
        if line is None or line.waiting <= len(line.granted):
            self._holdings.keep_new(grant.claims)
            self._outbox.ended.append(grant.grant)
            return
        line.granted.append(Granted(grant.grant, now()))
        self._lines.granted_count += 1

    def take_granted(self, line: Line[R]) -> int:
        """Somebody of a line starts with what was granted for it: return the number of the grant."""
        self._lines.granted_count -= 1
        return line.granted.popleft().grant

    def release_granted(self) -> None:
        """Release grants that find no slot."""
        found = [line for line in self._lines.by_claims.values() if line.granted]
        for line in found:
            self._drop_granted(line, len(line.granted))
        if found:
            self._went_back()

    def settle(self, limits: Iterable[str] | None = None) -> None:
        """Give back spare units, of all *limits*, that may not pass to a next task of ours."""
        if self._holdings.settle(limits):
            self._went_back()

    def release_idle(self) -> float | None:
        """Release what was granted and not used, or spare, for too long; return the seconds until more may be."""
        has_released = self._holdings.release_idle()
        oldest = now() - IDLE_SECONDS
        for line in list(self._lines.by_claims.values()):
            if line.granted and (idle := sum([granted.at <= oldest for granted in line.granted])):
                self._drop_granted(line, idle)
                has_released = True
            self._lines.drop_if_idle(line)
        if has_released:
            self._went_back()
        left = [line.granted[0].at - oldest for line in self._lines.by_claims.values() if line.granted]
        if (spare_left := self._holdings.idle_left()) is not None:
            left.append(spare_left)
        return min(left, default=None)

    def trim(self, line: Line[R]) -> None:
        """Release grants for requests that wait here no more."""
        surplus = len(line.granted) - line.waiting
        if surplus > 0:
            self._drop_granted(line, surplus)

    def go_by(self, before: LimitTable, table: LimitTable, delay: float) -> None:
        """Another table holds: who waits goes by it at once, and grants that may be above a max by now are released.

        Redis hears within *delay* seconds of who stands in another line.

        Where a version was skipped, nobody here knows what held in between. (Units in use are recalled by Redis.)
        """
        if table.version > before.version + 1 or any(table[limit] < before.get(limit, math.inf) for limit in table):
            self.release_granted()
        for line in self._lines.go_by(table):
            self.trim(line)
            self.ask(line, least_delay=delay)
            self._outbox.asks_changed(line, delay)
            self._lines.drop_if_idle(line)
        self.settle()

    def void(self) -> None:
        """A new session begins: what was granted and asked for under the old one is void."""
        self._lines.granted_count = 0
        for line in list(self._lines.by_claims.values()):
            line.granted.clear()
            line.told.clear()
            line.asked, line.at = 0, None
            self._lines.drop_if_idle(line)

    # -- Questions ---------------------------------------------------------------------------------------

    def left(self, claims: Claims, table: LimitTable) -> int:
        """How many more could run here with these claims, if nothing else ran under their limits anywhere."""
        return min((table.get(limit, 0) - self._holdings.used(limit)) // weight for limit, weight in claims)

    def startable(self, line: Line[R], table: LimitTable) -> int:
        """How many requests of a line a further slot each would start."""
        if self._trust.is_offered:  # Redis would grant something to one of ours, and perhaps as much as the max allows
            return max(self.left(line.claims, table), 0)
        return self._ahead(line)

    # -- Its own -----------------------------------------------------------------------------------------

    def _ahead(self, line: Line[R]) -> int:
        """How many of a line need nothing of Redis: it was granted, or spare units are for them."""
        granted = len(line.granted)
        if line.waiting > granted and self._holdings.may_pass(line.claims, line):
            return granted + self._holdings.spare_for(line.claims)
        return granted

    def _was_read_ahead(self, line: Line[R]) -> bool:
        """Whether a line is of a metered queue, and this session has units of all that it claims, spare or in use."""
        meters, by_limit, contended = self._meters, self._holdings.by_limit, self._trust.contended
        return meters.meters(line.claims) and all(
            (holding := by_limit.get(limit)) is not None and holding.held >= weight and limit not in contended
            for limit, weight in line.claims
        )

    def _set(self, line: Line[R], asked: int, delay: float) -> None:
        line.asked = asked
        self._outbox.asks_changed(line, delay)

    def _drop_granted(self, line: Line[R], count: int) -> None:
        for _ in range(count):
            self._drop(line.granted.popleft().grant, line.claims)
            self._lines.granted_count -= 1

    def _drop(self, grant: int, claims: Claims) -> None:
        self._holdings.drop_new(claims)
        self._outbox.ended.append(grant)

    def _went_back(self) -> None:
        """Units that requests here could have used have gone back: those are in line again."""
        self._holdings.settle()
        for line in self._lines.occupied():
            self.ask(line)
            if line.asked:
                self._outbox.asks_changed(line, LAZY_SECONDS)
