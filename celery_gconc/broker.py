"""The broker under a worker's consumer: which queue a message came from, and how reading and messages are given back.

    Intake -> Broker -> basic_cancel, basic_consume, reject, or Redis

What each transport can do differs; the classes here are where that is known, and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import resources
from queue import Empty
from typing import Any

from celery.utils.log import get_logger
from kombu import Queue
from kombu.transport.virtual import Channel as VirtualChannel
from kombu.utils.json import dumps, loads

logger = get_logger(__name__)

#: A message as it is held here, and the queue that it came from.
Delivery = tuple[str, Any]

#: Key under which a virtual transport's message says which queue it came from (its routing key need not).
QUEUE_KEY = "gconc_queue"

#: How many times fewer than a quorum queue's delivery limit a message is put back, before a copy takes its place.
SPARE_DELIVERIES = 2

#: RabbitMQ's own delivery limit of quorum queues (4.0 and later; before, there was none).
DELIVERY_LIMIT = 20

#: Properties that a copy has from its original; body, headers, content type and priority are given by name.
COPIED_PROPERTIES = ("correlation_id", "reply_to", "delivery_mode", "expiration", "message_id", "timestamp", "type")

#: How many messages of a list are looked at in one step, at most.
LOOKED_AT = 1000

#: After how many seconds a list that was looked through is looked through again from its start.
LOOK_AGAIN_SECONDS = 5.0


class Broker:
    """Any transport that has ``basic_cancel`` and ``basic_consume``. All on the consumer's thread.

    A queue that is cancelled keeps its consumer tag in kombu's consumer: to the operator it stays subscribed.
    """

    #: Most requests of one queue that a worker parks for limits other than the queue's own: those behind them may not
    #: be covered, so some are worth reading past, and each costs memory here.
    most_parked = 32

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.channel: Any = consumer.channel

    def consumer_timeout(self, name: str, default: float) -> float | None:
        """After how many seconds the broker closes the channel because of a message of this queue that it still holds.

        None = it never does.
        """
        return None

    def queue_of(self, message: Any) -> str | None:
        """The queue that a message was consumed from."""
        delivery = getattr(message, "delivery_info", None) or {}
        return delivery.get("routing_key") or None

    def cancel(self, name: str, tag: str) -> None:
        """Read no more from a queue. What is under way still arrives."""
        self.channel.basic_cancel(tag)

    def consume(self, queue: Queue, tag: str) -> None:
        """Read from a cancelled queue again."""
        queue.consume(tag, self.consumer._receive_callback, no_ack=self.consumer.no_ack)

    def end_reading(self) -> None:
        """Cancel every queue for good, and take in what was under way."""
        self.consumer.cancel()

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put messages back where they came from, the first of them to be read first, where the transport can."""
        for _, message in reversed(deliveries):
            message.requeue()

    def keep(self, messages: Iterable[Any]) -> None:
        """Tell the broker that these are still held, where it would deliver them again otherwise."""

    def take_past(self, name: str, tasks: Iterable[str], most: int) -> int:
        """Deliver messages of a cancelled queue that are for other tasks than these; return how many."""
        return 0


class AMQPBroker(Broker):
    """RabbitMQ. Nothing here waits for an answer: each call writes one frame, as Celery's own acknowledgements do."""

    #: Unacknowledged messages of a dead worker are back in their places at once, so many may be held.
    most_parked = 1000

    def consumer_timeout(self, name: str, default: float) -> float | None:
        """The queue's own ``x-consumer-timeout``, else the server's, which a client can't ask for."""
        queue = queue_named(self.consumer, name)
        own = (queue.queue_arguments or {}).get("x-consumer-timeout") if queue is not None else None
        return default if own is None else min(float(own) / 1000, default)

    def __init__(self, consumer: Any) -> None:
        super().__init__(consumer)
        #: The queue of each consumer tag that was in use on this channel.
        self._queues: dict[str, str] = {}

    def queue_of(self, message: Any) -> str | None:
        """The queue that a message was consumed from, by its consumer tag."""
        delivery = message.delivery_info
        tag = delivery.get("consumer_tag")
        if tag not in self._queues:
            self._queues.update((tag, name) for name, tag in self.consumer._active_tags.items())
        return self._queues.get(tag) or delivery.get("routing_key") or None

    def cancel(self, name: str, tag: str) -> None:
        """Read no more from a queue. The tag's callback stays, for what is under way."""
        self._queues[tag] = name
        self.channel.basic_cancel(tag, nowait=True)

    def consume(self, queue: Queue, tag: str) -> None:
        """Read from a cancelled queue again, by a new tag.

        (RabbitMQ 3.10: a quorum queue keeps a cancelled consumer while some of its messages are not acknowledged; to
        consume by the same tag again, and acknowledge those, ends the connection with INTERNAL_ERROR.)
        """
        tag = self.consumer._add_tag(queue)
        self._queues[tag] = queue.name
        queue.consume(tag, self.consumer._receive_callback, no_ack=self.consumer.no_ack, nowait=True)

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put messages back to their own places in their queues; near a delivery limit, publish copies instead.

        A quorum queue counts how often a message went back, and drops it (or dead-letters it) at its limit. A copy
        counts from none; it stands at the end of the queue. Should the worker die between the copy's confirmation and
        the acknowledgement, both are delivered.
        """
        for name, message in deliveries:
            if self._is_near_limit(name, message):
                self._republish(name, message)
            else:
                message.requeue()

    def _is_near_limit(self, name: str, message: Any) -> bool:
        count = (message.headers or {}).get("x-delivery-count")
        if count is None:
            return False
        queue = queue_named(self.consumer, name)
        arguments = (queue.queue_arguments if queue is not None else None) or {}
        limit = int(arguments.get("x-delivery-limit", DELIVERY_LIMIT))
        return limit >= 0 and int(count) >= max(limit - SPARE_DELIVERIES, 0)

    def _republish(self, name: str, message: Any) -> None:
        headers = {key: value for key, value in message.headers.items() if key != "x-delivery-count"}
        copied = (
            "correlation_id",
            "reply_to",
            "delivery_mode",
            "expiration",
            "message_id",
            "timestamp",
            "type",
            "app_id",
        )
        properties = {key: message.properties[key] for key in copied if key in message.properties}
        with self.channel.connection.channel() as channel:
            channel.confirm_select()
            body = channel.prepare_message(
                message.body,
                priority=message.properties.get("priority"),
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                headers=headers,
                properties=properties,
            )
            # The default exchange leads to this queue alone: no other binding gets a copy.
            channel.basic_publish_confirm(body, exchange="", routing_key=name)
        message.ack()
        logger.info(
            "celery-gconc: a message of %s came near its delivery limit by waiting: a copy takes its place", name
        )


class VirtualBroker(Broker):
    """kombu's virtual transports, which deliver by queue but don't say by which."""

    def __init__(self, consumer: Any) -> None:
        super().__init__(consumer)
        # kombu 5.4-5.7: a virtual transport's message names exchange and routing key, not its queue, so each queue's
        # callback is wrapped where basic_consume registers it. The channel is this connection's own.
        original = self.channel.basic_consume

        def basic_consume(queue: str, *args: Any, **kwargs: Any) -> Any:
            result = original(queue, *args, **kwargs)
            callbacks = self._callbacks
            callbacks[queue] = self._named(queue, callbacks[queue])
            return result

        self.channel.basic_consume = basic_consume

    def queue_of(self, message: Any) -> str | None:
        """The queue that a message was consumed from, as its callback has noted it."""
        delivery = getattr(message, "delivery_info", None) or {}
        return delivery.get(QUEUE_KEY) or super().queue_of(message)

    def cancel(self, name: str, tag: str) -> None:
        """Read no more from a queue. A read under way (Redis: BRPOP) may still bring a message: it is received."""
        callback = self._callbacks.get(name)
        self._cancel(tag)
        if callback is not None:
            self._callbacks[name] = callback

    def _cancel(self, tag: str) -> None:
        self.channel.basic_cancel(tag)

    @property
    def _callbacks(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        callbacks: dict[str, Callable[[dict[str, Any]], Any]] = self.channel.connection._callbacks
        return callbacks

    def _named(self, queue: str, callback: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        def deliver(raw_message: dict[str, Any]) -> Any:
            with suppress(KeyError, TypeError):
                raw_message["properties"]["delivery_info"][QUEUE_KEY] = queue
            return callback(raw_message)

        return deliver


class RedisBroker(VirtualBroker):
    """Redis: lists, read by one BRPOP for all queues; what is unacknowledged stands in a hash with a time-out."""

    def __init__(self, consumer: Any) -> None:
        super().__init__(consumer)
        self._connection_id: tuple[Any, int] | None = None
        self._kept_at = 0.0
        #: What receives the messages of each queue, whether it is cancelled or not.
        self._receivers: dict[str, Callable[[dict[str, Any]], Any]] = {}
        #: How far each list was looked through, from its consuming end; and when that began, of each queue.
        self._looked: dict[str, int] = {}
        self._look_began: dict[str, float] = {}
        self._guard_close()

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

    def consume(self, queue: Queue, tag: str) -> None:
        """Read from a cancelled queue again, at once: a read under way doesn't cover it, and may last a second."""
        super().consume(queue, tag)
        self._interrupt_read()

    def end_reading(self) -> None:
        """Cancel every queue for good; a message that the read under way brings is received, not requeued behind."""
        self.consumer.cancel()
        self._callbacks.update(self._receivers)
        if getattr(self.channel, "_in_poll", None):
            self._interrupt_read()
            with suppress(Empty, *self.channel.connection_errors):
                self.channel._brpop_read()

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put messages back to the consuming end of their lists, in order, in one step; see ``give_back.lua``.

        (kombu's own way, 5.4-5.7, puts them to the other end, or in reverse, and into each queue that the routing key
        is bound to.) They aren't marked as redelivered: no task has seen them.
        """
        channel = self.channel
        keys, arguments = [channel.unacked_key, channel.unacked_index_key], []
        for name, message in reversed(deliveries):
            payload = message._raw
            payload["properties"]["delivery_info"].pop(QUEUE_KEY, None)
            keys.append(self._list_of(name, payload))
            arguments += [message.delivery_tag, dumps(payload)]
        self._eval("give_back", keys, arguments)
        for _, message in deliveries:
            channel.qos._quick_ack(message.delivery_tag)

    def keep(self, messages: Iterable[Any]) -> None:
        """Refresh the time at which held messages were delivered, in one call, four times a visibility timeout."""
        moment = time.monotonic()
        if moment - self._kept_at < min(self.channel.visibility_timeout / 4, 60.0):
            return
        scores = {message.delivery_tag: time.time() for message in messages}
        self._kept_at = moment
        if scores:
            with self.channel.conn_or_acquire() as client:
                client.zadd(self.channel.unacked_index_key, scores, xx=True)

    def take_past(self, name: str, tasks: Iterable[str], most: int) -> int:
        """Look at a thousand messages more of a cancelled queue; see ``take_past.lua``."""
        moment = time.monotonic()
        channel = self.channel
        lists = dict.fromkeys(channel._q_for_pri(name, step) for step in channel.priority_steps)
        if moment - self._look_began.get(name, -LOOK_AGAIN_SECONDS) >= LOOK_AGAIN_SECONDS:
            self._look_began[name] = moment
            for key in lists:
                self._looked.pop(key, None)
        passed = [dumps(task)[1:-1] for task in tasks]
        for key in lists:
            looked = self._looked.get(key, 0)
            left, *found = self._eval("take_past", [key], [looked, LOOKED_AT, most, *passed])
            self._looked[key] = looked + left
            for payload in found:
                self._receivers[name](loads(payload))
            if found or left:
                return len(found)
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

    def _cancel(self, tag: str) -> None:
        # kombu 5.4-5.7: where another greenlet is reading, basic_cancel waits for the end of that read, and would then
        # undo a basic_consume that came in between. It waits so that no message comes for a cancelled queue; ours do.
        self.channel._basic_cancel(tag)

    def _eval(self, name: str, keys: list[str], arguments: list[Any]) -> Any:
        # kombu 5.4-5.7 puts global_keyprefix before the keys of the commands that it uses itself; EVAL isn't one.
        prefix = self.channel.global_keyprefix or ""
        with self.channel.conn_or_acquire() as client:
            return client.eval(_lua(name), len(keys), *[prefix + key for key in keys], *arguments)

    def _learn_connection(self) -> None:
        """Learn the id of the connection on which the broker is read. Called while its reply is being handled."""
        connection = getattr(self.channel, "_in_poll", None)
        if not connection or (self._connection_id is not None and self._connection_id[0] is connection):
            return
        self._connection_id = (connection, 0)
        with suppress(Exception):  # without it, a queue may go on being consumed up to a second later
            connection.send_command("CLIENT", "ID")
            self._connection_id = (connection, int(connection.read_response()))

    def _interrupt_read(self) -> None:
        connection = getattr(self.channel, "_in_poll", None)
        if not connection or self._connection_id is None or self._connection_id[0] is not connection:
            return
        if self._connection_id[1]:
            with suppress(Exception), self.channel.conn_or_acquire() as client:
                client.client_unblock(self._connection_id[1])


def broker_of(consumer: Any, driver_type: str) -> Broker:
    """The broker under a kombu consumer, by the type of its connection's transport."""
    if driver_type == "amqp":
        return AMQPBroker(consumer)
    if isinstance(consumer.channel, VirtualChannel):
        return RedisBroker(consumer) if driver_type == "redis" else VirtualBroker(consumer)
    return Broker(consumer)


def must_stay_consumed(consumer: Any, name: str) -> bool:
    """Whether a queue would suffer from a cancel: the broker may delete it, or hand it to another consumer."""
    queue = queue_named(consumer, name)
    if queue is None:
        return False
    arguments = queue.queue_arguments or {}
    return bool(
        queue.auto_delete
        or queue.exclusive
        or getattr(queue, "expires", None)
        or "x-expires" in arguments
        or arguments.get("x-single-active-consumer")
    )


def queue_named(consumer: Any, name: str) -> Queue | None:
    """A subscribed queue."""
    return next((queue for queue in consumer.queues if queue.name == name), None)


_scripts: dict[str, str] = {}


def _lua(name: str) -> str:
    if name not in _scripts:
        _scripts[name] = resources.files(__package__).joinpath(f"lua/broker/{name}.lua").read_text(encoding="utf-8")
    return _scripts[name]
