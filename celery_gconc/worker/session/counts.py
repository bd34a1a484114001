"""What this session counts of its limited tasks between two heartbeats: waits, holds, and what went wrong.

gate, link (granted, released, ...) -> Tally -> link (a Record, with a heartbeat) -> Redis
"""

from __future__ import annotations

import random
import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from celery_gconc.limits.claims import Limits
from celery_gconc.protocol.messages import BUCKETS, Lately, LimitCounts, Record, Stall

#: How many ended tasks of a limit are told one by one with a heartbeat; of more, a random choice.
MOST_SAMPLES = 64

#: How many events may lie here before they are added up, where no heartbeat comes to do it.
MOST_EVENTS = 10_000


@dataclass(slots=True)
class _Counts:
    """One limit's, since the last heartbeat that told them. Times in seconds."""

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
        if len(self.samples) < MOST_SAMPLES:
            self.samples.append((at, waited, held))
        elif (place := random.randrange(self.ended)) < MOST_SAMPLES:  # each is as likely as any other to stay
            self.samples[place] = (at, waited, held)


class Tally:
    """One worker's. The first four methods are for any thread; the others for the link's."""

    def __init__(self) -> None:
        #: (limits, waited, when it ended or None, held); appended to without a lock.
        self._events: deque[tuple[Limits, float, float | None, float]] = deque()
        self._counters: deque[str] = deque()
        self._folding = threading.Lock()
        self._limits: dict[str, _Counts] = {}
        self._counts: Counter[str] = Counter()
        self._parked_told: Mapping[str, int] = {}
        self._is_stall_told = False

    def granted(self, limits: Limits, waited: float) -> None:
        """A task got its permit, after so many seconds."""
        self._events.append((limits, waited, None, 0.0))
        self._relieve()

    def released(self, limits: Limits, at: float, waited: float, held: float) -> None:
        """A task's permit is free again."""
        self._events.append((limits, waited, at, held))
        self._relieve()

    def count(self, what: str) -> None:
        """One more of ``lease_losses``, ``redis_errors`` or ``without_redis``."""
        self._counters.append(what)
        self._relieve()

    def _relieve(self) -> None:
        if len(self._events) + len(self._counters) > MOST_EVENTS and self._folding.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._folding.release()

    def collect(self, moment: float, parked: Mapping[str, int], stall: Stall | None = None) -> Record | None:
        """What there is to tell, or None. Until :meth:`told` it is kept, and told again with what comes after."""
        self._folding.acquire()
        self._fold()
        is_as_told = parked == self._parked_told and stall is None and not self._is_stall_told
        if not self._limits and not self._counts and is_as_told:
            self._folding.release()
            return None
        self._parked_told, self._is_stall_told = dict(parked), stall is not None
        return Record(
            limits={
                limit: LimitCounts(of.grants, tuple(of.wait), of.waited, tuple(of.hold), of.held)
                for limit, of in self._limits.items()
            },
            recent={
                limit: Lately(of.ended, tuple((moment - at, waited, held) for at, waited, held in of.samples))
                for limit, of in self._limits.items()
                if of.ended
            },
            lease_losses=self._counts["lease_losses"],
            redis_errors=self._counts["redis_errors"],
            without_redis=self._counts["without_redis"],
            parked=self._parked_told,
            stall=stall,
        )

    def told(self, arrived: bool) -> None:
        """What was collected has reached Redis, or may not have."""
        if arrived:
            self._limits, self._counts = {}, Counter()
        else:
            self._parked_told, self._is_stall_told = {}, True
        self._folding.release()

    def _fold(self) -> None:
        while self._events:
            limits, waited, at, held = self._events.popleft()
            for limit in limits:
                counts = self._limits.setdefault(limit, _Counts())
                if at is None:
                    counts.add_grant(waited)
                else:
                    counts.add_end(at, waited, held)
        while self._counters:
            self._counts[self._counters.popleft()] += 1
