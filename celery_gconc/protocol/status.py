"""What people ask of a namespace: limits, live sessions and holders at one instant, and what a change did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from celery_gconc.limits.claims import Limits
from celery_gconc.limits.rules import Mark, Rule


@dataclass(frozen=True, slots=True)
class Value:
    """What holds for a limit: its max (None: unlimited), whether it is paused, and where the max comes from."""

    max: int | None
    paused: bool
    origin: str  #: ``override``, ``configured`` or ``none``

    def __str__(self) -> str:
        text = str(Rule(self.max))
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
        return f"{self.limit}: was {self.was}, now {self.now}"


#: What a limit is doing, in one word, and what that means. The first that applies is shown.
STATES: Mapping[str, str] = {
    "paused": "an operator paused it: nothing starts until it is resumed",
    "unlimited": "it has no max: all tasks start",
    "settling": "it is new, or Redis lost its data: nothing starts until every worker has reported what it is running",
    "draining": "its max was lowered, and more tasks are still running: nothing starts",
    "full": "as many tasks run as its max allows (none, if that is 0)",
    "open": "it has room",
}


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """One limit at one instant. ``max`` is None where unlimited; times are Unix times in seconds."""

    limit: str
    max: int | None
    paused: bool
    #: What runs under it: how many tasks, or how many units they take where tasks have weights.
    running: int
    waiting: int
    idle: int = 0
    configured: int | None = None
    overridden: bool = False
    set_by: str | None = None
    set_at: float | None = None
    reason: str | None = None
    #: When the value set at run time expires.
    set_until: float | None = None
    paused_by: str | None = None
    paused_at: float | None = None
    paused_reason: str | None = None
    paused_until: float | None = None
    #: The limit is new, or Redis lost its data: nothing starts until every session has reported what it is running.
    settling: bool = False
    #: How many more tasks wait behind those in line, in workers or at the broker, as workers told with their last
    #: heartbeats. (At the broker: of queues whose messages wait there, ``global_concurrency_wait_at_broker``.)
    parked: int = 0
    #: How many of these wait at the broker.
    at_broker: int = 0
    #: How long the first in line has waited, in seconds; None if none is waiting.
    longest_wait: float | None = None
    #: How many tasks ended under it in the last minute, as workers reported with their heartbeats.
    per_minute: int = 0
    #: What it is doing now, in one word: one of :data:`STATES`.
    state: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", self._state())

    def _state(self) -> str:
        if self.paused:
            return "paused"
        if self.max is None:
            return "unlimited"
        if self.settling:
            return "settling"
        if self.running > self.max:
            return "draining"
        return "full" if self.running == self.max else "open"

    @property
    def is_closed(self) -> bool:
        """Whether nothing starts under it now."""
        return self.state not in ("open", "unlimited")

    @property
    def set_mark(self) -> Mark:
        """Who set its value, when, why and until when."""
        return Mark(self.set_by, self.set_at, self.reason, self.set_until)

    @property
    def pause_mark(self) -> Mark:
        """Who paused it, when, why and until when."""
        return Mark(self.paused_by, self.paused_at, self.paused_reason, self.paused_until)


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
    #: When it opened, as Unix time by Redis' clock.
    since: float = 0.0
    #: The versions of celery-gconc, Celery and Python that its worker runs.
    version: str = ""
    celery: str = ""
    python: str = ""
    #: How far the worker's wall clock was ahead of Redis' when it opened, in seconds (less than a round trip is noise).
    skew: float = 0.0
    #: The name of its app, and its broker (without a password).
    app: str = ""
    broker: str = ""
    #: What it configures: limit to max.
    configured: Mapping[str, int] = field(default_factory=dict)
    #: Its heartbeat settings, in seconds: between two statements, and the length of its lease.
    interval: float = 0.0
    timeout: float = 0.0
    #: The queues that it consumed when it opened, at most a hundred.
    queues: tuple[str, ...] = ()
    #: How many of its slots are free although it reports no room; why; and since when, as Unix time by Redis' clock.
    stalled_slots: int = 0
    stalled_why: str = ""
    stalled_since: float | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """A task that holds a permit, as its session last reported."""

    session: str
    node: str
    task_id: str
    task: str
    #: Since when, as Unix time by Redis' clock: the grant, or when the permit passed on to this task.
    since: float
    #: All limits that its permit covers.
    limits: Limits = ()
    #: How many units it takes of the limit that was asked about.
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Waiter:
    """A task that stands in a limit's line."""

    session: str
    node: str
    task_id: str
    task: str
    #: Its position in line: 1 is next.
    position: int
    #: For how many seconds it has waited for its permit.
    waited: float
    #: All limits that its permit has to cover.
    limits: Limits = ()
    #: How many units it needs of the limit that was asked about.
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a task is, as far as Redis knows: it waits for a permit, or holds one."""

    task_id: str
    task: str
    session: str
    node: str
    limits: Limits
    is_waiting: bool
    #: For how many seconds it has waited, or held its permit.
    seconds: float
    #: The limit in whose line it stands, and its position there; None for a holder.
    line: str | None
    position: int | None
    #: How many tasks its session could start this instant.
    room: int
    #: Those of its limits that have no room for it.
    full: Limits = ()
    #: How many units it takes of each of its limits.
    weights: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EndedTask:
    """A task that ended under a limit: when (Unix time), how long it waited for its permit and held it, in seconds."""

    ended: float
    waited: float
    held: float
    #: How many tasks it stands for.
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often values fell into each range: (upper bound in seconds, count in that range alone)."""

    buckets: tuple[tuple[float, int], ...] = ()
    #: The sum of all values, in seconds.
    sum: float = 0.0

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(count for _, count in self.buckets)


@dataclass(frozen=True, slots=True)
class LimitTotals:
    """What happened under a limit since it was first used: tasks started, their waits and holds."""

    limit: str
    grants: int = 0
    wait: Histogram = Histogram()
    hold: Histogram = Histogram()


@dataclass(frozen=True, slots=True)
class Totals:
    """What happened in a namespace over all its workers. Counters: they restart at 0 if Redis loses its data."""

    limits: tuple[LimitTotals, ...] = ()
    #: Permits taken back from sessions whose lease ran out.
    reclaims: int = 0
    #: Sessions that were closed while their worker lived.
    lease_losses: int = 0
    #: How often workers failed to reach Redis.
    redis_errors: int = 0
    #: Tasks started without a permit while Redis was unavailable.
    without_redis: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """All limits and sessions of a namespace at one instant; ``status["queue:emails"]`` is one limit's."""

    limits: tuple[LimitStatus, ...] = ()
    sessions: tuple[SessionStatus, ...] = ()
    version: int = 0
    #: When, as Unix time by Redis' clock.
    at: float = 0.0
    #: What its keys and channels begin with, but for the schema's number: ``{gconc}``, or ``shop:{gconc}``.
    namespace: str = ""

    def __getitem__(self, limit: str) -> LimitStatus:
        for found in self.limits:
            if found.limit == limit:
                return found
        raise KeyError(limit)

    def __contains__(self, limit: object) -> bool:
        return any(found.limit == limit for found in self.limits)

    def __iter__(self) -> Iterator[LimitStatus]:
        return iter(self.limits)


@dataclass(frozen=True, slots=True)
class Overview:
    """Some limits, and how many limits and live workers there are in all."""

    status: Status
    limits: int
    workers: int


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge has removed."""

    limit: str
    #: Messages that no worker had taken.
    at_broker: int
    #: Messages that workers held, by node.
    in_workers: Mapping[str, int]
    #: Live workers that didn't answer: their waiting messages may remain.
    silent: tuple[str, ...] = ()
    #: Whether workers had none left at the end.
    is_complete: bool = True

    @property
    def total(self) -> int:
        """How many messages were removed."""
        return self.at_broker + sum(self.in_workers.values())


def as_json(value: Any) -> Any:
    """Any value of this module as JSON has it: dataclasses as objects, tuples as arrays."""
    if is_dataclass(value) and not isinstance(value, type):
        return {of.name: as_json(getattr(value, of.name)) for of in fields(value)}
    if isinstance(value, (tuple, list)):
        return [as_json(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    return value
