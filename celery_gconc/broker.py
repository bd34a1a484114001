"""The broker under a worker's consumer: which queue a message came from, and how reading and messages are given back.

    Intake -> Broker -> basic_cancel, basic_consume, reject, or Redis

What each transport can do differs; the classes here are where that is known, and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from amqp import spec
from amqp.exceptions import ChannelError, ConsumerCancelled
from celery.utils.log import get_logger
from kombu import Queue
from kombu.common import Broadcast

from .keeper import Keeper, another_connection

logger = get_logger(__name__)

#: A message as it is held here, and the queue that it came from.
Delivery = tuple[str, Any]

#: Key under which a virtual transport's message says which queue it came from (its routing key need not).
QUEUE_KEY = "gconc_queue"

#: With what the name begins that RabbitMQ gives to a queue without one.
SERVER_NAMED = "amq.gen-"

#: How many times fewer than a quorum queue's delivery limit a message is put back, before a copy takes its place.
SPARE_DELIVERIES = 2

#: RabbitMQ's own delivery limit of quorum queues (4.0 and later; before, there was none).
DELIVERY_LIMIT = 20

#: Properties that a copy has from its original; body, headers, content type and priority are given by name.
COPIED_PROPERTIES = (
    "correlation_id", "reply_to", "delivery_mode", "expiration", "message_id", "timestamp", "type", "app_id",
)  # fmt: skip

#: How long, in seconds, the broker has for each answer while a copy is published: the event loop waits for it.
COPY_SECONDS = 3.0


class Broker:
    """Any transport that has ``basic_cancel`` and ``basic_consume``. All on the consumer's thread.

    A queue that is cancelled keeps its consumer tag in kombu's consumer: to the operator it stays subscribed.
    """

    #: Most requests of one queue that a worker parks for limits other than the queue's own: those behind them may not
    #: be covered, so some are worth reading past, and each costs memory here.
    most_parked = 32

    #: Whether queues may be cancelled and consumed again at will.
    may_cancel = True

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.channel: Any = consumer.channel

    def check_rights(self, setting: str) -> tuple[str, ...]:
        """See that we may do all that we do there, and return what goes less well for lack of a right, in sentences.

        *setting* is the one that names the broker.

        Raises:
            SessionRefused: something that is needed is missing; the message names all of it.
        """
        return ()

    @property
    def lost(self) -> Mapping[str, int]:
        """How often each queue was found to be gone while it was not consumed."""
        return {}

    def close(self) -> None:
        """It is done with: the worker stops, or has another connection."""

    def consumer_timeout(self, name: str, default: float) -> float | None:
        """After how many seconds the broker closes the channel because of a message of this queue that it still holds.

        None = it never does.
        """
        return None

    def queue_of(self, message: Any) -> str | None:
        """The queue that a message was consumed from: here, by the routing key, which is its sender's to choose."""
        delivery = getattr(message, "delivery_info", None) or {}
        name = delivery.get("routing_key")
        return name if isinstance(name, str) and queue_named(self.consumer, name) is not None else None

    def cancel(self, name: str, tag: str) -> None:
        """Read no more from a queue. What is under way still arrives."""
        self.channel.basic_cancel(tag)

    def consume(self, queue: Queue, tag: str) -> None:
        """Read from a cancelled queue again."""
        queue.consume(tag, self.consumer._receive_callback, no_ack=self.consumer.no_ack)

    def cancel_all(self) -> None:
        """Read no more from any queue."""
        for name, tag in list(self.consumer._active_tags.items()):
            self.cancel(name, tag)

    def end_reading(self) -> None:
        """Take in what was under way. On the consumer's thread only, where nothing else reads the connection."""

    def forget(self) -> None:
        """The worker has stopped: nothing is delivered any more."""

    def end_read(self) -> None:
        """Have a read under way end that still reads from cancelled queues, where there may be one."""

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put messages back where they came from, the first of them to be read first, where the transport can."""
        for _, message in reversed(deliveries):
            message.requeue()

    def may_move(self, name: str, message: Any) -> bool:
        """Whether a message may go back only for others to take it: to its own place, and with nothing to count it."""
        return False

    @property
    def keep_seconds(self) -> float | None:
        """How often :meth:`keep` is to tell of each message; None where the broker needn't hear of it."""
        return None

    def keep(self, messages: Collection[Any]) -> None:
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
        own = arguments_of(queue).get("x-consumer-timeout")
        return default if own is None else min(float(own) / 1000, default)

    def __init__(self, consumer: Any) -> None:
        super().__init__(consumer)
        #: The queue of each consumer tag that may still bring a message.
        self._queues: dict[str, str] = {}
        #: The tag by which each queue was consumed before.
        self._last_tags: dict[str, str] = {}
        self._keeper = Keeper(self.channel.connection.client, lambda name: name in consumer._active_tags)
        self._outlive_lost_queues()

    def _outlive_lost_queues(self) -> None:
        """Have the worker connect anew where a queue is gone that it consumes again.

        So it does where the broker deletes a queue that is consumed: plain Celery is told of that by a cancel. What
        comes here, where nobody waits for the consumer's confirmation, is the end of the channel, which would end the
        worker (py-amqp 5: ``ChannelError``; celery 5.4-5.7 takes none for recoverable).
        """
        listener = self.channel._callbacks[spec.Channel.Close]

        def on_close(code: int, text: str, class_id: int, method_id: int) -> None:
            try:
                listener(code, text, class_id, method_id)
            except ChannelError as exc:
                if not self._last_tags or (class_id, method_id) != spec.Basic.Consume:
                    raise
                raise ConsumerCancelled(text, spec.Basic.Consume) from exc

        self.channel._callbacks[spec.Channel.Close] = on_close

    @property
    def lost(self) -> Mapping[str, int]:
        """How often each queue was found to be gone while it was not consumed."""
        return self._keeper.lost

    def close(self) -> None:
        """Look after no queue any more."""
        self._keeper.close()

    def cancel_all(self) -> None:
        """Read no more from any queue: from here on they are others', as in plain Celery."""
        self._keeper.end()
        super().cancel_all()

    def queue_of(self, message: Any) -> str | None:
        """The queue that a message was consumed from, by its consumer tag."""
        delivery = message.delivery_info
        tag = delivery.get("consumer_tag")
        if tag not in self._queues:
            self._queues.update((tag, name) for name, tag in self.consumer._active_tags.items())
        return self._queues.get(tag) or super().queue_of(message)

    def cancel(self, name: str, tag: str) -> None:
        """Read no more from a queue. The tag's callback stays, for what is under way."""
        self._queues[tag] = name
        self.channel.basic_cancel(tag, nowait=True)
        if (queue := queue_named(self.consumer, name)) is not None:
            self._keeper.keep(queue)

    def consume(self, queue: Queue, tag: str) -> None:
        """Read from a cancelled queue again, by a new tag.

        (RabbitMQ 3.10: a quorum queue keeps a cancelled consumer while some of its messages are not acknowledged; to
        consume by the same tag again, and acknowledge those, ends the connection with INTERNAL_ERROR.)
        """
        self._keeper.leave(queue.name)
        outdated = self._last_tags.get(queue.name)
        if outdated is not None:  # what was under way by that one has come long since
            self._queues.pop(outdated, None)
            self.channel.callbacks.pop(outdated, None)
        self._last_tags[queue.name] = tag
        tag = self.consumer._add_tag(queue)
        self._queues[tag] = queue.name
        queue.consume(tag, self.consumer._receive_callback, no_ack=self.consumer.no_ack, nowait=True)

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put messages back to their own places in their queues; near a delivery limit, publish copies instead.

        A quorum queue counts how often a message went back, and drops it (or dead-letters it) at its limit. A copy
        counts from none; it stands at the end of the queue. Should the worker die between the copy's confirmation and
        the acknowledgement, both are delivered.
        """
        near = []
        for name, message in deliveries:
            if self._is_near_limit(name, message):
                near.append((name, message))
            else:
                message.requeue()
        if near:
            self._republish(near)

    def may_move(self, name: str, message: Any) -> bool:
        """Not from half the delivery limit of a quorum queue on: the rest is for workers that are lost."""
        return not self._is_counted_beyond(name, message, lambda limit: limit // 2)

    def _is_near_limit(self, name: str, message: Any) -> bool:
        return self._is_counted_beyond(name, message, lambda limit: max(limit - SPARE_DELIVERIES, 0))

    def _is_counted_beyond(self, name: str, message: Any, most_of: Callable[[int], int]) -> bool:
        """Whether a message was delivered so often that its queue's delivery limit, if it has one, is so near."""
        count = (message.headers or {}).get("x-delivery-count")
        if count is None:
            return False
        arguments = arguments_of(queue_named(self.consumer, name))
        limit = int(arguments.get("x-delivery-limit", DELIVERY_LIMIT))
        return limit >= 0 and int(count) >= most_of(limit)

    def _republish(self, deliveries: Iterable[Delivery]) -> None:
        """Put copies to the ends of the queues; where one can't be published, the messages themselves go back."""
        left = deque(deliveries)
        try:
            # A connection of its own, for the consumer's may be read by another greenlet at this moment.
            with (
                another_connection(self.channel.connection.client, COPY_SECONDS) as connection,
                connection.channel() as channel,
            ):
                channel.confirm_select()
                while left:
                    name, message = left[0]
                    # The default exchange leads to this queue alone: no other binding gets a copy.
                    channel.basic_publish_confirm(_copy(channel, message), exchange="", routing_key=name)
                    left.popleft()
                    message.ack()
                    logger.info(
                        "celery-gconc: a message of %s came near its delivery limit by waiting: a copy takes its place",
                        name,
                    )
        except Exception as exc:  # noqa: BLE001 - whatever a connection raises
            logger.warning(
                "celery-gconc: %d messages go back though they are near their delivery limits, for their copies could "
                "not be published: %s: %s", len(left), type(exc).__name__, exc,
            )  # fmt: skip
            for _, message in left:
                message.requeue()


def _copy(channel: Any, message: Any) -> Any:
    """A message to be published: what another is, but for how often that was delivered."""
    return channel.prepare_message(
        message.body,
        priority=message.properties.get("priority"),
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers={key: value for key, value in message.headers.items() if key != "x-delivery-count"},
        properties={key: message.properties[key] for key in COPIED_PROPERTIES if key in message.properties},
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

    def forget(self) -> None:
        """Let go of the callbacks that were kept: kombu up to 5.5 keeps its transports, by timers of a reused loop."""
        self._callbacks.clear()

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


def must_stay_consumed(consumer: Any, name: str) -> bool:
    """Whether a queue would suffer from a cancel: the broker may delete it, or hand it to another consumer.

    Or forget it: a fanout queue of a virtual transport is a subscription, which misses what is sent meanwhile.
    """
    if name in getattr(consumer.channel, "_fanout_queues", ()):
        return True
    queue = queue_named(consumer, name)
    return queue is not None and suffers_from_cancel(queue)


def suffers_from_cancel(queue: Queue) -> bool:
    """Whether the broker may delete a queue, or hand it to another consumer, while it is not consumed."""
    arguments = queue.queue_arguments or {}
    return bool(
        queue.auto_delete
        or queue.exclusive
        or getattr(queue, "expires", None)
        or "x-expires" in arguments
        or arguments.get("x-single-active-consumer")
    )


def goes_by(queue: Queue) -> str:
    """The name by which limits know a queue: its own, or its alias where each process has a queue of its own.

    (``kombu.common.Broadcast`` makes up another name in each process, and RabbitMQ one for a queue without a name; the
    alias is what its declaration calls it.)
    """
    return name_of(str(queue.name), getattr(queue, "alias", None), isinstance(queue, Broadcast))


def name_of(name: str, alias: str | None, is_broadcast: bool) -> str:
    """The same, of a queue that is known by these facts."""
    is_made_up = is_broadcast or not name or name.startswith(SERVER_NAMED)
    return (alias if is_made_up else None) or name


def has_priorities(consumer: Any, name: str) -> bool:
    """Whether a queue is declared with priorities (``task_queue_max_priority`` is written into its arguments)."""
    queue = queue_named(consumer, name)
    return bool(arguments_of(queue).get("x-max-priority") or getattr(queue, "max_priority", None))


def priority_of(message: Any) -> int:
    """A message's priority; 0 where it has none, or the lowest (Redis: highest), which is what it has by itself."""
    return int((getattr(message, "properties", None) or {}).get("priority") or 0)


def identity_of(connection: Any) -> str:
    """A digest of the broker that a connection leads to: the same for every worker that takes messages from there.

    Workers may reach a RabbitMQ cluster, or a Redis behind Sentinels, by different hosts.
    """
    facts, options = connection.info(), connection.transport_options or {}
    properties = getattr(connection.connection, "server_properties", None) or {}
    where = properties.get("cluster_name") or options.get("master_name") or f"{facts['hostname']}:{facts['port']}"
    part = str(facts["virtual_host"] or "").strip("/")
    kind = connection.transport.driver_type  # not the scheme: amqp and pyamqp, redis and rediss are the same
    if kind == "redis":
        part = part or "0"
    told = [kind, where, part, options.get("global_keyprefix", "")]
    return hashlib.sha256("\n".join(map(str, told)).encode()).hexdigest()[:16]


def arguments_of(queue: Queue | None) -> Mapping[str, Any]:
    """What a queue is declared with."""
    return (queue.queue_arguments if queue is not None else None) or {}


def queue_named(consumer: Any, name: str) -> Queue | None:
    """A subscribed queue."""
    return next((queue for queue in consumer.queues if queue.name == name), None)
