"""What a worker's session does in the coordination Redis, beside what everybody may: one method for a Lua script."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from celery.utils.log import get_logger
from redis.client import PubSub
from redis.exceptions import RedisError

from celery_gconc.connection.location import Location
from celery_gconc.connection.nodes import CONNECT_TIMEOUT
from celery_gconc.connection.sent import Sent
from celery_gconc.errors import StoreUnavailable
from celery_gconc.protocol.configurations import digest_of, pieces_of
from celery_gconc.protocol.counted import Record
from celery_gconc.protocol.messages import Heartbeat, Notice, Sync, Synced
from celery_gconc.protocol.openings import Former, Open, Opened
from celery_gconc.protocol.store import CALL_TIMEOUT, Store

logger = get_logger(__name__)

#: How often what a session is to open with is sent to a Redis that then lacks something, before one gives up.
MAX_SENDINGS = 4

#: How many limits that were set at run time are brought back by one script. (At some 50 us each.)
RESTORED = 12

#: How many notices are read in one go.
MAX_NOTICES = 1000


class SessionStore(Store):
    """The coordination Redis, for a session; used on one thread."""

    def __init__(
        self,
        where: Location | str,
        prefix: str,
        options: Mapping[str, Any] | None = None,
        call_timeout: float = CALL_TIMEOUT,
    ) -> None:
        super().__init__(where, prefix, options, call_timeout)
        self._has_warned_of_strangers = False

    def open(
        self,
        session: str,
        *,
        interval: float,
        timeout: float,
        info: Mapping[str, Any],
        config: Mapping[str, int],
        room: int,
        units: Mapping[str, int] | None = None,
        running: str = "[]",
        fence: int = 0,
        former: Former | None = None,
        queues: Sequence[str] = (),
    ) -> Opened:
        """Begin a session; see :class:`~celery_gconc.protocol.openings.Open`.

        What it is configured with is sent first where Redis doesn't know it.
        """
        former = former or Former((), "")
        several = self._location.kind == "server" and len(self._location.servers) > 1
        asked = Open(
            session,
            interval,
            timeout,
            info,
            config,
            room,
            units or {},
            running,
            fence,
            former,
            queues,
            several,
        )
        for _ in range(MAX_SENDINGS):
            reply = self._run("open", asked.encode())
            if reply["status"] == "ok":
                return Opened.decode(reply)
            if reply["status"] == "unknown":
                self._configure(config, timeout)
            else:
                self._restore(former)
        raise StoreUnavailable(
            f"the coordination Redis lost this worker's limits {MAX_SENDINGS} times as soon as it had been told of them"
        )

    def _configure(self, config: Mapping[str, int], timeout: float) -> None:
        """Send all of a configuration, or as much of it as Redis lacks; see ``lua/session/configure.lua``."""
        told = {"digest": digest_of(config), "timeout": int(timeout * 1000)}
        for piece in pieces_of(config):
            reply = self._run("configure", {**told, "values": piece})
            if reply["status"] != "ok" or reply["whole"]:
                return

    def _restore(self, former: Former) -> None:
        """Bring back what operators had set, and nothing else; see ``lua/session/restore.lua``."""
        told = {"known": former.epoch, "newest": former.version, "told_at": former.told_at}
        left, after = dict(former.overrides), "0"
        while left or after is not None:
            piece = {limit: left.pop(limit) for limit in list(islice(left, RESTORED))}
            reply = self._run("restore", {**told, "values": piece, "after": after, "last": False})
            if reply["status"] != "ok":
                return
            left.update((limit, "{}") for limit in reply.get("names", ()) if limit not in former.overrides)
            after = reply["next"]
        self._run("restore", {**told, "values": {}, "after": None, "last": True})

    def sync(self, sync: Sync) -> Synced:
        """Tell what changed in a session and hear what was granted."""
        return Synced.decode(self._run("sync", sync.encode()))

    def heartbeat(self, heartbeat: Heartbeat) -> Synced | None:
        """Tell that a session lives; the answer is that to a sync which changes nothing. None: make a statement."""
        reply = self._run("heartbeat", heartbeat.encode())
        if reply["status"] != "ok":
            return None
        return Synced.decode({"version": heartbeat.version, "offer": False, **reply})

    def send_sync(self, sync: Sync) -> Sent | None:
        """The same without waiting: :meth:`synced` has the answer.

        None where it would have to wait, or fails: :meth:`sync` on a thread that may wait says why.
        """
        try:
            return self._client.send(self._scripts["sync"], self.keys.all(), self._arguments(sync.encode()))
        except (RedisError, OSError):
            return None

    def synced(self, sent: Sent) -> Synced | None:
        """The answer to a sync that was sent; waits for it where it is still to come.

        None where it may not have been carried out: :meth:`sync` says why.
        """
        try:
            return Synced.decode(json.loads(self._client.answer(sent)))
        except (RedisError, OSError):
            return None

    def record(self, session: str, record: Record) -> None:
        """Tell what a session has counted; see ``lua/session/record.lua``."""
        self._run("record", {"session": session, **record.encode()})

    def close_session(self, session: str) -> None:
        """End a session at once, in several calls where it has much; see ``lua/session/close.lua``."""
        while self._run("close", {"session": session})["more"]:
            pass

    def subscribe(self, session: str, timeout: float | None = None) -> PubSub:
        """Listen to the notices of a session, whose lease is *timeout* long; returns once Redis has confirmed."""
        channels = [self.keys.channel(session), self.keys.table_channel(session)]
        if timeout is not None:
            channels.append(self.keys.lease_channel(session, timeout))
        with self._translated():
            return self._client.subscribe(*channels, timeout=CONNECT_TIMEOUT)

    def ask(self, pubsub: PubSub) -> None:
        """Have Redis answer on the connection for notices (the answer is none itself); doesn't wait for it."""
        with self._translated():
            pubsub.ping()

    def notices(self, pubsub: PubSub, session: str) -> list[Notice]:
        """All notices that have arrived for a session; never waits."""
        found = []
        channels = (self.keys.channel(session).encode(), self.keys.table_channel(session).encode())
        with self._translated():
            for _ in range(MAX_NOTICES):
                if (message := pubsub.get_message(timeout=0)) is None:
                    break
                if message["type"] == "message" and message["channel"] in channels:
                    notice = Notice.decode(message["data"])
                    if notice is not None:
                        found.append(notice)
                    elif not self._has_warned_of_strangers:
                        self._has_warned_of_strangers = True
                        logger.warning(
                            "celery-gconc: ignored an unrecognised message on %s", message["channel"].decode()
                        )
        return found
