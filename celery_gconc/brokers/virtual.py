"""kombu's virtual transports: what they deliver doesn't say from which queue."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery_gconc.brokers.base import Broker

#: Key under which a virtual transport's message says which queue it came from (its routing key need not).
QUEUE_KEY = "gconc_queue"


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
