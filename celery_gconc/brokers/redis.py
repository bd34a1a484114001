"""Redis as the broker: its lists are read by one BRPOP; messages can be put back, kept, and taken from the middle.

    Intake -> RedisBroker -> kombu's channel, or scripts over kombu's keys (lua/broker)

What is kombu's own here (key names, priorities, the unacknowledged messages' hash) is that of kombu 5.4 to 5.7.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from queue import Empty
from typing import Any

from kombu import Queue
from kombu.utils.json import dumps, loads

from celery_gconc.brokers.base import Delivery
from celery_gconc.brokers.scripts import run_on_broker
from celery_gconc.brokers.virtual import FETCHED_KEY, QUEUE_KEY, VirtualBroker
from celery_gconc.connection.failures import Names
from celery_gconc.errors import SessionRefused
from celery_gconc.protocol.rights import OPTIONAL_AT_BROKER, missing_at_broker

#: How many messages of a list are looked at in one step, at most.
LOOKED_AT = 500

#: How many messages, or some more than how many bytes of them, are put back in one step at most.
MAX_GIVEN, BYTES_GIVEN = 500, 1024 * 1024

#: After how many seconds a queue that was looked through is looked through again from its start.
LOOK_AGAIN_SECONDS = 5.0


class RedisBroker(VirtualBroker):
    """Redis: lists, read by one BRPOP for all queues; what is unacknowledged stands in a hash with a time-out."""

    def __init__(self, consumer: Any) -> None:
        super().__init__(consumer)
        self._connection_id: tuple[Any, int] | None = None
        #: What receives the messages of each queue, also after the end of all reading.
        self._receivers: dict[str, Callable[[dict[str, Any]], Any]] = {}
        #: How far each list was looked through, from its consuming end; and since when each queue is, to its end.
        self._looked: dict[str, int] = {}
        self._looked_through: dict[str, float] = {}
        self._guard_close()

    def check_rights(self, setting: str) -> tuple[str, ...]:  # noqa: D102 - as above
        with self.channel.conn_or_acquire() as client:
            key = (self.channel.global_keyprefix or "") + self.channel.unacked_index_key
            missing = missing_at_broker(client, key)
        failure = missing.failure(Names(setting, is_broker=True), "the broker")
        if failure is not None:
            raise SessionRefused(str(failure))
        return missing.unseen(OPTIONAL_AT_BROKER)

    def _guard_close(self) -> None:
        # kombu 5.7.0: where the broker dies during a BRPOP, the channel is closed a second time when its transport has
        # no client any more, and restoring messages ends the worker with an AttributeError. Nothing can be restored
        # then. (With a full prefetch no BRPOP is under way; but what is parked gives its credit away.)
        close, channel = self.channel.close, self.channel

        def guarded() -> None:
            if getattr(channel.connection, "client", None) is None:
                channel.do_restore = False
            close()

        channel.close = guarded

    def _skip_in_turns(self) -> None:
        cycle = self.channel._queue_cycle
        next_queues = cycle.consume

        def next_unless_skipped(count: int) -> list[str]:
            return [name for name in next_queues(count) if name not in self._skipped]

        cycle.consume = next_unless_skipped

    def consume(self, queue: Queue, tag: str) -> None:
        """Read from a cancelled queue again, at once: a read under way doesn't cover it, and may last a second."""
        super().consume(queue, tag)
        self.end_read()

    def cancel_all(self) -> None:
        """Read no more from any queue; a message that the read under way brings is received, not requeued behind."""
        for tag in self.consumer._active_tags.values():
            # kombu 5.4-5.7: where another greenlet is reading, basic_cancel waits for the end of that read, so that no
            # message comes for a cancelled queue; ours do.
            self.channel._basic_cancel(tag)
        self._callbacks.update(self._receivers)
        self.end_read()

    def end_reading(self) -> None:
        """Take in what the read under way brings."""
        if getattr(self.channel, "_in_poll", None):
            self.end_read()
            with suppress(Empty, *self.channel.connection_errors):
                self.channel._brpop_read()

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put messages back to the consuming end of their lists, in order; see ``give_back.lua``.

        In steps, the last of them first: each step's come before those of the step before.

        (kombu's own way, 5.4-5.7, puts them to the other end, or in reverse, and into each queue that the routing key
        is bound to.) They aren't marked as redelivered: no task has seen them.
        """
        channel = self.channel
        # A fanout queue is no list.
        deliveries = [(name, message) for name, message in deliveries if name not in channel._fanout_queues]
        while deliveries:
            keys, arguments = [channel.unacked_key, channel.unacked_index_key], list[str]()
            size = 0
            while deliveries and len(arguments) < 2 * MAX_GIVEN and size < BYTES_GIVEN:
                name, message = deliveries.pop()
                payload = message._raw
                for added in (QUEUE_KEY, FETCHED_KEY):
                    payload["properties"]["delivery_info"].pop(added, None)
                text = dumps(payload)
                keys.append(self._list_of(name, payload))
                arguments += [message.delivery_tag, text]
                size += len(text)
            run_on_broker(channel, "give_back", keys, *arguments)
            for tag in arguments[::2]:
                channel.qos._quick_ack(tag)

    def may_move(self, name: str, message: Any) -> bool:
        """Any may, but what is no list's."""
        return name not in self.channel._fanout_queues

    @property
    def keep_seconds(self) -> float:
        """Four times a visibility timeout, and each minute."""
        return min(float(self.channel.visibility_timeout) / 4, 60.0)

    def keep(self, messages: Collection[Any]) -> None:
        """Refresh the time at which these were delivered, in one call."""
        if self._is_closed:
            return
        scores = {message.delivery_tag: time.time() for message in messages}
        with self.channel.conn_or_acquire() as client:
            client.zadd(self.channel.unacked_index_key, scores, xx=True)

    def can_fetch(self, name: str) -> bool:  # noqa: D102 - as above
        return True

    def fetch(self, name: str, count: int) -> int | None:
        """The same, in one round trip; see ``fetch.lua``. What that can't read, it doesn't count: kombu reads it."""
        channel = self.channel
        if not self.may_fetch:
            return None
        credit = channel.qos.can_consume_max_estimate()
        most = count if credit is None else min(count, credit)
        lists = dict.fromkeys(channel._q_for_pri(name, step) for step in channel.priority_steps)
        keys = [channel.unacked_key, channel.unacked_index_key, *lists]
        try:
            found = run_on_broker(channel, "fetch", keys, most, time.time())
        except channel.connection_errors:
            return None  # kombu's own read is about to find it so; what was taken is restored as what any worker took
        for text in found:
            payload = loads(text)
            payload["properties"]["delivery_info"][FETCHED_KEY] = True
            self._receivers[name](payload)
        return None if len(found) == most < count else len(found)

    def was_fetched(self, message: Any) -> bool:  # noqa: D102 - as above
        return FETCHED_KEY in message.delivery_info

    @property
    def may_fetch(self) -> bool:
        """The same; and not where the connection is lost."""
        return not self._is_closed and bool(self.channel.qos.can_consume())

    def count(self, names: Sequence[str]) -> dict[str, int]:
        """The same, in one round trip."""
        channel, steps = self.channel, self.channel.priority_steps
        if self._is_closed:
            return {}
        with suppress(*channel.connection_errors), channel.conn_or_acquire() as client:
            with client.pipeline(transaction=False) as pipeline:
                for name in names:
                    for step in steps:
                        pipeline.llen(channel._q_for_pri(name, step))
                found = pipeline.execute()
            return {name: sum(found[len(steps) * at : len(steps) * (at + 1)]) for at, name in enumerate(names)}
        return {}

    def take_past(self, name: str, tasks: Iterable[str], count: int) -> int:
        """Look at some hundred messages more of a cancelled queue; see ``take_past.lua``."""
        channel, moment = self.channel, time.monotonic()
        if self._is_closed:
            return 0
        if not channel.qos.can_consume():
            return 0  # tasks that are held back elsewhere (ETA, rate limit) have taken the prefetch count
        credit = channel.qos.can_consume_max_estimate()
        count = count if credit is None else min(count, credit)
        lists = dict.fromkeys(channel._q_for_pri(name, step) for step in channel.priority_steps)
        if moment - self._looked_through.get(name, moment) >= LOOK_AGAIN_SECONDS:
            del self._looked_through[name]
            for key in lists:
                self._looked.pop(key, None)
        passed = [dumps(task)[1:-1] for task in tasks]
        for key in lists:
            looked = self._looked.get(key, 0)
            keys = [key, channel.unacked_key, channel.unacked_index_key]
            left, *found = run_on_broker(
                self.channel, "take_past", keys, looked, LOOKED_AT, count, time.time(), *passed
            )
            self._looked[key] = looked + left
            for payload in found:
                self._receivers[name](loads(payload))
            if found or left:
                return len(found)
        self._looked_through.setdefault(name, moment)
        return 0

    def _named(self, queue: str, callback: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        named = super()._named(queue, callback)

        def deliver(raw_message: dict[str, Any]) -> Any:
            self._learn_connection()
            if self._looked:  # it came from the consuming end: the others have moved up by one
                key = self._list_of(queue, raw_message)
                self._looked[key] = max(self._looked.get(key, 0) - 1, 0)
            return named(raw_message)

        self._receivers[queue] = named
        return deliver

    def _list_of(self, queue: str, raw_message: dict[str, Any]) -> str:
        """The list that a message stands in, by its priority."""
        return str(self.channel._q_for_pri(queue, self.channel._get_message_priority(raw_message, reverse=False)))

    @property
    def _is_closed(self) -> bool:
        """Whether the connection is lost: another greenlet may be about to say so."""
        return bool(self.channel.closed or self.channel._closing)

    def _learn_connection(self) -> None:
        """Learn the id of the connection on which the broker is read. Called while its reply is being handled."""
        connection = getattr(self.channel, "_in_poll", None)
        if not connection or (self._connection_id is not None and self._connection_id[0] is connection):
            return
        self._connection_id = (connection, 0)
        with suppress(Exception):  # without it, a queue may go on being consumed up to a second later
            connection.send_command("CLIENT", "ID")
            self._connection_id = (connection, int(connection.read_response()))

    def end_read(self) -> None:
        """End the BRPOP under way, on which queues that were cancelled since may still bring a message."""
        connection = getattr(self.channel, "_in_poll", None)
        if not connection or self._connection_id is None or self._connection_id[0] is not connection:
            return
        if self._connection_id[1]:
            with suppress(Exception), self.channel.conn_or_acquire() as client:
                client.client_unblock(self._connection_id[1])
