"""What a session's ledger is told of the worker's slots and queues.

    gate, intake, stall watch -> Slots -> Asks, Moves -> link -> Redis

Thread: any; each method takes the ledger's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from celery_gconc.clock import now
from celery_gconc.worker.ledger.book import Book
from celery_gconc.worker.ledger.holdings import LAZY_SECONDS
from celery_gconc.worker.ledger.lines import Line
from celery_gconc.worker.ledger.moves import Answer
from celery_gconc.worker.ledger.request import R

#: Within how many seconds Redis hears which queues messages are taken of.
TAKES_SECONDS = 1.0


class Slots(Book[R]):
    """The part of :class:`~celery_gconc.worker.ledger.ledger.Ledger` that hears of slots and queues."""

    def reserve(self, slots: int) -> None:
        """Keep this many of the free slots for requests that no limit covers. Called by who starts requests only."""
        if self._asks.reserved != slots:
            with self._lock:
                self._asks.reserved = slots

    def slots_changed(self) -> None:
        """Slots came or went: ask for what could start now, give back what can't."""
        with self._lock:
            if self.waiting_count:
                self._asks.slots_changed()
                self._wake()

    def were_started(self) -> None:
        """Requests have gone to the pool: only now is the link woken for what Redis is to hear of that."""
        if self._outbox.due_at is not None:  # without the lock: who starts requests has written it
            with self._lock:
                self._wake()

    def watch_idle(self) -> None:
        """Have the link release units that nobody took: they may be spare for a moment only."""
        if not self._watches_idle and self._holdings.by_limit:  # without the lock: each end of a task calls this again
            with self._lock:
                self._wake()

    def tell_room(self) -> None:
        """Called every now and then: Redis is to hear of room that it doesn't know of, once it stays for a while."""
        with self._lock:
            had_unknown_room = self._has_unknown_room
            self._has_unknown_room = self._trust.believed_room <= 0 < self._asks.room()
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
            self._asks.plan_moves()
            self._wake()

    # -- Queues whose messages wait at the broker --------------------------------------------------------

    def may_meter(self, queue_limits: Iterable[str]) -> None:
        """The queues of these limits, and no others, may leave their messages at the broker while a limit is full."""
        with self._lock:
            self._meters.queue_limits = frozenset(queue_limits)

    def meter(self, limit: str, wanted: int) -> None:
        """What waits for a queue's limit waits at the broker: so many more would be read, had this session units.

        0: there is no slot for any, so spare units go back.
        """
        with self._lock:
            if self._meters.set(limit, wanted):
                self._outbox.due(0.0 if wanted else LAZY_SECONDS)
            if not wanted:
                self._asks.settle((limit,))
            self._wake()

    def note_at_broker(self, counts: Mapping[str, int]) -> None:
        """So many messages of metered queues wait at the broker, by their limits."""
        with self._lock:
            self._meters.counted = dict(counts)

    def end_meter(self, limit: str) -> None:
        """A queue is read as any other, or not at all: nothing is kept for what it may bring."""
        with self._lock:
            if self._meters.end(limit):
                self._outbox.due(LAZY_SECONDS)
            self._asks.settle((limit,))
            self._wake()

    def metered(self, limit: str) -> tuple[int, int, int]:
        """How many messages of a metered queue there are units for; how many wait here; how many units are in use."""
        with self._lock:
            waiting = sum(line.waiting for line in self._lines.occupied_for(limit))
            holding = self._holdings.by_limit.get(limit)
            if holding is None:
                return 0, waiting, 0
            may_start = holding.spare > 0 and self._trust.may_start_spare(self.table.version, now())
            return max(holding.spare - waiting, 0) if may_start else 0, waiting, holding.used

    @property
    def has_grown(self) -> bool:
        """Whether units have come with which metered queues are to be read. Without the lock: who looks looks again."""
        return bool(self._meters.grown)

    def take_grown(self) -> set[str]:
        """The limits of which they have; each is given once."""
        with self._lock:
            grown, self._meters.grown = self._meters.grown, set()
            return grown

    def lacks_other(self, limit: str) -> bool:
        """Whether something waits here that claims a limit and stands in the line of another one."""
        with self._lock:
            lines = self._lines.occupied_for(limit)
            return any(line.at is not None and line.at[0] != limit for line in lines)

    def lacks(self, limit: str, since: float) -> bool:
        """Whether something waits here for a limit, and has since a moment, by :func:`now`.

        As Redis has said; or since it came, where it waits for units that are in use here.
        """
        with self._lock:
            is_metered = self._meters.is_metered(limit)
            return any(
                line.first_arrival <= since if is_metered else self._stands(line, limit, since)
                for line in self._lines.occupied_for(limit)
            )

    def take_answer(self) -> Answer | None:
        """What Redis has said of queues whose messages find no slot here, or that are left alone. Each answer once."""
        with self._lock:
            return self._moves.take_answer()

    # -- The link's side ---------------------------------------------------------------------------------

    def has_news(self) -> bool:
        """Whether Redis is to hear something still, now that the next sync is due. Nothing is due where it isn't."""
        with self._lock:
            outbox = self._outbox
            if outbox.has_news:
                return True
            lines = list(outbox.lines)
            outbox.is_settled()
            for line in lines:
                self._lines.drop_if_idle(line)
            self._woken_for = None
            return False

    def _stands(self, line: Line[R], limit: str, since: float) -> bool:
        """Whether a line of ours has stood in Redis' line of a limit since a moment, and its turn has not come."""
        at = line.at
        return at is not None and at[0] == limit and at[1] <= since and not self._trust.is_offered

    # -- For whoever has the lock ------------------------------------------------------------------------

    def _has_spare(self) -> bool:
        return self._lines.granted_count > 0 or any(holding.spare for holding in self._holdings.by_limit.values())

    def _watch_idle(self) -> None:
        """Ring where something has begun to be spare: a sync that is due brings the link anyway."""
        if self._outbox.due_at is None:
            self._wake()

    def _wake(self) -> None:
        """Ring where something is due before the link comes anyway, or something has begun to be spare."""
        due_at = self._outbox.due_at
        if due_at is None:
            if self._watches_idle or not self._has_spare():
                return
            self._watches_idle = True
        elif self._woken_for is not None and due_at >= self._woken_for:
            return
        self._woken_for = due_at
        self._bell.ring()
