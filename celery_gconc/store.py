"""The only module that talks to Redis: one method a Lua script, replies decoded here.

Redis' own exceptions don't leave this module: every failure to reach it, or to be served by it, is
:class:`~celery_gconc.errors.StoreUnavailable`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

from celery.utils.log import get_logger
from redis.client import PubSub
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from .client import connect
from .errors import StoreRefused, StoreUnavailable
from .keys import Keys
from .limits import Limits
from .nodes import CONNECT_TIMEOUT
from .settings import Settings

logger = get_logger(__name__)

#: How long, in seconds, one call may take; a heartbeat that takes longer is as good as lost.
CALL_TIMEOUT = 5.0

#: How many characters of a task's id or name Redis keeps: a sender may have made an id of any length.
MOST_TEXT = 255

#: How many notices are read in one go.
MOST_NOTICES = 1000

#: ``max`` of an unlimited limit on the wire, where JSON has no infinity.
UNLIMITED = -1


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

    def wire(self) -> list[Any]:
        """As the scripts take it."""
        texts = (_text(self.task_id), _text(self.task))
        return [self.number, list(self.limits), *texts, int(self.idle), self.fence]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for a permit."""

    number: int
    limits: Limits
    #: How long ago it reached its gate, in seconds.
    age: float = 0.0
    task_id: str = ""
    task: str = ""

    def wire(self) -> list[Any]:
        """As the scripts take it."""
        return [self.number, int(self.age * 1e6), list(self.limits), _text(self.task_id), _text(self.task)]


@dataclass(frozen=True, slots=True)
class Sync:
    """What a session tells Redis in one round trip; see ``lua/sync.lua``."""

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


@dataclass(frozen=True, slots=True)
class Grant:
    """A permit granted: its place in the session's grants, and the number of the request that it answers."""

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
    #: For how many seconds nothing is granted yet, as data was lost, or may have been.
    shut: float = 0.0
    #: Whether the lease of the session that it replaces had run out.
    lapsed: bool = False
    #: Whether scripts can read the server's id, and so see that the server was restarted or replaced.
    identified: bool = True
    #: Nodes of another app or broker in this namespace.
    strangers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The namespace has other heartbeat settings than the session that wanted to open."""

    interval: float
    timeout: float
    node: str


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
    #: Seconds until the lease of the next other session ends, or grants go on, if either is to come.
    expires: float | None = None


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
                grants=_grants(told.get("grants")),
                contended={str(limit): int(streak) for limit, streak in dict(told.get("recall") or ()).items()},
                offer=bool(told.get("offer")),
                version=None if version is None else int(version),
            )
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return None


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


def _text(text: str) -> str:
    """As much of it as Redis keeps, and what JSON and UTF-8 can carry (a lone surrogate is none of it)."""
    return text[:MOST_TEXT].encode("utf-8", "replace").decode()


def _grants(told: Any) -> tuple[Grant, ...]:
    return tuple(Grant(int(grant), int(number), int(fence), at / 1000) for grant, number, fence, at in told or ())


def _max(value: Any) -> int | None:
    return None if value is None or value < 0 else int(value)


def _value(reply: Mapping[str, Any]) -> Value:
    return Value(_max(reply["max"]), bool(reply["paused"]), str(reply["from"]))


class Store:
    """The coordination Redis of one namespace. Not thread-safe where one thread closes it while another calls."""

    def __init__(
        self,
        url: str,
        prefix: str,
        options: Mapping[str, Any] | None = None,
        call_timeout: float = CALL_TIMEOUT,
    ) -> None:
        self.keys = Keys(prefix)
        self._told_of_strangers = False
        self._client = connect(url, self.keys.key("meta"), options or {}, call_timeout)
        core = _lua("core")
        self._scripts = {
            name: self._client.register_script(f"{core}\n{_lua(name)}")
            for name in ("open", "sync", "close", "change", "ticket", "status", "holders")
        }

    @classmethod
    def from_settings(cls, settings: Settings, call_timeout: float = CALL_TIMEOUT) -> Store:
        """The store that *settings* name. Opens no connection."""
        return cls(settings.redis_url, settings.key_prefix, settings.redis_options, call_timeout)

    def open(
        self,
        session: str,
        *,
        interval: float,
        timeout: float,
        info: Mapping[str, Any],
        config: Mapping[str, int],
        room: int,
        held: Sequence[Held] = (),
        version: int = -1,
        former: Former | None = None,
    ) -> Opened | Refused:
        """Begin a session; see ``lua/open.lua``. *interval* and *timeout* in seconds."""
        former = former or Former((), "")
        reply = self._run(
            "open",
            session=session,
            old=list(former.sessions),
            known=former.epoch,
            lease=former.lease,
            newest=former.version,
            overrides=dict(former.overrides),
            interval=int(interval * 1000),
            timeout=int(timeout * 1000),
            info=dict(info),
            config=dict(config),
            room=room,
            held=[item.wire() for item in held],
            version=version,
        )
        if reply["status"] == "refused":
            return Refused(reply["interval"] / 1000, reply["timeout"] / 1000, str(reply.get("node", "?")))
        return Opened(
            epoch=reply["epoch"],
            version=int(reply["version"]),
            table=_table(reply["table"]),
            overrides=dict(reply["overrides"] or ()),
            lease=int(reply["lease"]),
            shut=(reply["shut"] or 0) / 1000,
            lapsed=reply["lapsed"],
            identified=reply["identified"],
            strangers=tuple(reply["strangers"] or ()),
        )

    def sync(self, sync: Sync) -> Synced:
        """Tell what changed in a session and hear what was granted; see ``lua/sync.lua``."""
        reply = self._run(
            "sync",
            session=sync.session,
            epoch=sync.epoch,
            sync=sync.number,
            confirmed=sync.confirmed,
            granted=sync.granted,
            room=sync.room,
            version=sync.version,
            ended=list(sync.ended),
            asks=[item.wire() for item in sync.asks],
            held=[item.wire() for item in sync.held],
            interests=list(sync.interests),
            full=sync.full,
        )
        if reply["status"] != "ok":
            return Synced(reply["status"])
        expires = reply.get("expires")
        return Synced(
            status="ok",
            version=int(reply["version"]),
            grants=_grants(reply["grants"]),
            contended=dict(reply.get("recall") or ()),
            offer=reply["offer"],
            table=_table(reply["table"]) if "table" in reply else None,
            overrides=dict(reply.get("overrides") or ()),
            lease=int(reply["lease"]),
            expires=None if expires is None else expires / 1000,
        )

    def close_session(self, session: str) -> None:
        """End a session at once; see ``lua/close.lua``."""
        self._run("close", session=session)

    def ticket(self) -> int:
        """Take the number of a change that is announced now."""
        return int(self._run("ticket")["ticket"])

    def set(
        self,
        limit: str,
        maximum: int | None,
        *,
        by: str,
        ticket: int = 0,
        reason: str | None = None,
        config: Mapping[str, int] | None = None,
    ) -> Change:
        """Set a limit's max at run time (None: unlimited); see ``lua/change.lua``."""
        value = UNLIMITED if maximum is None else maximum
        return self._change(limit, "value", by, ticket, config, max=value, reason=reason)

    def reset(self, limit: str, *, by: str, ticket: int = 0, config: Mapping[str, int] | None = None) -> Change:
        """Let the configured value of a limit hold again."""
        return self._change(limit, "value", by, ticket, config, max=None)

    def pause(
        self, limit: str, paused: bool, *, by: str, ticket: int = 0, config: Mapping[str, int] | None = None
    ) -> Change:
        """Pause a limit, or resume it; its value stays as it is."""
        return self._change(limit, "pause", by, ticket, config, paused=paused)

    def _change(
        self, limit: str, kind: str, by: str, ticket: int, config: Mapping[str, int] | None, **what: Any
    ) -> Change:
        asked = {"max": None, "reason": None, "paused": False, **what}
        reply = self._run("change", limit=limit, kind=kind, by=by, ticket=ticket, config=dict(config or {}), **asked)
        return Change(limit, _value(reply["was"]), _value(reply["now"]), reply["applied"])

    def status(self, limit: str | None = None, config: Mapping[str, int] | None = None) -> Status:
        """All limits and sessions, or one limit. *config* is the caller's, which counts while no session lives."""
        reply = self._run("status", limit=limit)
        limits = {item["limit"]: _limit_status(item) for item in reply["limits"] or ()}
        if not reply["live"]:
            for name, maximum in (config or {}).items():
                if limit in (None, name):
                    limits[name] = _configured(limits.get(name), name, maximum)
        sessions = tuple(_session_status(item) for item in reply["sessions"] or ())
        return Status(tuple(limits[name] for name in sorted(limits)), sessions, int(reply["version"]))

    def holders(self, limit: str, most: int) -> tuple[Holding, ...]:
        """Tasks that hold a permit under a limit, *most* at most; see ``lua/holders.lua``."""
        reply = self._run("holders", limit=limit, most=most)
        return tuple(Holding(*holder) for holder in reply["holders"] or ())

    def eviction_policy(self) -> str:
        """The server's ``maxmemory_policy``; empty where it doesn't tell."""
        with _translated():
            try:
                info = self._client.info("memory")
            except NoPermissionError:
                return ""
        return str(info.get("maxmemory_policy", ""))

    def subscribe(self, session: str) -> PubSub:
        """Listen to the notices of a session; returns once Redis has confirmed."""
        with _translated():
            return self._client.subscribe(self.keys.channel(session), CONNECT_TIMEOUT)

    def ask(self, pubsub: PubSub) -> None:
        """Have Redis answer on the connection for notices (the answer is none itself); doesn't wait for it."""
        with _translated():
            pubsub.ping()

    def notices(self, pubsub: PubSub, session: str) -> list[Notice]:
        """All notices that have arrived for a session; never waits."""
        found = []
        with _translated():
            for _ in range(MOST_NOTICES):
                if (message := pubsub.get_message(timeout=0)) is None:
                    break
                if message["type"] == "message" and message["channel"] == self.keys.channel(session).encode():
                    notice = Notice.decode(message["data"])
                    if notice is not None:
                        found.append(notice)
                    elif not self._told_of_strangers:
                        self._told_of_strangers = True
                        logger.warning(
                            "celery-gconc: ignored what a stranger published on %s", self.keys.channel(session)
                        )
        return found

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def forget_in_child(self) -> None:
        """In a forked child: close this side of every connection."""
        self._client.forget_in_child()

    def _run(self, name: str, **asked: Any) -> dict[str, Any]:
        argument = json.dumps(asked, separators=(",", ":"))
        with _translated():
            reply = self._scripts[name](keys=self.keys.all(), args=[self.keys.channels(), argument])
        decoded: dict[str, Any] = json.loads(reply)
        return decoded


def _lua(name: str) -> str:
    return resources.files(__package__).joinpath(f"lua/{name}.lua").read_text(encoding="utf-8")


def _table(reply: Any) -> dict[str, int]:
    return {limit: int(value) for limit, value in reply.items()} if reply else {}


def _limit_status(item: Mapping[str, Any]) -> LimitStatus:
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


def _configured(known: LimitStatus | None, limit: str, maximum: int) -> LimitStatus:
    if known is None:
        return LimitStatus(limit, maximum, paused=False, running=0, waiting=0, configured=maximum)
    return replace(known, configured=maximum, max=known.max if known.overridden else maximum)


def _session_status(item: Mapping[str, Any]) -> SessionStatus:
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


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ResponseError as exc:
        if "celery-gconc: " in str(exc):  # by `error` in a script of ours, before it wrote anything
            raise StoreRefused(f"the coordination Redis refused: {exc}") from exc
        raise StoreUnavailable(f"the coordination Redis doesn't serve: {str(exc).rstrip('.')}") from exc
    except (RedisError, OSError) as exc:
        raise StoreUnavailable(f"the coordination Redis doesn't serve: {str(exc).rstrip('.')}") from exc
