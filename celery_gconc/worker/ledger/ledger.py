"""The permits of this session, kept in memory: what it holds, what it asks for, and what it has yet to tell Redis.

    gate -> Ledger -> link -> Redis;  Redis -> link -> Ledger -> gate

Thread: any. One lock, and no I/O under it, so that the worker's event loop never waits for Redis: the gate takes and
returns permits, the link carries the differences away and brings grants back.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Container, Mapping
from typing import NamedTuple

from celery_gconc.clock import now
from celery_gconc.limits.claims import limits_of
from celery_gconc.limits.table import LimitTable
from celery_gconc.protocol.changes import Changes
from celery_gconc.protocol.messages import Heartbeat, Notice, Sync, Synced
from celery_gconc.worker.ledger.lines import Line
from celery_gconc.worker.ledger.request import R
from celery_gconc.worker.ledger.slots import Slots


class Stated(NamedTuple):
    """What runs, as a session is opened with it."""

    #: How many units of each limit are in use.
    units: Mapping[str, int]
    #: Which tasks use them, as :func:`~celery_gconc.protocol.messages.running_text` has it.
    running: str
    #: The last fencing number that Redis gave.
    fence: int


class Ledger(Slots[R]):
    """The permits of one session at a time. Every method here takes the lock.

    :class:`Book` has the questions, :class:`Slots` what it hears of slots and queues.

    An answer may be old by the time that somebody acts on it, which is done by a method here, and that looks again.
    """

    # -- The gate's side: requests -----------------------------------------------------------------------

    def wait(self, request: R) -> bool:
        """Put a request in this session's line; :meth:`next` gives it when there are units for it.

        Where no limit covers it any more, :meth:`uncovered` gives it. Return whether a slot is free.
        """
        with self._lock:
            self.waiting_count += 1
            has_slot = self._pool.startable > len(self._running)
            claims = request.claims = self.table.covering(request.candidates)
            if not claims:
                self._lines.freed.append((request,))
                return has_slot
            line = self._lines.put(request, claims)
            self._holdings.settle(line.limits)  # what is spare of some may be what Redis lacks to grant it all
            self._asks.one_more(line, has_slot=has_slot)
            self._wake()
            return has_slot

    def start(self, request: R, *, is_first: bool = True) -> bool:
        """Start a request that has just come, if it needs not wait.

        Uncovered, it goes to the pool, whose own line it may stand in, except where others wait for a slot: here, or
        at the gate (it is not *first*). Covered, it starts with spare units, if there are some and a slot.
        """
        with self._lock:
            claims = request.claims = self.table.covering(request.candidates)
            running = self._running
            if not claims:
                if (self.waiting_count or not is_first) and self._pool.startable <= len(running):
                    return False
                running[request] = None
                return True
            if not is_first or self._pool.startable <= len(running):
                return False
            if self.waiting_count and (line := self._lines.by_claims.get(claims)) is not None and line.waiting:
                return False
            moment = request.arrived
            may_start = self._trust.may_start_spare(self.table.version, moment)
            if not may_start or (uses := self._holdings.take(claims)) is None:
                return False
            self._started.start(request, uses, moment)
            return True

    def next(self, before: float | None = None) -> R | None:
        """Take the request out of its line that came first among those for which there are units now.

        None where there is none, no slot is free, or none came *before* that time.
        """
        with self._lock:
            if not self.waiting_count or self._pool.startable <= len(self._running):
                return None
            moment = now()
            if not self._trust.may_start(self.table.version, moment):
                return None
            chosen: Line[R] | None = None
            for line in self._lines.by_claims.values():
                if not line.waiting or not (line.granted or self._holdings.may_pass(line.claims, line, moment)):
                    continue
                if chosen is None or line.first_arrival < chosen.first_arrival:
                    chosen = line
            if chosen is None or (before is not None and chosen.first_arrival >= before):
                return None
            return self._start_first(chosen, moment)

    def start_uncovered(self, request: R) -> bool:
        """A request that needs no permit goes to the pool. False where a limit covers it by now."""
        with self._lock:
            request.claims = self.table.covering(request.candidates)
            if request.claims:
                return False
            self._running[request] = None
            return True

    def start_unlimited(self, request: R) -> None:
        """A request goes to the pool without a permit, covered or not."""
        with self._lock:
            self._started.start_unlimited(request)

    def ended(self, request: R, moment: float | None = None) -> bool:
        """A request runs no more: its units are free. False where it had ended before. *moment*: now, where known.

        Where it had a permit, call :meth:`watch_idle` when the next has had its turn.
        """
        with self._lock:
            if request not in self._running:
                return False
            permit = self._started.end(request)
            if permit is None:
                return True
            if permit.is_restated:
                self._holdings.end(permit.uses)
            else:
                self._holdings.unuse(permit.uses)
                trust = self._trust
                if not self.waiting_count and not trust.contended and not trust.shares and not trust.is_stopping:
                    return True  # they are spare for the next that comes, or idle soon
                line = self._lines.by_claims.get(permit.claims)
                if line is not None and line.lacks and self._holdings.may_pass(line.claims, line, moment):
                    return True  # its slot and its units go to the next of the line
                self._holdings.settle(limits_of(permit.claims))
            if self.waiting_count:
                self._asks.slots_changed()
            if self._outbox.due_at is not None:
                self._wake()
            return True

    def leave(self, request: R) -> bool:
        """Take a request out of its line without a permit (revoked, expired). False where it had left before."""
        with self._lock:
            line = self._lines.remove(request)
            if line is None:
                return False
            request.claims = line.claims
            self.waiting_count -= 1
            self._asks.trim(line)
            self._asks.settle(line.limits)
            self._asks.ask(line)
            self._lines.drop_if_idle(line)
            self._wake()
            return True

    def leave_all(self) -> list[R]:
        """Take every request out of its line, without a permit; in order of arrival."""
        with self._lock:
            left = sorted(self._lines.waiting(), key=lambda request: request.arrived)
            self._clear_lines()
            return left

    def uncovered(self) -> list[R]:
        """Requests that waited here and that no limit covers any more, in order of arrival. Each is given once."""
        if not self._lines.freed:  # without the lock: whoever comes a moment later is given the next time
            return []
        with self._lock:
            freed = self._lines.take_freed()
            self.waiting_count -= len(freed)
            return freed

    def stop(self) -> None:
        """The worker stops: nothing waits here any more, and permits go back as soon as their tasks end."""
        with self._lock:
            self._trust.is_stopping = True
            self._meters.clear()
            self._clear_lines()

    # -- The gate's side: what goes back ----------------------------------------------------------------

    def take_out(self, queues: Container[str], count: int) -> list[R]:
        """Take requests of these queues that may move out of their lines without permits; in order of arrival.

        Where there are more, the last of them: so those of the next call go back to their positions before these.
        """
        with self._lock:
            found = self._lines.last_movable(queues, count)
            for request in found:
                self.leave(request)
            return found

    # -- The link's side ---------------------------------------------------------------------------------

    def retire_idle(self) -> float | None:
        """Release what was granted and not used, or spare, for too long; return the seconds until more may be."""
        with self._lock:
            soonest = self._asks.release_idle()
            self._watches_idle = soonest is not None
            if self._outbox.due_at is not None:
                self._wake()  # it may be the event loop that says so
            return soonest

    def collect(self, epoch: str, number: int, *, confirmed: int, full: bool) -> Sync:
        """What to tell Redis now. It counts as said: after a failure call :meth:`sync_failed`."""
        with self._lock:
            self._woken_for = None
            return self._exchange.collect(self.session, self.table.version, epoch, number, confirmed, full=full)

    def heartbeat(self, epoch: str, number: int, *, confirmed: int) -> Heartbeat | None:
        """What to tell Redis where all that it was told still holds, but for what runs; None: :meth:`collect`."""
        with self._lock:
            return self._exchange.heartbeat(self.session, self.table.version, epoch, number, confirmed)

    def sync_failed(self) -> None:
        """The last sync may not have arrived: the next one states everything."""
        with self._lock:
            self._exchange.sync_failed()

    def apply(self, reply: Synced, lease_ends: float, reuse_ends: float) -> bool:
        """Take in the answer to a sync. Times by :func:`now`. Return whether the gate may have something to do."""
        with self._lock:
            is_news = self._exchange.answered(reply, lease_ends, reuse_ends)
            if reply.changes is not None:
                is_news = self._take_changes(reply.changes, reply.version) or is_news
            self._asks.plan_moves()
            self._watch_idle()
            return is_news

    def notice(self, notice: Notice) -> bool:
        """Take in what Redis said unasked. Return whether the gate may have something to do."""
        with self._lock:
            is_news = self._exchange.noticed(notice)
            if notice.version is not None and notice.version != self.table.version:
                is_news = self._hear_of_table(notice, notice.version) or is_news
            self._asks.plan_moves()
            self._watch_idle()
            return is_news

    def holdings(self) -> Stated:
        """What runs under limits. All else is void."""
        with self._lock:
            self._started.adopt()
            self._asks.void()
            self._holdings.void()
            self._outbox.is_said()
            units = {limit: holding.held for limit, holding in self._holdings.by_limit.items()}
            return Stated(units, self._exchange.running(), self._trust.fence)

    def opened(self, session: str, version: int, lease_ends: float) -> None:
        """A session was opened, with what :meth:`holdings` gave as its first grant; the limit table has this *version*.

        That may be more than a limit allows, and others may wait. The answers to the first syncs say so, and tell the
        table; until it is whole the limits of before hold, and nothing starts under them: no permit passes on either.
        """
        with self._lock:
            self.session = session
            self._exchange.opened(lease_ends, version)
            self.table = LimitTable(self.table, version=-1)

    # -- Its own, with the lock held ---------------------------------------------------------------------

    def _clear_lines(self) -> None:
        self._lines.clear()
        self.waiting_count = sum(map(len, self._lines.freed))
        self._asks.ask_for_all()
        self._wake()

    def _take_changes(self, changes: Changes, newest: int, delay: float = 0.0) -> bool:
        """Take in changes of the limit table; return whether another one holds.

        Redis is told within *delay* seconds of what comes of them: what waits here goes by the new table at once, what
        runs is stated with the next sync.
        """
        self._outbox.due(delay)
        if not self._told.takes(changes):
            return False
        limits = self._told.take(changes, newest)
        if limits is None:
            if self.table.version >= 0:  # Redis has begun anew: the data is not that which it told of
                self.table = LimitTable(self.table, version=-1)
            return False
        before, table = self.table, LimitTable(limits, self._told.known)
        self.table = table
        self._asks.go_by(before, table, delay)
        self._started.go_by(table)
        return True

    def _hear_of_table(self, notice: Notice, version: int) -> bool:
        """Redis has another table. Return whether it holds here already.

        Many sessions hear of it in the same moment, and each has a part of its own of the time in which they sync.
        """
        trust, changes = self._trust, notice.changes
        trust.table_version = max(trust.table_version, version)  # an older one is no reason to start anything
        delay = notice.spread * (zlib.crc32(self.session.encode()) >> 16) / 0x10000
        if changes is None or changes.before < 0 or not self._told.is_whole or not self._told.takes(changes):
            self._outbox.due(delay)
            return False
        # Redis says with the next sync who else waits for what there is less of.
        for row in changes.rows:
            if row.max is not None and row.max < self.table.get(row.limit, math.inf):
                trust.contended.setdefault(row.limit, 0)
        return self._take_changes(changes, version, delay)

    def _start_first(self, line: Line[R], moment: float) -> R:
        """The first of a line starts, with what was granted for it or with spare units."""
        request, claims = line.pop(), line.claims
        self.waiting_count -= 1
        request.claims = claims
        grant = self._asks.take_granted(line) if line.granted else 0
        uses = self._holdings.uses(claims)
        self._holdings.use(uses, is_new=grant > 0)
        self._started.start(request, uses, moment, grant)
        if self._trust.contended or len(self._lines.by_claims) > 1:
            if not grant:
                self._asks.pass_by(line)
            self._asks.settle(line.limits)
        elif 0 < line.asked <= line.waiting:
            return request  # as many lack something as before, and there is a slot less
        if line.waiting or line.asked:
            self._asks.ask(line)
        return request
