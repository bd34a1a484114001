"""What everybody may ask of the coordination Redis and change in it: one method for a Lua script.

Redis' own exceptions don't leave this module: every failure to reach it, or to be served by it, is
:class:`~celery_gconc.errors.StoreUnavailable`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from redis.exceptions import RedisError, ResponseError

from celery_gconc.connection.client import connect
from celery_gconc.connection.failures import Names, is_about_rights
from celery_gconc.connection.location import Location, read
from celery_gconc.errors import StoreRefused, StoreUnavailable
from celery_gconc.protocol.causes import Causes
from celery_gconc.protocol.keys import Keys
from celery_gconc.protocol.messages import text_of
from celery_gconc.protocol.replies import (
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
from celery_gconc.protocol.scripts import SCRIPTS, script
from celery_gconc.protocol.status import Change, EndedTask, Holder, Status, Totals, Waiter, Whereabouts
from celery_gconc.settings import Settings

#: How long, in seconds, one call may take; a heartbeat that takes longer is as good as lost.
CALL_TIMEOUT = 5.0

#: ``max`` of an unlimited limit on the wire, where JSON has no infinity.
UNLIMITED = -1

#: A store, or one for a session.
S = TypeVar("S", bound="Store")


class Store:
    """The coordination Redis of one namespace. Not thread-safe where one thread closes it while another calls."""

    def __init__(
        self,
        where: Location | str,
        prefix: str,
        options: Mapping[str, Any] | None = None,
        call_timeout: float = CALL_TIMEOUT,
    ) -> None:
        location = self._location = read(where, options or {}) if isinstance(where, str) else where
        self.keys = Keys(prefix, location.database, location.keyprefix)
        self._client = connect(location, self.keys.key("meta"), call_timeout)
        self._causes = Causes(self._client, self.keys, Names(location.source))
        self._scripts = {name: self._client.register_script(script(name)) for name in SCRIPTS}

    @classmethod
    def from_settings(cls: type[S], settings: Settings, call_timeout: float = CALL_TIMEOUT) -> S:
        """The store that *settings* name. Opens no connection.

        Raises:
            SettingError: they name none, or the package is switched off.
        """
        settings.check_usable()
        assert settings.location is not None
        return cls(settings.location, settings.key_prefix, call_timeout=call_timeout)

    def ticket(self) -> int:
        """Take the number of a change that is announced now."""
        return int(self._run("ticket", {})["ticket"])

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
        """Set a limit's max at run time (None: unlimited), for *duration* seconds; see ``lua/operator/change.lua``."""
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
        asked = {
            "limit": limit,
            "kind": kind,
            "by": by,
            "ticket": ticket,
            "config": dict(config or {}),
            "max": max,
            "paused": paused,
            "reason": None if reason is None else text_of(reason),
            "duration": None if duration is None else _at_least_one(duration * 1000),
        }
        reply = self._run("change", asked)
        self._go_on(reply, asked)
        return Change(limit, value_of(reply["was"]), value_of(reply["now"]), reply["applied"])

    def _go_on(self, reply: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        """Have all sessions told of a change that is made, and granted what it allows. Without us, others' calls do."""
        again = {**asked, "ticket": reply["ticket"]}
        with suppress(StoreUnavailable):
            while reply["more"]:
                reply = self._run("change", again)

    def status(self, limit: str | None = None, config: Mapping[str, int] | None = None) -> Status:
        """All limits and sessions, or one limit. *config* is the caller's, which counts while no session lives."""
        reply = self._run("status", {"limit": limit})
        limits = {item["limit"]: limit_status_of(item) for item in reply["limits"] or ()}
        if not reply["live"]:
            for name, maximum in (config or {}).items():
                if limit in (None, name):
                    limits[name] = with_configured(limits.get(name), name, maximum)
        sessions = tuple(session_status_of(item, reply["configs"]) for item in reply["sessions"] or ())
        return Status(
            tuple(limits[name] for name in sorted(limits)),
            sessions,
            int(reply["version"]),
            reply["now"] / 1000,
            self.keys.namespace,
        )

    def holders(self, limit: str, count: int) -> tuple[Holder, ...]:
        """Tasks that hold a permit under a limit, *count* at most; see ``lua/operator/holders.lua``."""
        reply = self._run("holders", {"limit": limit, "count": count})
        return tuple(holder_of(item, limit) for item in reply["holders"] or ())

    def waiting(self, limit: str, count: int) -> tuple[Waiter, ...]:
        """Tasks in a limit's line, *count* at most; see ``lua/operator/waiting.lua``."""
        reply = self._run("waiting", {"limit": limit, "count": count})
        return tuple(waiter_of(item, limit) for item in reply["waiting"] or ())

    def find(self, task_id: str) -> tuple[Whereabouts, ...]:
        """Where a task is among the requests; several calls where there are many. See ``lua/operator/find.lua``."""
        found: dict[str, Whereabouts] = {}
        cursor = "0"
        while True:
            reply = self._run("find", {"task": text_of(task_id), "cursor": cursor})
            found.update({item["number"]: whereabouts_of(item) for item in reply["found"] or ()})
            if (cursor := str(reply["cursor"])) == "0":
                return tuple(found.values())

    def history(self, limit: str, seconds: float) -> tuple[EndedTask, ...]:
        """Tasks that have ended under a limit lately; see ``lua/operator/recent.lua``."""
        return ended_tasks_of(self._run("recent", {"limit": limit, "span": int(seconds * 1000)})["parts"] or ())

    def totals(self) -> Totals:
        """What was counted since the namespace began; see ``lua/operator/totals.lua``."""
        return totals_of(self._run("totals", {})["totals"] or {})

    def audit(self, *, repair: bool) -> tuple[str, ...]:
        """What doesn't fit together in the keys, and is removed if wished; see ``lua/operator/audit.lua``."""
        found = self._run("audit", {"repair": repair})["findings"] or ()
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

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def forget_in_child(self) -> None:
        """In a forked child: close this side of every connection."""
        self._client.forget_in_child()

    def _arguments(self, asked: Mapping[str, Any]) -> list[str]:
        return [self.keys.channels(), json.dumps(asked, separators=(",", ":"))]

    def _run(self, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        with self._translated():
            reply = self._scripts[name](keys=self.keys.all(), args=self._arguments(asked))
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


#: What is wrong with what ``lua/operator/audit.lua`` finds.
_AUDIT = {
    "session": "session {} has ended, but some of its fields are left",
    "units": "permits are held by no live session: {}",
    "holder": "a session is listed as a holder, but holds nothing: {}",
    "held": "more or fewer permits are counted than sessions hold: {}",
    "want": "waiting requests belong to no live session, or are unreadable: {}",
    "roll": "the list of waiting requests has some that don't exist: {}",
    "waiter": "a position in line belongs to no request: {}",
    "reserved": "a permit is reserved for no request: {}",
    "grant": "a grant is kept for a session that has ended: {}",
    "taker": "a queue is marked as consumed by a session that has ended: {}",
    "heartbeat": "heartbeat settings are left from a session that has ended: {}",
    "use": "the sessions with a configuration are not those that say so: {}",
    "unused": "values of a configuration count that no session has: {}",
    "value": "a configured value is listed once, not twice: {}",
}


def _at_least_one(number: float) -> int:
    return max(int(number), 1)
