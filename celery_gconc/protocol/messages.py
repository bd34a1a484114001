"""What goes over the wire between a session and Redis: what a sync says, and what is answered and told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery_gconc.limits.claims import Limits, claims_on

#: How many characters of a task's id or name Redis keeps: a sender may have made an id of any length.
MOST_TEXT = 255

#: The upper bounds of the ranges in which waits and holds are counted, in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, float("inf"))

#: The order of what rows have on the wire. The scripts know it as ``HELD.number``, ``ASK.age`` and so on.
HELD = ("number", "claims", "task_id", "task", "idle", "fence", "age")
ASK = ("number", "claims", "age", "task_id", "task")
GRANT = ("grant", "number", "fence", "at")


@dataclass(frozen=True, slots=True)
class Held:
    """A permit as its session states it."""

    number: int
    limits: Limits
    task_id: str = ""
    task: str = ""
    idle: bool = False
    #: Its fencing number in Redis; 0 where it was never granted (its task ran before the limit began).
    fence: int = 0
    #: For how many seconds its task has had it.
    age: float = 0.0

    def row(self) -> list[Any]:
        """As the scripts take it: its fields in the order of :data:`HELD`."""
        texts = (text_of(self.task_id), text_of(self.task))
        return [self.number, claims_on(self.limits), *texts, int(self.idle), self.fence, _milliseconds(self.age)]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for a permit."""

    number: int
    limits: Limits
    #: How long ago it reached its gate, in seconds.
    age: float = 0.0
    task_id: str = ""
    task: str = ""

    def row(self) -> list[Any]:
        """As the scripts take it: its fields in the order of :data:`ASK`."""
        texts = (text_of(self.task_id), text_of(self.task))
        return [self.number, claims_on(self.limits), int(self.age * 1e6), *texts]


@dataclass(frozen=True, slots=True)
class Sync:
    """What a session tells Redis in one round trip; see ``lua/session/sync.lua``."""

    session: str
    epoch: str
    number: int
    #: The number of the last one that was answered; 0 for none.
    confirmed: int
    granted: int
    room: int
    version: int
    ended: Sequence[int] = ()
    asks: Sequence[Ask] = ()
    held: Sequence[Held] = ()
    interests: Sequence[str] = ()
    full: bool = False
    #: Which broker it takes messages from: a digest.
    source: str = ""
    #: All queues that it takes messages of, where that has changed.
    takes: Sequence[str] | None = None
    #: By how many slots its pool may still grow, where it grows by itself.
    growth: int | None = None
    #: Requests whose turn has come while it has no room, with the queues of the messages that wait for it here; and
    #: under the number 0 the queues that it leaves alone.
    weak: Sequence[tuple[int, Sequence[str]]] = ()

    def said_rarely(self) -> dict[str, Any]:
        """What is left out of most syncs, as the script takes it."""
        said: dict[str, Any] = {}
        if self.takes is not None or self.weak:
            said["source"] = self.source
        if self.takes is not None:
            said["takes"] = list(self.takes)
        if self.growth is not None:
            said["growth"] = self.growth
        if self.weak:
            said["weak"] = [[number, list(queues)] for number, queues in self.weak]
        return said


@dataclass(frozen=True, slots=True)
class Grant:
    """A permit granted: its number among the session's grants, and the number of the request that it answers."""

    grant: int
    number: int
    #: Its fencing number, in steps of 100 us.
    fence: int = field(default=0, compare=False)
    #: When it was granted, by Redis' clock: Unix time in seconds.
    at: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Former:
    """What a session knows of the one that it replaces: its worker lived before."""

    #: Its id, and ids under which a new one was opened without hearing of it.
    sessions: Sequence[str]
    epoch: str
    #: The end of its lease, in ms on the lease clock.
    lease: int = 0
    #: The newest version of the limit table that it was told of, and what operators had set by then.
    version: int = 0
    overrides: Mapping[str, str] = field(default_factory=dict)
    #: The longest lease that any session could have, as it was last told, in seconds.
    longest: float = 0.0


@dataclass(frozen=True, slots=True)
class Stranger:
    """A session of another app, or at another broker, in the same namespace."""

    app: str
    node: str
    broker: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A session was opened."""

    epoch: str
    version: int
    table: Mapping[str, int]
    #: What operators have set, by limit, as Redis keeps it.
    overrides: Mapping[str, str] = field(default_factory=dict)
    #: The end of the lease, in ms on the lease clock.
    lease: int = 0
    #: The longest lease that any session may have, in seconds.
    longest: float = 0.0
    #: For how many seconds nothing is granted yet, as sessions may live that Redis doesn't know of.
    shut: float = 0.0
    #: Whether that is because data was lost, and not because the namespace is new.
    lost: bool = False
    #: Whether the lease of the session that it replaces had run out.
    lapsed: bool = False
    #: Whether scripts can read the server's id, and so see that the server was restarted or replaced.
    identified: bool = True
    #: One session of each app, or broker, that shares no queue with this one.
    strangers: tuple[Stranger, ...] = ()


@dataclass(frozen=True, slots=True)
class Synced:
    """The answer to a sync."""

    status: str  #: ``ok``, ``closed`` or ``stale``
    version: int = 0
    grants: tuple[Grant, ...] = ()
    #: Limits that others wait for; with how many requests of this session are at the head of the line.
    contended: Mapping[str, int] = field(default_factory=dict)
    offer: bool = False
    table: Mapping[str, int] | None = None
    #: What operators have set, where the table is told.
    overrides: Mapping[str, str] = field(default_factory=dict)
    #: The end of the lease, in ms on the lease clock.
    lease: int = 0
    #: The longest lease that any session may have, in seconds.
    longest: float = 0.0
    #: Seconds until the lease of the next other session ends, or grants go on, if either is to come.
    expires: float | None = None
    #: Of the queues that were said to be weak those that another session takes and has room for.
    elsewhere: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Notice:
    """What a session is told without having asked."""

    grants: tuple[Grant, ...] = ()
    contended: Mapping[str, int] = field(default_factory=dict)
    offer: bool = False
    version: int | None = None

    @classmethod
    def decode(cls, data: bytes | str) -> Notice | None:
        """Read a message of the notice channel; None where it is none of ours: whoever may publish, may send it."""
        try:
            told = json.loads(data)
            version = told.get("version")
            return cls(
                grants=grants_of(told.get("grants")),
                contended={str(limit): int(streak) for limit, streak in dict(told.get("recall") or ()).items()},
                offer=bool(told.get("offer")),
                version=None if version is None else int(version),
            )
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class LimitCounts:
    """What a session counted under a limit: tasks that got permits, and their waits and holds by :data:`BUCKETS`."""

    grants: int
    wait: tuple[int, ...]
    waited: float
    hold: tuple[int, ...]
    held: float

    def wire(self) -> dict[str, Any]:
        """As the scripts take it."""
        return {
            "grants": self.grants,
            "wait": list(self.wait),
            "waited": _milliseconds(self.waited),
            "hold": list(self.hold),
            "held": _milliseconds(self.held),
        }


@dataclass(frozen=True, slots=True)
class Lately:
    """How many tasks have ended under a limit, and of some: seconds since then, seconds waited, seconds held."""

    ended: int
    samples: tuple[tuple[float, float, float], ...]

    def wire(self) -> dict[str, Any]:
        """As the scripts take it."""
        return {"ended": self.ended, "samples": [[_milliseconds(span) for span in sample] for sample in self.samples]}


@dataclass(frozen=True, slots=True)
class Stall:
    """A worker gives itself no room, though slots of it are free."""

    #: What keeps it from starting tasks, as a sentence goes on after "because".
    why: str
    slots: int
    #: For how many seconds it has been so.
    seconds: float

    def wire(self) -> dict[str, Any]:
        """As the scripts take it."""
        return {"why": text_of(self.why), "slots": self.slots, "span": _milliseconds(self.seconds)}


@dataclass(frozen=True, slots=True)
class Record:
    """What a session counted since it last told; see ``lua/session/record.lua``."""

    limits: Mapping[str, LimitCounts]
    recent: Mapping[str, Lately]
    lease_losses: int
    redis_errors: int
    without_redis: int
    #: How many requests the worker holds behind those in line.
    parked: Mapping[str, int]
    #: Whether it starts nothing though it could.
    stall: Stall | None = None


def _milliseconds(seconds: float) -> int:
    return max(int(seconds * 1000), 0)


def text_of(text: str) -> str:
    """As much of it as Redis keeps, and what JSON and UTF-8 can carry (a lone surrogate is none of it)."""
    return text[:MOST_TEXT].encode("utf-8", "replace").decode()


def grants_of(told: Any) -> tuple[Grant, ...]:
    """Grants, as scripts reply and publish them."""
    return tuple(Grant(int(grant), int(number), int(fence), at / 1000) for grant, number, fence, at in told or ())
