"""What people ask of a namespace: limits, live sessions and holders at one instant, and what a change did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Value:
    """What holds for a limit: its max (None: unlimited), whether it is paused, and where the max comes from."""

    max: int | None
    paused: bool
    origin: str  #: ``override``, ``configured`` or ``none``

    def __str__(self) -> str:
        text = "unlimited" if self.max is None else str(self.max)
        if self.origin == "configured":
            text += " (configured)"
        return f"{text}, paused" if self.paused else text


@dataclass(frozen=True, slots=True)
class Change:
    """What a change of a limit did. ``applied`` is false where a later change had come first."""

    limit: str
    was: Value
    now: Value
    applied: bool = True

    def __str__(self) -> str:
        if not self.applied:
            return f"{self.limit}: {self.now}; a later change came first, so nothing was changed"
        return f"{self.limit}: was {self.was}, is {self.now}"


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """One limit at one instant. ``max`` is None where unlimited; times are Unix times in seconds."""

    limit: str
    max: int | None
    paused: bool
    running: int
    waiting: int
    idle: int = 0
    configured: int | None = None
    overridden: bool = False
    set_by: str | None = None
    set_at: float | None = None
    reason: str | None = None
    paused_by: str | None = None
    paused_at: float | None = None
    #: The limit has just begun and waits until every session has stated what it runs under it.
    settling: bool = False


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """One live session at one instant. ``lease`` is in seconds."""

    session: str
    node: str
    pid: int
    pool: str
    lease: float
    permits: int
    waiting: int
    room: int


@dataclass(frozen=True, slots=True)
class Holding:
    """A task that holds a permit, as its session has last told."""

    session: str
    task_id: str
    task: str


@dataclass(frozen=True, slots=True)
class Status:
    """All limits and sessions of a namespace at one instant; ``status["queue:emails"]`` is one limit's."""

    limits: tuple[LimitStatus, ...] = ()
    sessions: tuple[SessionStatus, ...] = ()
    version: int = 0

    def __getitem__(self, limit: str) -> LimitStatus:
        for found in self.limits:
            if found.limit == limit:
                return found
        raise KeyError(limit)

    def __contains__(self, limit: object) -> bool:
        return any(found.limit == limit for found in self.limits)

    def __iter__(self) -> Iterator[LimitStatus]:
        return iter(self.limits)


def _max(value: Any) -> int | None:
    return None if value is None or value < 0 else int(value)


def value_of(reply: Mapping[str, Any]) -> Value:
    """A value, as a script replies it."""
    return Value(_max(reply["max"]), bool(reply["paused"]), str(reply["from"]))


def limit_status_of(item: Mapping[str, Any]) -> LimitStatus:
    """A limit, as a script replies it."""
    override = item["override"] or {}
    return LimitStatus(
        limit=item["limit"],
        max=_max(item["max"]),
        paused=item["paused"],
        running=item["held"] - item["idle"],
        waiting=item["waiting"],
        idle=item["idle"],
        configured=item["configured"],
        overridden="max" in override,
        set_by=override.get("by"),
        set_at=_seconds(override.get("at")),
        reason=override.get("reason"),
        paused_by=override.get("paused_by"),
        paused_at=_seconds(override.get("paused_at")),
        settling=item["settling"],
    )


def with_configured(known: LimitStatus | None, limit: str, maximum: int) -> LimitStatus:
    """A limit that the caller configures, where no live session does."""
    if known is None:
        return LimitStatus(limit, maximum, paused=False, running=0, waiting=0, configured=maximum)
    return replace(known, configured=maximum, max=known.max if known.overridden else maximum)


def session_status_of(item: Mapping[str, Any]) -> SessionStatus:
    """A session, as a script replies it."""
    info = item["info"]
    return SessionStatus(
        session=item["session"],
        node=str(info.get("node", "?")),
        pid=int(info.get("pid", 0)),
        pool=str(info.get("pool", "?")),
        lease=item["lease"] / 1000,
        permits=item["permits"],
        waiting=item["waiting"],
        room=item["room"],
    )


def _seconds(milliseconds: Any) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
