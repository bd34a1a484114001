"""What this worker counts of its limited tasks between two heartbeats: waits, holds, and what went wrong.

    Events, session (granted, released, count) -> Counters -> session (a Record, with a heartbeat) -> Redis

Thread: any adds; the link's collects.
"""

from __future__ import annotations

import random
import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from celery_gconc.limits.claims import Limits
from celery_gconc.protocol.counted import BUCKETS, RECORDED, Lately, LimitCounts, Record, Stall

#: How many ended tasks of a limit are sent one by one with a heartbeat; of more, a random choice.
MAX_SAMPLES = 64

#: Of a limit whose parked requests Redis may know or not, as an answer was lost.
_UNKNOWN = -1

#: How many events may lie here before they are added up, where no heartbeat comes to do it.
MAX_EVENTS = 10_000


@dataclass(slots=True)
class _Counts:
    """One limit's, since the last heartbeat that brought them. Times in seconds."""

    grants: int = 0
    wait: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    waited: float = 0.0
    hold: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    held: float = 0.0
    ended: int = 0
    #: (when it ended, waited, held)
    samples: list[tuple[float, float, float]] = field(default_factory=list)

    def add_grant(self, waited: float) -> None:
        self.grants += 1
        self.wait[bisect_left(BUCKETS, waited)] += 1
        self.waited += waited

    def add_end(self, at: float, waited: float, held: float) -> None:
        self.ended += 1
        self.hold[bisect_left(BUCKETS, held)] += 1
        self.held += held
        if len(self.samples) < MAX_SAMPLES:
            self.samples.append((at, waited, held))
        elif (index := random.randrange(self.ended)) < MAX_SAMPLES:  # each is as likely as any other to stay
            self.samples[index] = (at, waited, held)


class Counters:
    """One worker's. Made before all that count."""

    def __init__(self) -> None:
        #: Whether the worker starts nothing though it could. Written by the stall watch, on its thread.
        self.stall: Stall | None = None
        #: (limits, waited, when it ended or None, held): nothing in it has the garbage collector come back to it. Any
        #: thread appends; whoever has the lock adds them up.
        self._events: deque[tuple[Limits, float, float | None, float]] = deque()
        self._counters: deque[str] = deque()
        #: Whoever has it may change what follows. Nobody waits for it but the link's thread: others go their way.
        self._folding = threading.Lock()
        self._limits: dict[str, _Counts] = {}
        self._counts: Counter[str] = Counter()
        #: The limits of which there is something to tell still, since the last call that found all told.
        self._left: dict[str, None] = {}
        #: What Redis knows of parked requests, and whether it knows of a stall.
        self._parked_sent: dict[str, int] = {}
        self._is_stall_sent = False
        #: The limits of which it knows how many messages wait at the broker.
        self._at_broker_sent: set[str] = set()

    # -- Any thread --------------------------------------------------------------------------------------

    def granted(self, limits: Limits, waited: float) -> None:
        """A task got its permit, after so many seconds."""
        self._events.append((limits, waited, None, 0.0))  # (when it ends it is looked whether there are too many)

    def released(self, limits: Limits, at: float, waited: float, held: float) -> None:
        """A task's permit is free again."""
        self._events.append((limits, waited, at, held))
        if len(self._events) > MAX_EVENTS:
            self._relieve()

    def count(self, what: str) -> None:
        """One more of ``lease_losses``, ``redis_errors`` or ``without_redis``."""
        self._counters.append(what)
        if len(self._counters) > MAX_EVENTS:
            self._relieve()

    def _relieve(self) -> None:
        if self._folding.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._folding.release()

    # -- The link's thread -------------------------------------------------------------------------------

    def opened(self) -> None:
        """A session was opened, of which Redis knows no parked request."""
        with self._folding:
            self._parked_sent.clear()

    @contextmanager
    def collect(
        self, moment: float, parked: Mapping[str, int], at_broker: Mapping[str, int] | None = None
    ) -> Iterator[Record | None]:
        """What there is to send at *moment*, of so many limits at a time; or None.

        It counts as sent when the block ends. Where there :attr:`is_more` then, the next call yields some of that.
        Where the block raises, all of it is kept, and sent again with what comes after.
        """
        with self._folding:
            self._fold()
            if not self._left:
                self._left = self._news(parked, at_broker or {})
            limits = list(islice(self._left, RECORDED))
            record = self._record(moment, limits, parked, at_broker or {})
            if record is not None:  # until it is there, as if Redis knew something else
                self._parked_sent.update(dict.fromkeys(record.parked, _UNKNOWN))
                self._is_stall_sent = True
            yield record
            if record is not None:
                self._told(limits, record)

    @property
    def is_more(self) -> bool:
        """Whether the last call of :meth:`collect` has left something to send."""
        return bool(self._left)

    def _news(self, parked: Mapping[str, int], at_broker: Mapping[str, int]) -> dict[str, None]:
        """The limits of which there is something to tell. What waits at the broker always is: it grows old."""
        changed = [
            limit
            for limit in {**parked, **self._parked_sent}
            if parked.get(limit, 0) != self._parked_sent.get(limit, 0)
        ]
        return dict.fromkeys([*self._limits, *changed, *at_broker, *self._at_broker_sent])

    def _record(
        self, moment: float, limits: list[str], parked: Mapping[str, int], at_broker: Mapping[str, int]
    ) -> Record | None:
        stall = self.stall
        if not limits and not self._counts and stall is None and not self._is_stall_sent:
            return None
        counted = {limit: of for limit in limits if (of := self._limits.get(limit)) is not None}
        now_parked = {limit: parked.get(limit, 0) for limit in limits}
        return Record(
            limits={
                limit: LimitCounts(of.grants, tuple(of.wait), of.waited, tuple(of.hold), of.held)
                for limit, of in counted.items()
            },
            recent={
                limit: Lately(of.ended, tuple((moment - at, waited, held) for at, waited, held in of.samples))
                for limit, of in counted.items()
                if of.ended
            },
            lease_losses=self._counts["lease_losses"],
            redis_errors=self._counts["redis_errors"],
            without_redis=self._counts["without_redis"],
            parked={limit: count for limit, count in now_parked.items() if count != self._parked_sent.get(limit, 0)},
            at_broker={
                limit: at_broker.get(limit, 0)
                for limit in limits
                if limit in at_broker or limit in self._at_broker_sent
            },
            stall=stall,
        )

    def _told(self, limits: list[str], record: Record) -> None:
        """A record has come to Redis."""
        for limit in limits:
            del self._left[limit]
            self._limits.pop(limit, None)
        for limit, count in record.parked.items():
            if count:
                self._parked_sent[limit] = count
            else:
                del self._parked_sent[limit]
        self._at_broker_sent.difference_update(record.at_broker)
        self._at_broker_sent.update(limit for limit, count in record.at_broker.items() if count)
        self._is_stall_sent = record.stall is not None
        self._counts = Counter()

    def _fold(self) -> None:
        while self._events:
            limits, waited, at, held = self._events.popleft()
            for limit in limits:
                counts = self._limits.get(limit)
                if counts is None:
                    counts = self._limits[limit] = _Counts()
                if at is None:
                    counts.add_grant(waited)
                else:
                    counts.add_end(at, waited, held)
        while self._counters:
            self._counts[self._counters.popleft()] += 1
