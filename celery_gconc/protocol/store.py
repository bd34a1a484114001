"""What everybody may ask of the coordination Redis and change in it: one method for a Lua script.

Redis' own exceptions don't leave this module: every failure to reach it, or to be served by it, is
:class:`~celery_gconc.errors.StoreUnavailable`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
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
from celery_gconc.protocol.pages import US, Reader
from celery_gconc.protocol.pages import Names as LimitNames
from celery_gconc.protocol.replies import value_of, with_configured
from celery_gconc.protocol.scripts import SCRIPTS, script
from celery_gconc.protocol.status import Change, EndedTask, Holder, Overview, Status, Totals, Waiter, Whereabouts
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
        self._reader = Reader(self._run)
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

    def limit_names(self) -> LimitNames:
        """Which limits there are, and how many sessions live."""
        return self._reader.names()

    def status(
        self,
        limits: str | Iterable[str] | None = None,
        config: Mapping[str, int] | None = None,
        *,
        sessions: bool = True,
    ) -> Status:
        """All limits, or one or some; and all sessions, where they are wished for.

        *config* is the caller's, which counts while no session lives. Each limit is of one instant, and so is each
        session; where there are many they are not of the same, see :mod:`~celery_gconc.protocol.pages`.
        """
        asked = [limits] if isinstance(limits, str) else self.limit_names().limits if limits is None else list(limits)
        told = self._reader.limits(asked)
        found = dict(told.found)
        if not told.live:
            for name, maximum in (config or {}).items():
                if limits is None or name in asked:
                    found[name] = with_configured(found.get(name), name, maximum)
        return Status(
            tuple(found[name] for name in sorted(found)),
            self._reader.sessions() if sessions and told.live else (),
            told.version,
            told.at,
            self.keys.namespace,
        )

    def overview(self, count: int, config: Mapping[str, int] | None = None) -> Overview:
        """At most so many limits, those with a max first; no sessions, but how many there are."""
        names = self.limit_names()
        every = names.limits if names.live else tuple(dict.fromkeys((*names.limits, *(config or {}))))
        return Overview(self.status(every[:count], config, sessions=False), len(every), names.live)

    def holders(self, limit: str, count: int) -> tuple[Holder, ...]:
        """Tasks that hold a permit under a limit, *count* at most; see ``lua/operator/holders.lua``."""
        return self._reader.holders(limit, count)

    def waiting(self, limit: str, count: int) -> tuple[Waiter, ...]:
        """Tasks in a limit's line, *count* at most; see ``lua/operator/waiting.lua``."""
        return self._reader.waiting(limit, count)

    def find(self, task_id: str) -> tuple[Whereabouts, ...]:
        """Where a task is among the requests; see ``lua/operator/find.lua``."""
        return self._reader.find(task_id)

    def history(self, limit: str, seconds: float) -> tuple[EndedTask, ...]:
        """Tasks that have ended under a limit lately; see ``lua/operator/recent.lua``."""
        return self._reader.history(limit, seconds)

    def totals(self) -> Totals:
        """What was counted since the namespace began; see ``lua/operator/totals.lua``."""
        return self._reader.totals()

    def audit(self, *, repair: bool) -> tuple[str, ...]:
        """What doesn't fit together in the keys, and is removed if wished; see ``lua/operator/audit.lua``."""
        return tuple(_AUDIT[kind].format(member.replace(US, " ")) for kind, member in self._reader.audit(repair))

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
    "hungry": "a permit is wanted for a queue by no session, or counted wrongly for it: {}",
    "grant": "a grant is kept for a session that has ended: {}",
    "taker": "a queue is marked as consumed by a session that has ended: {}",
    "idle": "unused permits are counted of no holder: {}",
    "sum": "a number that status shows is wrong: {}",
    "heartbeat": "heartbeat settings are left from a session that has ended: {}",
    "use": "the sessions with a configuration are not those that say so: {}",
    "unused": "values of a configuration count that no session has: {}",
    "value": "a configured value is listed once, not twice: {}",
}


def _at_least_one(number: float) -> int:
    return max(int(number), 1)
