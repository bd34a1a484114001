"""The intake: from which of the subscribed queues the worker takes messages at this moment.

    Gate (parked, unparked) -> Intake -> basic_cancel / consume on the broker

Messages that must wait stay in the broker, where another worker or an operator sees them, and where they block
nobody: a worker parks a few for each queue, then stops consuming that queue, and goes on when one of them starts.
What the operator subscribed (``task_consumer.queues``, ``inspect active_queues``) is never touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from celery.utils.log import get_logger
from kombu import Queue
from kombu.transport.virtual import Channel as VirtualChannel

from .gate import Run

logger = get_logger(__name__)

#: Most requests of one queue that a worker parks for limits other than the queue's own: those behind them in the
#: queue may not be covered, so some are worth looking past; each costs memory here and waits nowhere else.
PARKED_FOR_OTHERS = 32

#: How many requests of a queue may wait here at least, however small its limit.
FOLLOWING = 4

#: Key under which a virtual transport's message says which queue it came from (its routing key need not).
QUEUE_KEY = "gconc_queue"


class Intake:
    """One worker's intake. All on the consumer's thread."""

    def __init__(self, *, table: Callable[[], Mapping[str, int]], slots: Callable[[], int]) -> None:
        self._table = table
        self._slots = slots
        self._parked: Counter[str] = Counter()
        self._stopped: dict[str, Queue] = {}
        self._wanting: set[str] = set()
        self._staying: dict[str, bool] = {}
        self._consumer: Any = None
        self._qos: Any = None
        self._connection_id: tuple[Any, int] | None = None

    # -- Which queue a message came from -----------------------------------------------------------------

    def attach(self, task_consumer: Any, qos: Any) -> None:
        """A new connection: everything that is subscribed is consumed again, and nothing is parked."""
        self._consumer, self._qos = task_consumer, qos
        self._parked.clear()
        self._stopped.clear()
        self._wanting.clear()
        self._connection_id = None
        channel: Any = task_consumer.channel
        if _is_virtual(channel):
            # kombu 5.4-5.7: a virtual transport's message names exchange and routing key, not its queue, so each
            # queue's callback is wrapped where basic_consume registers it. The instance is ours until it closes.
            original = channel.basic_consume

            def basic_consume(queue: str, *args: Any, **kwargs: Any) -> Any:
                result = original(queue, *args, **kwargs)
                callbacks = channel.connection._callbacks
                callbacks[queue] = self._named(queue, callbacks[queue])
                self._stopped.pop(queue, None)
                return result

            channel.basic_consume = basic_consume

    def queue_of(self, request: Any) -> str | None:
        """The queue that the request's message was consumed from."""
        delivery = getattr(request.message, "delivery_info", None) or {}
        queue = delivery.get(QUEUE_KEY)
        if queue is not None:
            return str(queue)
        tag = delivery.get("consumer_tag")
        if tag is not None and self._consumer is not None:
            for name, known in self._consumer._active_tags.items():
                if known == tag:
                    return str(name)
        return delivery.get("routing_key") or None

    def _named(self, queue: str, callback: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        def deliver(raw_message: dict[str, Any]) -> Any:
            with suppress(KeyError, TypeError):
                raw_message["properties"]["delivery_info"][QUEUE_KEY] = queue
            self._learn_connection()
            return callback(raw_message)

        return deliver

    # -- What is parked, and what is consumed ------------------------------------------------------------

    def parked(self, run: Run) -> None:
        """A request waits here: its prefetch credit goes to others, and its queue may have to stop."""
        if run.queue is not None and self._stays(run.queue):
            return  # its prefetch credit is what bounds it
        self._qos.increment_eventually()
        if run.queue is not None:
            self._parked[run.queue] += 1
            if self._parked[run.queue] >= self._bounds(run)[1]:
                self._stop(run.queue)

    def unparked(self, run: Run) -> None:
        """A request waits no more."""
        if run.queue is not None and self._stays(run.queue):
            return
        self._qos.decrement_eventually()
        if run.queue is not None:
            self._parked[run.queue] -= 1
            if run.queue in self._stopped and self._parked[run.queue] <= self._bounds(run)[0]:
                self._wanting.add(run.queue)

    @property
    def wants_more(self) -> bool:
        """Whether a stopped queue is to be consumed again: call :meth:`resume` when nothing is more urgent."""
        return bool(self._wanting)

    def resume(self) -> None:
        """Consume stopped queues again of which few requests are left here."""
        while self._wanting:
            name = self._wanting.pop()
            if name in self._stopped:
                self._resume(name)

    @property
    def stopped(self) -> list[str]:
        """The queues that are subscribed but not consumed just now."""
        return sorted(self._stopped)

    def _bounds(self, run: Run) -> tuple[int, int]:
        """With how few requests of a queue waiting here it is consumed again, and with how many it is stopped.

        For the queue's own limit, no fewer than could start at once; and so many that neighbours in the queue, which
        are fetched in one go, can follow each other here, where a permit passes on without a round trip: at three
        times that number, and :data:`FOLLOWING` more, most do.
        """
        own = f"queue:{run.queue}"
        if own in run.limits:
            at_once = min(self._table().get(own, 0), self._slots())
            return at_once, 3 * at_once + FOLLOWING
        most = max(PARKED_FOR_OTHERS, self._slots())
        return most // 2, most

    def _stays(self, name: str) -> bool:
        """Whether a queue is never stopped: it would suffer from a cancel."""
        found = self._staying.get(name)
        if found is None:
            queue = next((queue for queue in self._consumer.queues if queue.name == name), None)
            found = self._staying[name] = queue is not None and _must_stay_consumed(queue)
        return found

    def _stop(self, name: str) -> None:
        queue = next((queue for queue in self._consumer.queues if queue.name == name), None)
        tag = self._consumer._active_tags.get(name)
        if name in self._stopped or queue is None or tag is None:
            return
        self._stopped[name] = queue
        channel: Any = self._consumer.channel
        if _is_virtual(channel):
            # A read under way (Redis: BRPOP) may still bring one message: it finds its callback, and is parked.
            callback = channel.connection._callbacks.get(name)
            channel.basic_cancel(tag)
            if callback is not None:
                channel.connection._callbacks[name] = callback
        else:
            channel.basic_cancel(tag)
        logger.debug("celery-gconc: stopped consuming from %s: its limit is full", name)

    def _resume(self, name: str) -> None:
        queue = self._stopped.pop(name)
        tag = self._consumer._active_tags.get(name)
        if tag is None:
            return  # the operator has cancelled it since
        queue.consume(tag, self._consumer._receive_callback, no_ack=self._consumer.no_ack)
        self._interrupt_read()
        logger.debug("celery-gconc: consuming from %s again", name)

    # -- Redis as the broker: one read (BRPOP) for all queues --------------------------------------------

    def _learn_connection(self) -> None:
        """Learn the id of the connection on which the broker is read. Called while its reply is being handled."""
        connection = getattr(self._consumer.channel, "_in_poll", None)
        if not connection or (self._connection_id is not None and self._connection_id[0] is connection):
            return
        self._connection_id = (connection, 0)
        with suppress(Exception):  # without it, a queue may go on being consumed up to a second later
            connection.send_command("CLIENT", "ID")
            self._connection_id = (connection, int(connection.read_response()))

    def _interrupt_read(self) -> None:
        """A read under way does not cover a queue that was just resumed, and may last a second: end it."""
        channel = self._consumer.channel
        connection = getattr(channel, "_in_poll", None)
        if not connection or self._connection_id is None or self._connection_id[0] is not connection:
            return
        if self._connection_id[1]:
            with suppress(Exception), channel.conn_or_acquire() as client:
                client.client_unblock(self._connection_id[1])


def _is_virtual(channel: Any) -> bool:
    return isinstance(channel, VirtualChannel)


def _must_stay_consumed(queue: Queue) -> bool:
    """Queues that would suffer from a cancel: the broker may delete them, or hand them to another consumer."""
    arguments = queue.queue_arguments or {}
    return bool(
        queue.auto_delete or queue.exclusive or "x-expires" in arguments or arguments.get("x-single-active-consumer")
    )
