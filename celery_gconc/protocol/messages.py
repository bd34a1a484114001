"""What a session and Redis say to each other: each request and its reply, encoded and decoded side by side.

Sync -> Synced (lua/session/sync.lua);  Notice (published by any script).  How a session is opened: openings.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery_gconc.limits.claims import Claim, Claims
from celery_gconc.protocol.changes import Changes

#: How many characters of a task's id or name Redis keeps: a sender may have made an id of any length.
MAX_TEXT = 255

#: No notice has syncs spread over more than this, in seconds.
MAX_SPREAD = 10.0

#: The order of what rows have on the wire. The scripts know it as ``WANT.set``, ``ROW.age`` and so on.
GRANT = ("grant", "set", "claims", "fence", "at")
WANT = ("set", "claims", "skip", "kept", "requests", "queue_limit")
ROW = ("age", "task_id", "task")
RUN = ("claims", "task_id", "task", "age")


@dataclass(frozen=True, slots=True)
class Row:
    """A request that waits."""

    #: How long ago it reached its gate, in seconds.
    age: float = 0.0
    task_id: str = ""
    task: str = ""

    def row(self) -> list[Any]:
        """As the scripts take it: its fields in the order of :data:`ROW`."""
        return [int(self.age * 1e6), text_of(self.task_id), text_of(self.task)]


@dataclass(frozen=True, slots=True)
class Want:
    """What a session wants for one set of claims: all of it once for each of its requests."""

    #: The number of the set in its session.
    set: int
    claims: Claims
    #: Of the requests that Redis was told of, and that it had granted nothing by the sync's ``granted``: so many of the
    #: first are gone, so many stay, and any others are gone.
    skip: int = 0
    kept: int = 0
    #: Those that follow on them.
    requests: Sequence[Row] = ()
    #: The limit of their queue, where all of them may still go back there.
    queue_limit: str | None = None

    def row(self) -> list[Any]:
        """As the scripts take it: its fields in the order of :data:`WANT`."""
        row = [self.set, self.claims, self.skip, self.kept, [request.row() for request in self.requests]]
        return row if self.queue_limit is None else [*row, self.queue_limit]


@dataclass(frozen=True, slots=True)
class Running:
    """A task that runs under limits."""

    claims: Claims
    task_id: str = ""
    task: str = ""
    #: For how many seconds.
    age: float = 0.0

    def row(self) -> list[Any]:
        """As the scripts take it: its fields in the order of :data:`RUN`."""
        return [self.claims, text_of(self.task_id), text_of(self.task), milliseconds(self.age)]


def running_text(running: Iterable[Running]) -> str:
    """What runs, as the scripts keep it: they don't read it but for people."""
    return json.dumps([item.row() for item in running], separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class FromSession:
    """What each message of a session begins with."""

    session: str
    epoch: str
    number: int
    #: The number of the last one that was answered; 0 for none.
    confirmed: int
    granted: int
    room: int
    #: The version of the limit table that it goes by; -1: none since it was opened.
    version: int

    def _heading(self) -> dict[str, Any]:
        return {
            "session": self.session,
            "epoch": self.epoch,
            "sync": self.number,
            "confirmed": self.confirmed,
            "granted": self.granted,
            "room": self.room,
            "version": self.version,
        }


@dataclass(frozen=True, slots=True)
class Sync(FromSession):
    """What a session tells Redis in one round trip; see ``lua/session/sync.lua``."""

    #: How many units of a limit it has, as of ``granted``: where that has changed, or all.
    units: Mapping[str, int] = field(default_factory=dict)
    wants: Sequence[Want] = ()
    #: The version up to which it was told the next table, while that is not whole.
    known: int | None = None
    interests: Sequence[str] = ()
    #: Whether this is a statement: what it doesn't name is gone.
    full: bool = False
    #: With a statement: the fencing number of the last grant; what runs, where that has changed; and idle units.
    fence: int | None = None
    running: str | None = None
    idle: Mapping[str, int] = field(default_factory=dict)
    #: What has ended: tasks of the last statement, and grants since.
    over: Sequence[str] = ()
    ended: Sequence[int] = ()
    #: Which broker it takes messages from: a digest.
    source: str = ""
    #: All queues that it takes messages of, where that has changed.
    takes: Sequence[str] | None = None
    #: By how many slots its pool may still grow, where it grows by itself.
    growth: int | None = None
    #: How many more messages of a queue it would read, had it units of its limit: where that has changed, or all.
    hungry: Mapping[str, int] = field(default_factory=dict)
    #: Sets of claims whose turn has come while it has no room, with the queues of the messages that wait for it here;
    #: and under the number 0 the queues that it leaves alone.
    weak: Sequence[tuple[int, Sequence[str]]] = ()

    def encode(self) -> dict[str, Any]:
        """As the script takes it."""
        said: dict[str, Any] = {
            **self._heading(),
            "units": dict(self.units),
            "wants": [want.row() for want in self.wants],
            "interests": list(self.interests),
            "full": self.full,
        }
        # What is left out of most syncs.
        for name in ("known", "fence", "running", "growth"):
            if (value := getattr(self, name)) is not None:
                said[name] = value
        if self.idle:
            said["idle"] = dict(self.idle)
        if self.over:
            said["over"] = [text_of(task_id) for task_id in self.over]
        if self.ended:
            said["ended"] = list(self.ended)
        if self.hungry:
            said["hungry"] = dict(self.hungry)
        if self.takes is not None or self.weak:
            said["source"] = self.source
        if self.takes is not None:
            said["takes"] = list(self.takes)
        if self.weak:
            said["weak"] = [[number, list(queues)] for number, queues in self.weak]
        return said


@dataclass(frozen=True, slots=True)
class Heartbeat(FromSession):
    """What a session tells Redis that has nothing to say, but for what may be here; see ``lua/session/heartbeat.lua``.

    The fields are those of :class:`Sync`; all that was told up to the sync that was *confirmed* still holds.
    """

    growth: int | None = None
    running: str | None = None
    #: Idle units, where they are others than Redis was told; empty: there are none any more.
    idle: Mapping[str, int] | None = None

    def encode(self) -> dict[str, Any]:
        """As the script takes it."""
        said = self._heading()
        if self.growth is not None:
            said["growth"] = self.growth
        if self.running is not None:
            said["running"] = self.running
        if self.idle is not None:
            said["idle"] = dict(self.idle)
        return said


@dataclass(frozen=True, slots=True)
class Grant:
    """Units granted: its number among the session's grants, the set of claims that it is for, and the claims."""

    grant: int
    set: int
    claims: Claims
    #: Its fencing number, in steps of 100 us.
    fence: int = field(default=0, compare=False)
    #: When it was granted, by Redis' clock: Unix time in seconds.
    at: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Synced:
    """The answer to a sync."""

    status: str  #: ``ok``, ``closed`` or ``stale``
    #: The newest version of the limit table.
    version: int = 0
    grants: tuple[Grant, ...] = ()
    #: Limits that others wait for; with how many requests of this session are at the head of the line.
    contended: Mapping[str, int] = field(default_factory=dict)
    #: Limits of which others would use more; with how many units this session is to keep at most, as its tasks end.
    shares: Mapping[str, int] = field(default_factory=dict)
    #: Of the wants that were told those whose turn has not come: the number of each, and the limit in whose line.
    stands: tuple[tuple[int, str], ...] = ()
    offer: bool = False
    #: What leads from the limit table that the session knows to the newest, or a part of that.
    changes: Changes | None = None
    #: The end of the lease, in ms on the lease clock.
    lease: int = 0
    #: The longest lease that any session may have, in seconds.
    longest: float = 0.0
    #: Seconds until the lease of the next other session ends, or grants go on, if either is to come.
    expires: float | None = None
    #: A new fencing number, in the answer to a statement.
    fence: int = 0
    #: Whether wants keep requests that Redis doesn't know.
    unclear: bool = False
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
            grants=grants_of(reply.get("grants")),
            contended=dict(reply.get("recall") or ()),
            shares=dict(reply.get("shares") or ()),
            stands=tuple((int(number), limit) for number, limit in reply.get("stands") or ()),
            offer=reply["offer"],
            changes=Changes.decode(reply.get("changes")),
            lease=int(reply["lease"]),
            longest=reply["longest"] / 1000,
            expires=None if expires is None else expires / 1000,
            fence=int(reply.get("fence") or 0),
            unclear=bool(reply.get("unclear")),
            elsewhere=frozenset(reply.get("elsewhere") or ()),
        )


@dataclass(frozen=True, slots=True)
class Notice:
    """What a session is told without having asked."""

    grants: tuple[Grant, ...] = ()
    contended: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, int] = field(default_factory=dict)
    offer: bool = False
    #: The newest version of the limit table, which many sessions are told; what leads to it, if that is not much; and
    #: over how many seconds they are to spread their syncs.
    version: int | None = None
    changes: Changes | None = None
    spread: float = 0.0

    @classmethod
    def decode(cls, data: bytes | str) -> Notice | None:
        """Read a message of the notice channel; None where it is none of ours: whoever may publish, may send it."""
        try:
            told = json.loads(data)
            version = told.get("version")
            return cls(
                grants=grants_of(told.get("grants")),
                contended=_counts_of(told.get("recall")),
                shares=_counts_of(told.get("shares")),
                offer=bool(told.get("offer")),
                version=None if version is None else int(version),
                changes=Changes.decode(told.get("changes")),
                spread=_spread_of(told),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return None


def _counts_of(told: Any) -> dict[str, int]:
    return {str(limit): int(count) for limit, count in dict(told or ()).items()}


def _spread_of(told: Mapping[str, Any]) -> float:
    spread = float(told.get("spread") or 0) / 1000
    return min(spread, MAX_SPREAD) if spread > 0 else 0.0  # (JSON has NaN, too)


def milliseconds(seconds: float) -> int:
    """As scripts have times: whole, never negative."""
    return max(int(seconds * 1000), 0)


def text_of(text: str) -> str:
    """As much of it as Redis keeps, and what JSON and UTF-8 can carry (a lone surrogate is none of it)."""
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()


def claims_of(told: Iterable[Sequence[Any]]) -> Claims:
    """Claims, as scripts reply and publish them."""
    return tuple([Claim(str(limit), int(weight)) for limit, weight in told])


def grants_of(told: Any) -> tuple[Grant, ...]:
    """Grants, as scripts reply and publish them."""
    return tuple(
        Grant(int(grant), int(number), claims_of(claims), int(fence), at / 1000)
        for grant, number, claims, fence, at in told or ()
    )
