"""Where a task's message is in the broker: in which queue, behind how many others, or taken by a worker.

explain, simulation -> BrokerView -> kombu (passive declarations), or scripts over kombu's lists in Redis (lua/broker)

It only looks, but for ``empty`` and ``remove``: nothing is consumed, moved or declared. RabbitMQ tells how many
messages a queue holds, not which.
What is kombu's own here (key names, priorities, the hash of unacknowledged messages) is that of kombu 5.4 to 5.7.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from celery import Celery
from kombu.exceptions import KombuError
from kombu.transport.virtual import Channel as VirtualChannel
from kombu.utils.json import dumps, loads

from celery_gconc.brokers.scripts import run_on_broker
from celery_gconc.brokers.virtual import QUEUE_KEY
from celery_gconc.connection.failures import in_words
from celery_gconc.connection.urls import without_secrets
from celery_gconc.errors import GlobalConcurrencyError

#: How long, in seconds, connecting to the broker may take.
CONNECT_SECONDS = 2.0

#: How long, in seconds, a Redis broker may say nothing (what waits for replies asks it anew each second).
SILENCE_SECONDS = 3.0

#: How many messages of a queue are looked at, from its consuming end, and how many that workers have taken.
MAX_LOOKED_AT = 20_000

#: How many messages are looked at in one step.
STEP = 500

#: How long, in seconds, all looking may take.
LOOK_SECONDS = 5.0


class BrokerUnavailable(GlobalConcurrencyError):
    """The broker can't be reached, or doesn't answer what was asked."""


@dataclass(frozen=True, slots=True)
class Message:
    """A task's message, as it is in the broker."""

    queue: str
    #: Its position: 1 is the next to be taken. None where a worker has taken it.
    position: int | None
    task: str | None = None
    #: Its ETA and the end of its validity, in ISO 8601, and how often the task was tried before.
    eta: str | None = None
    expires: str | None = None
    retries: int = 0
    #: When a worker took it, or last told that it has it still; when it goes back to its queue (Unix times, s).
    taken_at: float | None = None
    returns_at: float | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """What a search has found."""

    message: Message | None
    #: How many messages each queue holds; queues that don't exist are left out.
    counts: dict[str, int] = field(default_factory=dict)
    #: Whether this broker tells which messages it holds.
    can_look: bool = False
    #: Whether all of them were looked at.
    is_complete: bool = True


class BrokerView:
    """The broker of an app, looked at through a connection of its own. For one thread.

    Raises:
        BrokerUnavailable: from every method, where the broker can't be reached within some seconds.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._connection: Any = None

    def __enter__(self) -> BrokerView:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def connect(self) -> Any:
        """The connection; the first call opens it."""
        if self._connection is None:
            connection: Any = self.app.connection_for_write(connect_timeout=CONNECT_SECONDS)
            if connection.get_transport_cls().driver_type == "redis":  # it takes no notice of connect_timeout
                bounds = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": SILENCE_SECONDS}
                connection.transport_options = {**connection.transport_options, **bounds}
            try:
                connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=CONNECT_SECONDS)
            except Exception as exc:
                raise self._unavailable(exc) from exc
            self._connection = connection
        return self._connection

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    def count(self, queue: str) -> int | None:
        """How many messages a queue holds that no worker has taken; None where there is no such queue."""
        connection = self.connect()
        try:
            with connection.channel() as channel:
                if isinstance(channel, VirtualChannel):
                    return int(channel._size(queue))
                return int(channel.queue_declare(queue, passive=True).message_count)
        except connection.channel_errors:
            return None
        except (*connection.connection_errors, KombuError, OSError) as exc:
            raise self._unavailable(exc) from exc

    def find(self, task_id: str, queues: Iterable[str]) -> Search:
        """Look for a task's message in these queues, and among those that workers have taken.

        With a Redis broker only; with others the counts are all that is known. ``MAX_LOOKED_AT`` messages of each
        queue are looked at, those first that are consumed first, for ``LOOK_SECONDS`` at most.
        """
        names = list(dict.fromkeys(queues))
        counts = {name: count for name in names if (count := self.count(name)) is not None}
        connection = self.connect()
        if connection.transport.driver_type != "redis":
            return Search(None, counts)
        try:
            with connection.channel() as channel:
                return _RedisSearch(channel, task_id).find(names, counts)
        except (*connection.connection_errors, *connection.channel_errors, KombuError, OSError) as exc:
            raise self._unavailable(exc) from exc

    def empty(self, queue: str) -> int:
        """Remove all messages of a queue that no worker has taken; return how many: 0 where there is no such queue."""
        connection = self.connect()
        try:
            with connection.channel() as channel:
                return int(channel.queue_purge(queue) or 0)
        except connection.channel_errors:
            return 0
        except (*connection.connection_errors, KombuError, OSError) as exc:
            raise self._unavailable(exc) from exc

    def remove(self, queues: Iterable[str], tasks: Iterable[str] = (), but: str = "") -> int:
        """Remove the messages of these tasks, or of all *but* those whose names begin so; return how many.

        With a Redis broker only: others hold messages that nobody can pick from; it returns 0 there.
        """
        connection = self.connect()
        if connection.transport.driver_type != "redis":
            return 0
        names = [dumps(task)[1:-1] for task in tasks]
        removed = 0
        try:
            with connection.channel() as channel:
                for key in dict.fromkeys(
                    channel._q_for_pri(queue, step) for queue in queues for step in channel.priority_steps
                ):
                    at = 0
                    while True:
                        left, gone = run_on_broker(channel, "remove", [key], at, STEP, but, *names)
                        if not left and not gone:
                            break
                        at, removed = at + left, removed + gone
        except (*connection.connection_errors, *connection.channel_errors, KombuError, OSError) as exc:
            raise self._unavailable(exc) from exc
        return removed

    def _unavailable(self, exc: Exception) -> BrokerUnavailable:
        url = without_secrets(self.app.conf.broker_url or "")
        reason = without_secrets(str(exc).splitlines()[0] if str(exc) else type(exc).__name__).rstrip(".")
        return BrokerUnavailable(f"broker unavailable: {in_words(reason)} ({url})")


class _RedisSearch:
    """A search of the lists and the hash in which kombu keeps messages in Redis."""

    def __init__(self, channel: Any, task_id: str) -> None:
        self.channel, self.task_id = channel, task_id
        self._ends = time.monotonic() + LOOK_SECONDS
        self._is_complete = True

    def find(self, queues: Iterable[str], counts: dict[str, int]) -> Search:
        """Look in the queues, then among what was taken: the way that a message goes."""
        found = None
        for queue in queues:
            found = found or (self._in_queue(queue) if counts.get(queue) else None)
        found = found or self._taken()
        return Search(found, counts, can_look=True, is_complete=self._is_complete or found is not None)

    def _in_queue(self, queue: str) -> Message | None:
        before = 0
        for step in self.channel.priority_steps:  # in the order in which they are consumed
            key = self.channel._q_for_pri(queue, step)
            found, length = self._in_list(key)
            if found is not None:
                index, message = found
                return _message(message, queue, position=before + length - index)
            before += length
        return None

    def _in_list(self, key: str) -> tuple[tuple[int, dict[str, Any]] | None, int]:
        """The index of the task's message in a list, and the message; and the list's length."""
        length, _ = self._run("find_in_list", [key], 0, 0)
        at = max(length - MAX_LOOKED_AT, 0)
        self._is_complete &= at == 0
        while at < length:
            if time.monotonic() > self._ends:
                self._is_complete = False
                break
            length, looked, *found = self._run("find_in_list", [key], at, STEP)
            if not looked:
                break
            if found and (message := self._own(found[1])) is not None:
                return (found[0], message), length
            at = found[0] + 1 if found else at + looked
        return None, length

    def _taken(self) -> Message | None:
        channel, cursor, looked = self.channel, b"0", 0
        while True:
            keys = [channel.unacked_key, channel.unacked_index_key]
            cursor, some, *found = self._run("find_taken", keys, cursor)
            for payload, moment in zip(found[::2], found[1::2], strict=True):
                if (taken := _json(payload)) and self._is_own(taken[0]):
                    at = float(moment) if moment else None
                    queue = taken[0]["properties"]["delivery_info"].get(QUEUE_KEY) or taken[2]
                    returns = None if at is None else at + channel.visibility_timeout
                    return _message(taken[0], str(queue), position=None, taken_at=at, returns_at=returns)
            looked += some
            if cursor in (b"0", "0"):
                return None
            if looked >= MAX_LOOKED_AT or time.monotonic() > self._ends:
                self._is_complete = False
                return None

    def _own(self, payload: Any) -> dict[str, Any] | None:
        message = _json(payload)
        return message if self._is_own(message) else None

    def _is_own(self, message: Any) -> bool:
        if not isinstance(message, dict):
            return False
        headers, properties = message.get("headers") or {}, message.get("properties") or {}
        return self.task_id in (headers.get("id"), properties.get("correlation_id"))

    def _run(self, script: str, keys: list[str], *arguments: Any) -> Any:
        return run_on_broker(self.channel, script, keys, dumps(self.task_id), *arguments)


def _message(message: dict[str, Any], queue: str, **where: Any) -> Message:
    headers = message.get("headers") or {}
    return Message(
        queue=queue,
        task=headers.get("task"),
        eta=headers.get("eta"),
        expires=headers.get("expires"),
        retries=int(headers.get("retries") or 0),
        **where,
    )


def _json(payload: Any) -> Any:
    try:
        return loads(payload)
    except (ValueError, TypeError, json.JSONDecodeError):
        return None
