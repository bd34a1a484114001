"""The permits of this session, kept in memory: what it holds, what it asks for, and what it has yet to tell Redis.

    gate -> Ledger -> link -> Redis;  Redis -> link -> Ledger -> gate

Thread: any. One lock, and no I/O under it, so that the worker's event loop never waits for Redis: the gate takes and
returns permits, the link carries the differences away and brings grants back.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from celery_gconc.limits.table import LimitTable
from celery_gconc.protocol.messages import Held, Notice, Sync, Synced
from celery_gconc.worker.ledger.book import Book
from celery_gconc.worker.ledger.lines import Line
from celery_gconc.worker.ledger.moves import Answer
from celery_gconc.worker.ledger.permit import Permit
from celery_gconc.worker.ledger.request import R

#: Within how many seconds Redis hears which queues messages are taken of.
TAKES_SECONDS = 1.0


class Ledger(Book[R]):
    """The permits of one session at a time. Every method here takes the lock; :class:`Book` has the questions.

    An answer may be old by the time that somebody acts on it, which is done by a method here, and that looks again.
    """

    # -- The gate's side: requests -----------------------------------------------------------------------

    def wait(self, request: R) -> None:
        """Put a request in this session's line; :meth:`next` gives it when there is a permit for it.

        Where no limit covers it any more, :meth:`uncovered` gives it.
        """
        with self._lock:
            self.waiting_count += 1
            limits = request.limits = self.table.covering(request.names)
            if not limits:
                self._lines.freed.append((request,))
                return
            lines = self._lines
            lines.put(lines.line(limits), request)
            if len(lines.by_limits) > 1:
                self._permits.recall()  # what is idle for other sets of limits may be what this one waits for
            self._permits.ask(limits)
            self._wake()

    def take(self, request: R) -> bool:
        """Give a request a spare permit, if there is one, a slot is free, and nobody waits for it here."""
        with self._lock:
            limits = request.limits = self.table.covering(request.names)
            line = self._lines.by_limits.get(limits)
            if line is None or line.waiting or not line.spare or self._pool.startable <= len(self._running):
                return False
            permit = self._trust.usable(line, self.table.version)
            if permit is None:
                return False
            self._permits.give(line, permit, request)
            return True

    def next(self, before: float | None = None) -> R | None:
        """Take the request out of its line that came first among those for which there is a permit now.

        None where there is none, no slot is free, or none came *before* that time.
        """
        with self._lock:
            if not self.waiting_count or self._pool.startable <= len(self._running):
                return None
            chosen: tuple[Line[R], Permit] | None = None
            for line in self._lines.by_limits.values():
                if (
                    not line.spare
                    or (first := line.first()) is None
                    or (before is not None and first.arrived >= before)
                ):
                    continue
                permit = self._trust.usable(line, self.table.version)
                if permit is not None:
                    chosen, before = (line, permit), first.arrived
            if chosen is None:
                return None
            line, permit = chosen
            request = line.pop()
            request.limits = line.limits
            self.waiting_count -= 1
            self._permits.give(line, permit, request)
            return request

    def start_uncovered(self, request: R) -> bool:
        """A request that needs no permit goes to the pool. False where a limit covers it by now."""
        with self._lock:
            request.limits = self.table.covering(request.names)
            if request.limits:
                return False
            self._running[request] = None
            return True

    def start_unlimited(self, request: R) -> None:
        """A request goes to the pool without a permit, covered or not."""
        with self._lock:
            self._started.start_unlimited(request)

    def ended(self, request: R) -> bool:
        """A request runs no more: its permit is free. False where it had ended before.

        Call :meth:`watch_idle` when the next has had its turn.
        """
        with self._lock:
            if request not in self._running:
                return False
            permit = self._started.end(request)
            if permit is None:
                return True
            line = self._permits.keep(permit)
            if line is not None and line.waiting:
                return True  # its slot and its permit go to the next of the line
            if self.waiting_count:
                self._permits.slots_changed()
            if self._outbox.due_at is not None:
                self._wake()
            return True

    def watch_idle(self) -> None:
        """Have the link release a permit that nobody took: it may be idle for a moment only."""
        if not self._watches_idle and self._lines.by_limits:  # without the lock: each end of a task calls this again
            with self._lock:
                self._wake()

    def leave(self, request: R) -> bool:
        """Take a request out of its line without a permit (revoked, expired). False where it had left before."""
        with self._lock:
            line = self._lines.remove(request)
            if line is None:
                return False
            request.limits = line.limits
            self.waiting_count -= 1
            self._permits.ask(line.limits)
            self._lines.drop_if_idle(line.limits)
            self._wake()
            return True

    def leave_all(self) -> list[R]:
        """Take every request out of its line, without a permit; in order of arrival."""
        with self._lock:
            left = sorted(self._lines.waiting(), key=lambda request: request.arrived)
            self._clear_lines()
            self._wake()
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
            self._permits.release_all()
            self._clear_lines()
            self._wake()

    # -- The gate's side: slots and queues ---------------------------------------------------------------

    def reserve(self, slots: int) -> None:
        """Keep this many of the free slots for requests that no limit covers. Called by who starts requests only."""
        if self._permits.reserved != slots:
            with self._lock:
                self._permits.reserved = slots

    def slots_changed(self) -> None:
        """Slots came or went: ask for what could start now, give back what can't."""
        with self._lock:
            if self.waiting_count:
                self._permits.slots_changed()
                self._wake()

    def tell_room(self) -> None:
        """Called every now and then: Redis is to hear of room that it doesn't know of, once it stays for a while."""
        with self._lock:
            had_unknown_room = self._has_unknown_room
            self._has_unknown_room = self._trust.believed_room <= 0 < self._permits.room()
            if had_unknown_room and self._has_unknown_room:
                self._outbox.due()
                self._wake()

    def take_queues(self, source: str, queues: Sequence[str]) -> None:
        """Redis is to know which queues messages are taken of, and at which broker (a digest)."""
        with self._lock:
            if self._moves.take(source, queues):
                self._outbox.due(TAKES_SECONDS)
                self._wake()

    def leave_queues(self, queues: Iterable[str]) -> None:
        """These queues are left alone from now on, and no others: Redis is asked whether others have room for them."""
        with self._lock:
            self._moves.leave(frozenset(queues))
            self._permits.plan_moves()
            self._wake()

    def take_answer(self) -> Answer | None:
        """What Redis has said of queues whose messages find no slot here, or that are left alone. Each answer once."""
        with self._lock:
            return self._moves.take_answer()

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
        """Release permits that were spare for too long; return the seconds until the next would be."""
        with self._lock:
            soonest = self._permits.release_idle()
            self._watches_idle = soonest is not None
            return soonest

    def collect(self, epoch: str, number: int, *, confirmed: int, full: bool) -> Sync:
        """What to tell Redis now. It counts as said: after a failure call :meth:`sync_failed`."""
        with self._lock:
            self._woken_for = None
            return self._exchange.collect(
                self.session, self.table.version, epoch, number, confirmed=confirmed, full=full
            )

    def sync_failed(self) -> None:
        """The last sync may not have arrived: the next one states everything."""
        with self._lock:
            self._exchange.sync_failed()

    def apply(self, reply: Synced, lease_ends: float, reuse_ends: float) -> bool:
        """Take in the answer to a sync. Times by :func:`now`. Return whether the gate may have something to do."""
        with self._lock:
            is_news = self._exchange.answered(reply, lease_ends, reuse_ends)
            if reply.table is not None:
                self._set_table(reply.table, reply.version)
            self._permits.plan_moves()
            return is_news

    def notice(self, notice: Notice) -> bool:
        """Take in what Redis said unasked. Return whether the gate may have something to do."""
        with self._lock:
            is_news = self._exchange.noticed(notice, self.table.version)
            self._permits.plan_moves()
            return is_news

    def holdings(self) -> tuple[list[Held], int]:
        """What runs under limits, and the table version that this goes by. Spare permits are void."""
        with self._lock:
            self._permits.void()
            self._started.adopt()
            self._outbox.clear()
            return self._exchange.held(), self.table.version

    def opened(self, session: str, table: Mapping[str, int], version: int, lease_ends: float) -> None:
        """A session was opened, with what :meth:`holdings` gave as its first grant.

        That may be more than a limit allows, so no permit is used again before the answer to the first sync.
        """
        with self._lock:
            self.session = session
            self._exchange.opened(lease_ends)
            self._set_table(table, version)
            for limits in self._lines.occupied():
                self._permits.ask(limits)  # what was asked for under an earlier session is void

    # -- Its own, with the lock held ---------------------------------------------------------------------

    def _clear_lines(self) -> None:
        self._lines.clear()
        self.waiting_count = sum(map(len, self._lines.freed))
        self._permits.ask_for_all()

    def _set_table(self, limits: Mapping[str, int], version: int) -> None:
        """Another table holds: what waits here goes by it at once, what runs is stated with the next sync."""
        before, table = self.table, LimitTable(limits, version)
        self.table = table
        self._trust.table_version = version
        self._outbox.due()
        self._permits.go_by(before, table)
        self._started.go_by(table)
        for changed in self._lines.go_by(table):
            self._permits.ask(changed)
            self._lines.drop_if_idle(changed)

    def _wake(self) -> None:
        """Ring where something is due before the link comes anyway, or a permit has begun to be idle."""
        due_at = self._outbox.due_at
        if due_at is None:
            if self._watches_idle or not any(line.spare for line in self._lines.by_limits.values()):
                return
            self._watches_idle = True
        elif self._woken_for is not None and due_at >= self._woken_for:
            return
        self._woken_for = due_at
        self._bell.ring()
