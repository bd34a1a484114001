"""RabbitMQ, by py-amqp."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from amqp import spec
from amqp.exceptions import ChannelError, ConsumerCancelled
from celery.utils.log import get_logger
from kombu import Queue

from celery_gconc.brokers.base import Broker, Delivery
from celery_gconc.brokers.keeper import Keeper, another_connection
from celery_gconc.brokers.queues import arguments_of, queue_named

logger = get_logger(__name__)

#: How many times fewer than a quorum queue's delivery limit a message is put back, before a copy takes its place.
SPARE_DELIVERIES = 2

#: RabbitMQ's own delivery limit of quorum queues (4.0 and later; before, there was none).
DELIVERY_LIMIT = 20

#: Properties that a copy has from its original; body, headers, content type and priority are given by name.
COPIED_PROPERTIES = (
    "correlation_id", "reply_to", "delivery_mode", "expiration", "message_id", "timestamp", "type", "app_id",
)  # fmt: skip

#: How the consumer tags begin that fetched messages are given, before their queue's name.
FETCHED = "celery-gconc-get-"

#: How long, in seconds, the broker has for each answer while a copy is published: the event loop waits for it.
COPY_SECONDS = 3.0


class AMQPBroker(Broker):
    """RabbitMQ. Nothing here waits for an answer: each call writes one frame, as Celery's own acknowledgements do."""

    #: Unacknowledged messages of a dead worker are back at their positions at once, so many may be held.
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
        capabilities = self.channel.connection.server_properties.get("capabilities") or {}
        self._has_nack = bool(capabilities.get("basic.nack"))
        self._keeper = Keeper(self.channel.connection.client, lambda name: name in consumer._active_tags)
        #: The queues of the messages that were asked for and have not come yet: answers come in this order.
        self._asked: deque[str] = deque()
        self.channel._callbacks[spec.Basic.GetOk] = self._got
        self.channel._callbacks[spec.Basic.GetEmpty] = self._got_none
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
                again = self._last_tags and (class_id, method_id) == spec.Basic.Consume
                if not again and (class_id, method_id) != spec.Basic.Get:
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
        """Put messages back to their own positions in their queues; near a delivery limit, publish copies instead.

        A quorum queue counts how often a message went back, and drops it (or dead-letters it) at its limit. A copy
        counts from none; it stands at the end of the queue. Should the worker die between the copy's confirmation and
        the acknowledgement, both are delivered.
        """
        near = []
        for name, message in deliveries:
            if self._is_near_limit(name, message):
                near.append((name, message))
            else:
                self._requeue(message)
        if near:
            self._republish(near)

    def can_fetch(self, name: str) -> bool:
        """Not where ``worker_eta_task_limit`` is set: it is a prefetch count, which doesn't bound a ``basic.get``."""
        return self.eta_limit is None

    def needs_one(self, name: str) -> bool:
        """A quorum queue does, if a policy expires it: declarations don't count as its use (RabbitMQ 3.10-4.1)."""
        return arguments_of(queue_named(self.consumer, name)).get("x-queue-type") == "quorum"

    may_fetch = True

    def fetch(self, name: str, count: int) -> int | None:
        """Ask for the first messages of a queue, each by a ``basic.get``; they come like others, or soon after.

        (py-amqp 5 waits for each answer in its own method for it, and handles whatever else comes meanwhile.) What
        the broker counts against prefetch counts are deliveries to consumers; a ``basic.get`` is none.
        """
        for _ in range(count):
            self.channel.send_method(spec.Basic.Get, "Bsb", (0, name, self.consumer.no_ack))
            self._asked.append(name)
        return count

    def under_way(self, name: str) -> int:  # noqa: D102 - as above
        return self._asked.count(name)

    def count(self, names: Sequence[str]) -> dict[str, int]:
        """The same, as of the last message of each that came, or of the last look after it."""
        return {name: found for name in names if (found := self._keeper.counts.get(name)) is not None}

    def _got(self, tag: int, redelivered: bool, exchange: str, key: str, left: int, message: Any) -> None:
        """A message that was asked for has come; *left* are in its queue after it."""
        name = self._asked.popleft()
        self._keeper.counts[name] = left
        message = self.channel._on_get_ok(tag, redelivered, exchange, key, left, message)
        # No consumer has such a tag: however often the queue was consumed anew since, it says of which queue this is.
        message.delivery_info["consumer_tag"] = own = f"{FETCHED}{name}"
        self._queues[own] = name
        self.consumer._receive_callback(message)

    def was_fetched(self, message: Any) -> bool:  # noqa: D102 - as above
        return str(message.delivery_info.get("consumer_tag")).startswith(FETCHED)

    def _got_none(self, cluster_id: str) -> None:
        """There was no message where one was asked for."""
        name = self._asked.popleft()
        self._keeper.counts[name] = 0
        self.on_end(name)

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
                        "celery-gconc: replaced a message of %s by a copy, as it was close to its delivery limit",
                        name,
                    )
        except Exception as exc:  # noqa: BLE001 - whatever a connection raises
            logger.warning(
                "celery-gconc: returned %d messages close to their delivery limits, because their copies could "
                "not be published: %s: %s", len(left), type(exc).__name__, exc,
            )  # fmt: skip
            for _, message in left:
                self._requeue(message)

    def _requeue(self, message: Any) -> None:
        """Put a message back by ``basic.nack``, where the broker has it.

        (RabbitMQ 4.3 and later: a quorum queue counts a ``basic.reject``, which is kombu's way, against its delivery
        limit, and a ``basic.nack`` not. py-amqp 5 has no method for it. Other AMQP brokers may not know it.)
        """
        if not self._has_nack or message.acknowledged:
            message.requeue()
            return
        message.channel.send_method(spec.Basic.Nack, "Lbb", (message.delivery_tag, False, True))
        message._state = "REQUEUED"


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
