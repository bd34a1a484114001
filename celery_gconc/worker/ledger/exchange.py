"""What a sync says, and what becomes of Redis' answers and notices.

    Outbox, Started, Lines -> Exchange.collect -> Sync;  Synced, Notice -> Exchange -> Trust, Permits

Thread: the link's, under the ledger's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice, repeat
from typing import Generic

from celery_gconc.clock import now
from celery_gconc.limits.claims import Limits
from celery_gconc.protocol.messages import Ask, Grant, Held, Notice, Sync, Synced
from celery_gconc.worker.ledger.lines import Lines
from celery_gconc.worker.ledger.moves import Moves
from celery_gconc.worker.ledger.outbox import Outbox
from celery_gconc.worker.ledger.permit import Permit
from celery_gconc.worker.ledger.permits import Permits
from celery_gconc.worker.ledger.request import R, Request
from celery_gconc.worker.ledger.started import Started
from celery_gconc.worker.ledger.trust import Trust


class Exchange(Generic[R]):
    """Reads and writes the parts; owns none of them. It writes most of Trust, and nobody else does."""

    def __init__(
        self,
        lines: Lines[R],
        started: Started[R],
        permits: Permits[R],
        trust: Trust[R],
        outbox: Outbox[R],
        moves: Moves,
    ) -> None:
        self._lines = lines
        self._started = started
        self._permits = permits
        self._trust = trust
        self._outbox = outbox
        self._moves = moves
        #: The version of the limit table that Redis had spoken of when the last sync was made.
        self._version_before_sync = -1

    # -- To Redis ----------------------------------------------------------------------------------------

    def collect(self, session: str, version: int, epoch: str, number: int, *, confirmed: int, full: bool) -> Sync:
        """What to tell Redis now."""
        trust, moves = self._trust, self._moves
        full = full or self._outbox.needs_statement
        self._started.adopt()
        trust.believed_room = self._permits.room()
        self._version_before_sync = trust.table_version
        changes = self._outbox.take()
        if trust.believed_room > 0:
            moves.caught_up()
        takes, weak = moves.say(self._lines.by_limits.values())
        return Sync(
            session=session,
            epoch=epoch,
            number=number,
            confirmed=confirmed,
            granted=trust.last_grant,
            room=trust.believed_room,
            version=version,
            ended=() if full else changes.released,
            asks=self._all_asks() if full else _asks(changes.asks),
            held=self.held() if full else [_held(r.permit, r) for r in changes.restated if r.permit is not None],
            interests=sorted(self._interests()),
            full=full,
            source=moves.source,
            takes=takes,
            growth=self._permits.pool.growth,
            weak=weak,
        )

    def sync_failed(self) -> None:
        """The last sync may not have arrived: the next one states everything."""
        self._outbox.needs_statement = True
        self._trust.is_answered = False
        self._moves.sync_failed()
        self._outbox.due()

    def held(self) -> list[Held]:
        """Every permit that this session has."""
        held = [_held(request.permit, request) for request in self._started.covered if request.permit is not None]
        held += [_held(permit) for line in self._lines.by_limits.values() for permit in line.spare]
        return held

    # -- From Redis --------------------------------------------------------------------------------------

    def opened(self, lease_ends: float) -> None:
        """A session was opened with what :meth:`held` gave as its first grant.

        That may be more than a limit allows, so no permit passes on before the answer to the first sync.
        """
        trust = self._trust
        trust.last_grant = 1
        trust.contended = {}
        trust.is_offered = False
        trust.lease_ends, trust.reuse_ends = lease_ends, 0.0
        trust.believed_room = 0
        self._outbox.needs_statement = True
        self._moves.sync_failed()
        self._outbox.due()

    def answered(self, reply: Synced, lease_ends: float, reuse_ends: float) -> bool:
        """Take in the answer to a sync. Return whether the gate may have something to do."""
        trust = self._trust
        trust.lease_ends, trust.reuse_ends = lease_ends, reuse_ends
        self._grant(reply.grants)
        trust.contended = dict(reply.contended)
        self._permits.recall()
        if trust.table_version == self._version_before_sync:
            trust.table_version = reply.version  # what was heard since comes from a later moment than the answer
        was_answered, trust.is_answered = trust.is_answered, True
        # The end of an offer is news as well: a slot was kept for it, and others may wait for that.
        is_offer_news = reply.offer != trust.is_offered and (not reply.offer or self._may_grow)
        trust.is_offered = reply.offer
        has_moves = self._moves.hear(reply.elsewhere)
        return bool(reply.grants) or reply.table is not None or not was_answered or is_offer_news or has_moves

    def noticed(self, notice: Notice, version: int) -> bool:
        """Take in a notice, under the limit table of this *version*. Return whether the gate may have something to do.

        Where grants are missing, one was lost on the way (or made up): the answer to a sync brings all.
        """
        trust = self._trust
        if self._is_whole(notice.grants):
            self._grant(notice.grants)
        else:
            self._outbox.due()
        trust.contended.update(notice.contended)
        self._permits.recall()
        trust.is_offered = trust.is_offered or notice.offer
        if notice.offer and self._permits.room() > 0:
            self._outbox.due()
        if notice.version is not None and notice.version != version:
            trust.table_version = notice.version
            self._outbox.due()
        return bool(notice.grants) or (notice.offer and self._may_grow)

    # -- Its own -----------------------------------------------------------------------------------------

    @property
    def _may_grow(self) -> bool:
        """Whether the pool may grow for an offer that there is no room for."""
        return self._permits.pool.growth is not None

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
                self._permits.grant(grant)

    def _interests(self) -> set[str]:
        """The limits that this session has to hear of: it waits for them, has a permit, or shares them with others."""
        interests = set(self._trust.contended)
        interests.update(*self._lines.by_limits)
        for request in self._started.covered:
            if request.permit is not None:
                interests.update(request.permit.limits)
        return interests

    def _all_asks(self) -> list[Ask]:
        """Every ask, for whoever it serves now."""
        asks: list[tuple[int, Limits, R]] = []
        for limits, line in self._lines.by_limits.items():
            if not line.asked or not line.waiting:
                continue
            # In the moment before a spare permit is used, its request is the last one's too.
            *_, last = islice(line.after(0), len(line.spare) + len(line.asked))
            requests = chain(line.after(len(line.spare)), repeat(last))
            asks += [(number, limits, request) for number, request in zip(line.asked, requests, strict=False)]
        return _asks(asks)


def _asks(asks: Sequence[tuple[int, Limits, Request]]) -> list[Ask]:
    moment = now()
    return [
        Ask(number, limits, moment - request.arrived, request.task_id, request.task) for number, limits, request in asks
    ]


def _held(permit: Permit, request: Request | None = None) -> Held:
    if request is None:
        return Held(permit.number, permit.limits, idle=True, fence=permit.fence)
    age = now() - request.started_at if request.started_at else 0.0
    return Held(permit.number, permit.limits, request.task_id, request.task, fence=permit.fence, age=age)
