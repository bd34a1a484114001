"""What the checker knows of workers, runs and tasks, and the times in which a fault may still show."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .plan import INTERVAL, LEASE

#: How long after a fault its traces may show: leases that run out, clients that reconnect.
RECOVERY = LEASE + 2 * INTERVAL

#: Faults after which Redis has lost data.
LOSSES = ("flushall", "kill-empty", "kill-snapshot", "reload")

#: How late a heartbeat may be on a busy machine; seconds.
LATE = 0.5

#: From when on a worker that can't reach Redis, or can't run, may have lost its lease; seconds.
LEASE_AT_LEAST = LEASE - INTERVAL - LATE

#: For how long after that worker is back its tasks may still count nowhere.
RESTATED = INTERVAL + 1.0

#: For how long a task may lie in the pipe of a child that was killed before it read it: until its parent looks.
UNREAD = 5.0

#: For how long what Redis counts may differ from what runs, in one direction all the time; seconds.
DIFFERS = 4.0


@dataclass(slots=True)
class Life:
    """One life of a worker."""

    name: str
    slots: int
    pool: str
    ready: float = math.inf
    dead: float = math.inf
    runs: set[str] = field(default_factory=set)
    busy: float = 0.0  #: when all of its slots were last taken
    away: set[int] = field(default_factory=set)  #: faults that keep it from running, or from Redis
    away_since: float = math.inf
    back: float = -math.inf
    children_killed: list[float] = field(default_factory=list)
    may_start: int = 0  #: tasks that its children had before a long stop, and have not begun

    def is_excused(self, now: float, steps: list[float]) -> bool:
        """Whether its tasks may run on a lease that has ended: it could not run, or reach Redis, for that long.

        *steps*: when the clock of Redis was changed. Each advances the lease clock by up to one interval.
        """
        until = now if self.away else self.back
        if not self.away and now > self.back + RESTATED:
            return False
        stepped = sum(self.away_since - INTERVAL - LATE <= step <= until for step in steps)
        return until - self.away_since >= LEASE_AT_LEAST - stepped * INTERVAL


@dataclass(slots=True)
class Run:
    """A task that runs, or has run."""

    id: str
    attempt: int
    life: str
    pid: int
    started: float
    limits: tuple[str, ...]
    ended: float = math.inf
    killed: str = ""


@dataclass(slots=True)
class Task:
    """A task that was sent."""

    id: str
    sent: float
    name: str
    queue: str
    limits: tuple[str, ...]
    late: bool
    excuse: str
    ready: float
    got: list[tuple[float, str]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    done: float = math.inf


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken."""

    promise: int
    what: str
    time: float
    text: str
