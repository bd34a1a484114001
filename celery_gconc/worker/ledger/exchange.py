"""What a session says to Redis in a sync, and what becomes of the answer.

    Ledger.collect -> Exchange -> Sync;  Synced, Notice -> Exchange -> Asks, Holdings, Trust, Moves

Thread: any, under the ledger's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

from celery_gconc.clock import now
from celery_gconc.protocol.messages import Grant, Heartbeat, Notice, Running, Sync, Synced, running_text
from celery_gconc.worker.ledger.asks import Asks
from celery_gconc.worker.ledger.holdings import Holdings
from celery_gconc.worker.ledger.lines import Lines
from celery_gconc.worker.ledger.meters import Meters
from celery_gconc.worker.ledger.moves import Moves
from celery_gconc.worker.ledger.outbox import Outbox
from celery_gconc.worker.ledger.request import R
from celery_gconc.worker.ledger.started import Started
from celery_gconc.worker.ledger.told import Told
from celery_gconc.worker.ledger.trust import Trust


class Exchange(Generic[R]):
    """Brings this session and Redis in line."""

    def __init__(
        self,
        told: Told,
        lines: Lines[R],
        started: Started[R],
        holdings: Holdings[R],
        asks: Asks[R],
        trust: Trust,
        outbox: Outbox[R],
        moves: Moves,
        meters: Meters,
    ) -> None:
        self._told = told
        self._lines = lines
        self._started = started
        self._holdings = holdings
        self._asks = asks
        self._trust = trust
        self._outbox = outbox
        self._moves = moves
        self._meters = meters
        #: The version of the limit table that Redis had spoken of when the last sync was made.
        self._version_before_sync = -1
        #: How often what runs had changed when Redis was last told of it; -1: it may not know.
        self._changes_told = -1
        #: Which units it was told to be idle, with the last statement.
        self._idle_told: dict[str, int] = {}

    # -- To Redis ----------------------------------------------------------------------------------------

    def collect(self, session: str, version: int, epoch: str, number: int, confirmed: int, *, full: bool) -> Sync:
        """What to tell Redis now."""
        trust, moves, outbox, by_limit = self._trust, self._moves, self._outbox, self._holdings.by_limit
        anew = outbox.needs_statement
        full = full or anew
        self._started.adopt()
        # Until it knows all limits it starts nothing, so it is given nothing.
        trust.believed_room = self._asks.room() if self._told.is_whole else 0
        self._told.is_urgent = not self._told.is_whole
        self._version_before_sync = trust.table_version
        if trust.believed_room > 0:
            moves.caught_up()
        takes, weak = moves.say(self._lines.by_claims.values())
        told = [line for line in self._lines.by_claims.values() if line.asked] if full else outbox.lines
        wants = [self._asks.said(line, anew=anew) for line in told]
        changed = by_limit if full else outbox.limits
        units = {limit: by_limit[limit].held if limit in by_limit else 0 for limit in changed}
        running = self._running() if full else None
        sync = Sync(
            session=session,
            epoch=epoch,
            number=number,
            confirmed=confirmed,
            granted=trust.last_grant,
            room=trust.believed_room,
            version=version,
            known=None if self._told.known == version else self._told.known,
            units=units,
            wants=wants,
            interests=sorted(self._interests() - units.keys()),
            full=full,
            fence=trust.fence if full else None,
            running=running,
            idle=self._idle() if full else {},
            over=[] if running is not None else list(outbox.over),
            ended=[] if full else list(outbox.ended),
            source=moves.source,
            takes=takes,
            growth=self._asks.pool.growth,
            weak=weak,
            hungry=self._meters.say(anew=full),
        )
        said = list(self._lines.by_claims.values()) if full else list(outbox.lines)
        outbox.is_said()
        for line in said:
            if not line.asked:
                line.told.clear()
            self._lines.drop_if_idle(line)
        return sync

    def heartbeat(self, session: str, version: int, epoch: str, number: int, confirmed: int) -> Heartbeat | None:
        """What to tell Redis where all that it was told still holds, but for what runs; None: make a statement.

        So it is where nothing is to be said, nothing waits here, and nobody else is known to wait for units of ours.
        """
        trust, outbox = self._trust, self._outbox
        if outbox.due_at is not None or outbox.needs_statement or outbox.limits or outbox.lines:
            return None
        if not self._told.is_whole or self._lines.by_claims or trust.contended or trust.shares:
            return None
        if not trust.has_numbers or self._meters.has_news:
            return None
        if not self._moves.is_quiet or not self._started.is_adopted:
            return None
        self._version_before_sync = trust.table_version
        trust.believed_room = self._asks.room()
        before, running = self._idle_told, self._running()
        heartbeat = Heartbeat(
            session=session,
            epoch=epoch,
            number=number,
            confirmed=confirmed,
            granted=trust.last_grant,
            room=trust.believed_room,
            version=version,
            growth=self._asks.pool.growth,
            running=running,
            idle=None if self._idle() == before else self._idle_told,
        )
        if running is not None:
            outbox.is_said()
        return heartbeat

    def sync_failed(self) -> None:
        """The last sync may not have arrived: the next one states everything."""
        self._outbox.needs_statement = True
        self._changes_told = -1
        self._trust.is_answered = False
        self._moves.sync_failed()
        self._meters.sync_failed()
        self._outbox.due()

    def running(self) -> str:
        """What runs under limits, for a session that is opened."""
        return running_text(self._rows())

    # -- From Redis --------------------------------------------------------------------------------------

    def opened(self, lease_ends: float, version: int) -> None:
        """A session was opened with the units that are in use, as of its first grant.

        Nothing starts before all of the limit table is known, whose newest *version* this is.
        """
        trust = self._trust
        trust.last_grant = 1
        trust.contended, trust.shares = {}, {}
        trust.is_offered = False
        trust.lease_ends = lease_ends
        trust.table_version = version
        self._told.opened()
        trust.believed_room = 0
        self._outbox.needs_statement = True
        self._changes_told = -1
        self._moves.sync_failed()
        self._meters.sync_failed()
        self._outbox.due()
        for line in self._lines.occupied():
            self._asks.ask(line)  # what was asked for under an earlier session is void

    def answered(self, reply: Synced, lease_ends: float, reuse_ends: float) -> bool:
        """Take in the answer to a sync. Return whether the gate may have something to do."""
        trust = self._trust
        trust.lease_ends, trust.reuse_ends = lease_ends, reuse_ends
        trust.take_fence(reply.fence)
        self._grant(reply.grants)
        trust.contended, trust.shares = dict(reply.contended), dict(reply.shares)
        self._asks.stand(reply.stands)
        self._asks.settle()
        if trust.table_version == self._version_before_sync:
            trust.table_version = reply.version  # what was heard since comes from a later moment than the answer
        was_answered, trust.is_answered = trust.is_answered, True
        # The end of an offer is news as well: a slot was kept for it, and others may wait for that.
        is_offer_news = reply.offer != trust.is_offered and (not reply.offer or self._may_grow)
        trust.is_offered = reply.offer
        has_moves = self._moves.hear(reply.elsewhere)
        if reply.unclear:
            self.sync_failed()
        return bool(reply.grants) or not was_answered or is_offer_news or has_moves

    def noticed(self, notice: Notice) -> bool:
        """Take in a notice, but for the limit table. Return whether the gate may have something to do.

        Where grants are missing, one was lost on the way (or made up): the answer to a sync brings all.
        """
        trust = self._trust
        if self._is_whole(notice.grants):
            self._grant(notice.grants)
        else:
            self._outbox.due()
        trust.contended.update(notice.contended)
        trust.shares.update(notice.shares)
        self._asks.settle()
        trust.is_offered = trust.is_offered or notice.offer
        if notice.offer and self._asks.room() > 0:
            self._outbox.due()
        return bool(notice.grants) or (notice.offer and self._may_grow)

    # -- Its own -----------------------------------------------------------------------------------------

    @property
    def _may_grow(self) -> bool:
        """Whether the pool may grow for an offer that there is no room for."""
        return self._asks.pool.growth is not None

    def _is_whole(self, grants: Sequence[Grant]) -> bool:
        """Whether these follow on what has arrived, or arrived before, without a gap."""
        numbers = [grant.grant for grant in grants]
        if not numbers:
            return True
        first = numbers[0]
        return first <= self._trust.last_grant + 1 and numbers == list(range(first, first + len(numbers)))

    def _grant(self, grants: Sequence[Grant]) -> None:
        trust = self._trust
        for grant in grants:
            if grant.grant > trust.last_grant:
                trust.last_grant = grant.grant
                trust.believed_room -= 1
                self._asks.grant(grant)

    def _interests(self) -> set[str]:
        """The limits that this session has to hear of: it waits for them, has units, or shares them with others."""
        interests = {*self._trust.contended, *self._trust.shares, *self._holdings.by_limit}
        for line in self._lines.by_claims.values():
            interests.update(line.limits)
        return interests

    def _idle(self) -> dict[str, int]:
        """The units that no task uses, of which Redis is told now."""
        self._idle_told = {
            limit: holding.spare for limit, holding in self._holdings.by_limit.items() if holding.spare > 0
        }
        return self._idle_told

    def _running(self) -> str | None:
        """What runs, where that has changed since Redis was told; from then on it is told of each end by id."""
        if self._changes_told == self._started.changes:
            return None
        self._changes_told = self._started.changes
        for request in self._started.covered:
            if request.permit is not None:
                request.permit.is_stated = True
        return self.running()

    def _rows(self) -> list[Running]:
        moment = now()
        return [
            Running(
                request.permit.claims,
                request.task_id,
                request.task,
                moment - request.started_at if request.started_at else 0.0,
            )
            for request in self._started.covered
            if request.permit is not None
        ]
