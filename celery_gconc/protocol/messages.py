"""What a session and Redis say to each other: each request and its reply, encoded and decoded side by side.

Open -> Opened (lua/session/open.lua);  Sync -> Synced (sync.lua);  Notice (published by any script)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery_gconc.limits.claims import Limits, claims_on

#: How many characters of a task's id or name Redis keeps: a sender may have made an id of any length.
MAX_TEXT = 255

#: How many of a worker's queues Redis is told of.
MAX_QUEUES = 100

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
        return [self.number, claims_on(self.limits), *texts, int(self.idle), self.fence, milliseconds(self.age)]


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

    def encode(self) -> dict[str, Any]:
        """As the script takes it."""
        said = {
            "session": self.session,
            "epoch": self.epoch,
            "sync": self.number,
            "confirmed": self.confirmed,
            "granted": self.granted,
            "room": self.room,
            "version": self.version,
            "ended": list(self.ended),
            "asks": [item.row() for item in self.asks],
            "held": [item.row() for item in self.held],
            "interests": list(self.interests),
            "full": self.full,
        }
        # What is left out of most syncs.
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
class Open:
    """A session begins, with what it is configured with and what it runs already; see ``lua/session/open.lua``."""

    session: str
    #: Its heartbeat settings, in seconds.
    interval: float
    timeout: float
    #: Facts about its worker.
    info: Mapping[str, Any]
    config: Mapping[str, int]
    room: int
    held: Sequence[Held] = ()
    #: The version of the limit table that *held* goes by; -1 for none yet.
    version: int = -1
    former: Former = Former((), "")
    queues: Sequence[str] = ()
    #: Whether the server is one of several that the worker may be at.
    several: bool = False

    def encode(self) -> dict[str, Any]:
        """As the script takes it."""
        return {
            "session": self.session,
            "old": list(self.former.sessions),
            "known": self.former.epoch,
            "lease": self.former.lease,
            "longest": int(self.former.longest * 1000),
            "newest": self.former.version,
            "overrides": dict(self.former.overrides),
            "interval": int(self.interval * 1000),
            "timeout": int(self.timeout * 1000),
            "info": dict(self.info),
            "queues": [text_of(queue) for queue in sorted(self.queues)[:MAX_QUEUES]],
            "config": dict(self.config),
            "room": self.room,
            "held": [item.row() for item in self.held],
            "version": self.version,
            "several": self.several,
        }


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

    @classmethod
    def decode(cls, reply: Mapping[str, Any]) -> Opened:
        """Read the script's reply."""
        return cls(
            epoch=reply["epoch"],
            version=int(reply["version"]),
            table=_table(reply["table"]),
            overrides=dict(reply["overrides"] or ()),
            lease=int(reply["lease"]),
            longest=reply["longest"] / 1000,
            shut=(reply["shut"] or 0) / 1000,
            lost=reply["lost"],
            lapsed=reply["lapsed"],
            identified=reply["identified"],
            strangers=tuple(Stranger(**item) for item in reply["strangers"] or ()),
        )


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

    @classmethod
    def decode(cls, reply: Mapping[str, Any]) -> Synced:
        """Read the script's reply."""
        if reply["status"] != "ok":
            return cls(reply["status"])
        expires = reply.get("expires")
        return cls(
            status="ok",
            version=int(reply["version"]),
            grants=grants_of(reply["grants"]),
            contended=dict(reply.get("recall") or ()),
            offer=reply["offer"],
            table=_table(reply["table"]) if "table" in reply else None,
            overrides=dict(reply.get("overrides") or ()),
            lease=int(reply["lease"]),
            longest=reply["longest"] / 1000,
            expires=None if expires is None else expires / 1000,
            elsewhere=frozenset(reply.get("elsewhere") or ()),
        )


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


def milliseconds(seconds: float) -> int:
    """As scripts have times: whole, never negative."""
    return max(int(seconds * 1000), 0)


def text_of(text: str) -> str:
    """As much of it as Redis keeps, and what JSON and UTF-8 can carry (a lone surrogate is none of it)."""
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()


def grants_of(told: Any) -> tuple[Grant, ...]:
    """Grants, as scripts reply and publish them."""
    return tuple(Grant(int(grant), int(number), int(fence), at / 1000) for grant, number, fence, at in told or ())


def _table(reply: Any) -> dict[str, int]:
    return {limit: int(value) for limit, value in reply.items()} if reply else {}
