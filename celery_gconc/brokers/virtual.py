"""kombu's virtual transports: what they deliver doesn't say from which queue."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from typing import Any

from kombu import Queue

from celery_gconc.brokers.base import Broker

#: Key under which a virtual transport's message says which queue it came from (its routing key need not).
QUEUE_KEY = "gconc_queue"

#: And there that it was fetched, one of a queue that is read one by one.
FETCHED_KEY = "gconc_fetched"


class VirtualBroker(Broker):
    """kombu's virtual transports, which deliver by queue but don't say by which.

    A queue that is cancelled here stays consumed, and is left out when the queues take turns. A cancel and a consume
    would have kombu (5.4-5.7) forget in which order queues are read, and whose turn it is: one that is consumed again
    goes behind all others, and the turns begin anew, so where that happens often, some queues would never be read.
    """

    def __init__(self, consumer: Any) -> None:
        super().__init__(consumer)
        #: The queues that are subscribed and not read.
        self._skipped: set[str] = set()
        self._skip_in_turns()
        # kombu 5.4-5.7: a virtual transport's message names exchange and routing key, not its queue, so each queue's
        # callback is wrapped where basic_consume registers it. The channel is this connection's own.
        original = self.channel.basic_consume

        def basic_consume(queue: str, *args: Any, **kwargs: Any) -> Any:
            result = original(queue, *args, **kwargs)
            callbacks = self._callbacks
            callbacks[queue] = self._named(queue, callbacks[queue])
            self._skipped.discard(queue)
            return result

        self.channel.basic_consume = basic_consume

    def queue_of(self, message: Any) -> str | None:
        """The queue that a message was consumed from, as its callback has noted it."""
        delivery = getattr(message, "delivery_info", None) or {}
        return delivery.get(QUEUE_KEY) or super().queue_of(message)

    def cancel(self, name: str, tag: str) -> None:
        """Read no more from a queue. What is under way is received."""
        self._skipped.add(name)

    def consume(self, queue: Queue, tag: str) -> None:
        """Read from a cancelled queue again."""
        self._skipped.discard(queue.name)

    def _skip_in_turns(self) -> None:
        """Have kombu leave the skipped queues out where it reads."""
        reset = self.channel._reset_cycle

        def reset_cycle() -> None:
            reset()
            cycle = self.channel._cycle
            read = cycle.fun

            def read_unless_skipped(queue: str, *args: Any, **kwargs: Any) -> Any:
                if queue in self._skipped:
                    raise Empty
                return read(queue, *args, **kwargs)

            cycle.fun = read_unless_skipped

        self.channel._reset_cycle = reset_cycle

    def forget(self) -> None:
        """Let go of the callbacks that were kept: kombu up to 5.5 keeps its transports, by timers of a reused loop."""
        self._callbacks.clear()

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
