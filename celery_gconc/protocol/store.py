"""The only module that talks to Redis: one method a Lua script, replies decoded here.

Redis' own exceptions don't leave this module: every failure to reach it, or to be served by it, is
:class:`~celery_gconc.errors.StoreUnavailable`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from celery.utils.log import get_logger
from redis.client import PubSub
from redis.exceptions import RedisError, ResponseError

from celery_gconc.connection.client import connect
from celery_gconc.connection.failures import Names, is_about_rights
from celery_gconc.connection.location import Location, read
from celery_gconc.connection.nodes import CONNECT_TIMEOUT
from celery_gconc.errors import StoreRefused
from celery_gconc.protocol.causes import Causes
from celery_gconc.protocol.keys import Keys
from celery_gconc.protocol.messages import (
    Former,
    Held,
    Notice,
    Opened,
    Record,
    Stranger,
    Sync,
    Synced,
    grants_of,
    text_of,
)
from celery_gconc.protocol.scripts import SCRIPTS, script
from celery_gconc.protocol.status import (
    Change,
    EndedTask,
    Holder,
    Status,
    Totals,
    Waiter,
    Whereabouts,
    ended_tasks_of,
    holder_of,
    limit_status_of,
    session_status_of,
    totals_of,
    value_of,
    waiter_of,
    whereabouts_of,
    with_configured,
)
from celery_gconc.settings import Settings

logger = get_logger(__name__)

#: How long, in seconds, one call may take; a heartbeat that takes longer is as good as lost.
CALL_TIMEOUT = 5.0

#: How many of a worker's queues Redis is told of.
MOST_QUEUES = 100

#: How many notices are read in one go.
MOST_NOTICES = 1000

#: ``max`` of an unlimited limit on the wire, where JSON has no infinity.
UNLIMITED = -1


class Store:
    """The coordination Redis of one namespace. Not thread-safe where one thread closes it while another calls."""

    def __init__(
        self,
        where: Location | str,
        prefix: str,
        options: Mapping[str, Any] | None = None,
        call_timeout: float = CALL_TIMEOUT,
    ) -> None:
        location = read(where, options or {}) if isinstance(where, str) else where
        self.keys = Keys(prefix, location.database, location.keyprefix)
        self._is_one_of_several = location.kind == "server" and len(location.servers) > 1
        self._told_of_strangers = False
        self._client = connect(location, self.keys.key("meta"), call_timeout)
        self._causes = Causes(self._client, self.keys, Names(location.source))
        self._scripts = {name: self._client.register_script(script(name)) for name in SCRIPTS}

    @classmethod
    def from_settings(cls, settings: Settings, call_timeout: float = CALL_TIMEOUT) -> Store:
        """The store that *settings* name. Opens no connection.

        Raises:
            SettingError: they name none, or the package is switched off.
        """
        settings.check_usable()
        assert settings.location is not None
        return cls(settings.location, settings.key_prefix, call_timeout=call_timeout)

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
        queues: Sequence[str] = (),
    ) -> Opened:
        """Begin a session; see ``lua/open.lua``. *interval* and *timeout* in seconds."""
        former = former or Former((), "")
        reply = self._run(
            "open",
            session=session,
            old=list(former.sessions),
            known=former.epoch,
            lease=former.lease,
            longest=int(former.longest * 1000),
            newest=former.version,
            overrides=dict(former.overrides),
            interval=int(interval * 1000),
            timeout=int(timeout * 1000),
            info=dict(info),
            queues=[text_of(queue) for queue in sorted(queues)[:MOST_QUEUES]],
            config=dict(config),
            room=room,
            held=[item.row() for item in held],
            version=version,
            several=self._is_one_of_several,
        )
        return Opened(
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
            asks=[item.row() for item in sync.asks],
            held=[item.row() for item in sync.held],
            interests=list(sync.interests),
            full=sync.full,
            **sync.said_rarely(),
        )
        if reply["status"] != "ok":
            return Synced(reply["status"])
        expires = reply.get("expires")
        return Synced(
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
        duration: float | None = None,
        config: Mapping[str, int] | None = None,
    ) -> Change:
        """Set a limit's max at run time (None: unlimited), for *duration* seconds; see ``lua/change.lua``."""
        value = UNLIMITED if maximum is None else maximum
        return self._change(limit, "value", by, ticket, config, max=value, reason=reason, duration=duration)

    def reset(self, limit: str, *, by: str, ticket: int = 0, config: Mapping[str, int] | None = None) -> Change:
        """Let the configured value of a limit hold again."""
        return self._change(limit, "value", by, ticket, config, max=None)

    def pause(
        self,
        limit: str,
        paused: bool,
        *,
        by: str,
        ticket: int = 0,
        reason: str | None = None,
        duration: float | None = None,
        config: Mapping[str, int] | None = None,
    ) -> Change:
        """Pause a limit, for *duration* seconds, or resume it; its value stays as it is."""
        return self._change(limit, "pause", by, ticket, config, paused=paused, reason=reason, duration=duration)

    def _change(
        self,
        limit: str,
        kind: str,
        by: str,
        ticket: int,
        config: Mapping[str, int] | None,
        *,
        max: int | None = None,
        paused: bool = False,
        reason: str | None = None,
        duration: float | None = None,
    ) -> Change:
        reply = self._run(
            "change",
            limit=limit,
            kind=kind,
            by=by,
            ticket=ticket,
            config=dict(config or {}),
            max=max,
            paused=paused,
            reason=None if reason is None else text_of(reason),
            duration=None if duration is None else _at_least_one(duration * 1000),
        )
        return Change(limit, value_of(reply["was"]), value_of(reply["now"]), reply["applied"])

    def status(self, limit: str | None = None, config: Mapping[str, int] | None = None) -> Status:
        """All limits and sessions, or one limit. *config* is the caller's, which counts while no session lives."""
        reply = self._run("status", limit=limit)
        limits = {item["limit"]: limit_status_of(item) for item in reply["limits"] or ()}
        if not reply["live"]:
            for name, maximum in (config or {}).items():
                if limit in (None, name):
                    limits[name] = with_configured(limits.get(name), name, maximum)
        sessions = tuple(session_status_of(item) for item in reply["sessions"] or ())
        return Status(
            tuple(limits[name] for name in sorted(limits)),
            sessions,
            int(reply["version"]),
            reply["now"] / 1000,
            self.keys.namespace,
        )

    def holders(self, limit: str, count: int) -> tuple[Holder, ...]:
        """Tasks that hold a permit under a limit, *count* at most; see ``lua/holders.lua``."""
        reply = self._run("holders", limit=limit, count=count)
        return tuple(holder_of(item) for item in reply["holders"] or ())

    def waiting(self, limit: str, count: int) -> tuple[Waiter, ...]:
        """Tasks in a limit's line, *count* at most; see ``lua/waiting.lua``."""
        reply = self._run("waiting", limit=limit, count=count)
        return tuple(waiter_of(item) for item in reply["waiting"] or ())

    def find(self, task_id: str) -> tuple[Whereabouts, ...]:
        """Where a task is among the requests; see ``lua/find.lua``. Several calls where there are many requests."""
        found: dict[str, Whereabouts] = {}
        cursor = "0"
        while True:
            reply = self._run("find", task=text_of(task_id), cursor=cursor)
            found.update({item["number"]: whereabouts_of(item) for item in reply["found"] or ()})
            if (cursor := str(reply["cursor"])) == "0":
                return tuple(found.values())

    def record(self, session: str, record: Record) -> None:
        """Tell what a session has counted; see ``lua/record.lua``."""
        self._run(
            "record",
            session=session,
            limits={limit: counts.wire() for limit, counts in record.limits.items()},
            recent={limit: lately.wire() for limit, lately in record.recent.items()},
            counts={
                "lease_losses": record.lease_losses,
                "redis_errors": record.redis_errors,
                "without_redis": record.without_redis,
            },
            parked=dict(record.parked),
            stall=record.stall.wire() if record.stall is not None else None,
        )

    def history(self, limit: str, seconds: float) -> tuple[EndedTask, ...]:
        """Tasks that have ended under a limit lately; see ``lua/recent.lua``."""
        return ended_tasks_of(self._run("recent", limit=limit, span=int(seconds * 1000))["parts"] or ())

    def totals(self) -> Totals:
        """What was counted since the namespace began; see ``lua/totals.lua``."""
        return totals_of(self._run("totals")["totals"] or {})

    def audit(self, *, repair: bool) -> tuple[str, ...]:
        """What doesn't fit together in the keys, and is removed if wished; see ``lua/audit.lua``."""
        found = self._run("audit", repair=repair)["findings"] or ()
        return tuple(_AUDIT[item["kind"]].format(item["member"].replace("\x1f", " ")) for item in found)

    def check_rights(self) -> tuple[str, ...]:
        """Try each right that a worker needs, and return what it will not see for the lack of others, in sentences.

        Raises:
            StoreUnusable: something is missing; the message names all of it.
        """
        with self._translated():
            return self._causes.check_rights()

    def server_info(self, *sections: str) -> Mapping[str, str]:
        """What the server tells of itself; empty where our user may not ask, or INFO was renamed."""
        with self._translated():
            try:
                return {str(name): str(value) for name, value in self._client.info(*sections).items()}
            except ResponseError as exc:
                if not is_about_rights(exc):
                    raise
                return {}

    def subscribe(self, session: str, timeout: float | None = None) -> PubSub:
        """Listen to the notices of a session, whose lease is *timeout* long; returns once Redis has confirmed."""
        channels = [] if timeout is None else [self.keys.lease_channel(session, timeout)]
        with self._translated():
            return self._client.subscribe(*channels, self.keys.channel(session), timeout=CONNECT_TIMEOUT)

    def ask(self, pubsub: PubSub) -> None:
        """Have Redis answer on the connection for notices (the answer is none itself); doesn't wait for it."""
        with self._translated():
            pubsub.ping()

    def notices(self, pubsub: PubSub, session: str) -> list[Notice]:
        """All notices that have arrived for a session; never waits."""
        found = []
        with self._translated():
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
                            "celery-gconc: ignored an unrecognised message on %s", self.keys.channel(session)
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
        with self._translated():
            reply = self._scripts[name](keys=self.keys.all(), args=[self.keys.channels(), argument])
        decoded: dict[str, Any] = json.loads(reply)
        return decoded

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError) as exc:
            if isinstance(exc, ResponseError) and "celery-gconc: " in str(exc):
                # By `error` in a script of ours, before it wrote anything.
                raise StoreRefused(f"the coordination Redis refused: {exc}") from exc
            raise self._causes.error_of(exc) from exc
        self._causes.served()


#: What is wrong with what ``lua/audit.lua`` finds.
_AUDIT = {
    "session": "session {} is not live but has fields left",
    "request": "request {} belongs to no live session, or can't be read",
    "roll": "the roll names a request that doesn't exist: {}",
    "holder": "a permit is held by no task: {}",
    "waiter": "a position in line belongs to no request: {}",
    "reserved": "a permit is reserved for no request: {}",
    "taker": "a queue is taken by a session that is not live: {}",
    "heartbeat": "heartbeat settings remain of a session that is not live: {}",
}


def _at_least_one(number: float) -> int:
    return max(int(number), 1)


def _table(reply: Any) -> dict[str, int]:
    return {limit: int(value) for limit, value in reply.items()} if reply else {}
