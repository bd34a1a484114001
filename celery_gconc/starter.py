"""Brings news from any thread to the one that may start requests, for each kind of worker; and ticks there.

link, pool callbacks -> Starter.wake -> Gate.pump, on the consumer's thread
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from celery.utils.log import get_logger

logger = get_logger(__name__)

#: How often, in seconds, parked requests and stopped queues are looked after.
TICK_SECONDS = 0.25


class Starter(Protocol):
    """Calls *pump* when there is news, and *tick* every now and then, on the thread that may start requests."""

    def start(self) -> None:
        """The worker is ready to be called."""

    def wake(self) -> None:
        """There is news. Any thread."""

    def close(self) -> None:
        """The worker stops."""


class HubStarter:
    """With an event loop: a socket that the loop reads. Any thread may wake it."""

    def __init__(self, pump: Callable[[], None], tick: Callable[[], None]) -> None:
        self._pump, self._tick = pump, tick
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._awake = threading.Lock()

    def start(self) -> None:
        """The loop comes with :meth:`register`."""

    def register(self, hub: Any) -> None:
        """Add the socket and the tick to the loop; again after each reconnect, which resets the loop."""
        hub.add_reader(self._reader, self._on_readable)
        hub.call_repeatedly(TICK_SECONDS, self._tick)

    def wake(self) -> None:
        """There is news: have the loop read it."""
        if self._awake.acquire(blocking=False):
            with suppress(OSError):
                self._writer.send(b"\0")

    def _on_readable(self) -> None:
        with suppress(BlockingIOError):
            self._reader.recv(64)
        with suppress(RuntimeError):
            self._awake.release()
        self._pump()

    def close(self) -> None:
        """Close the sockets."""
        self._reader.close()
        self._writer.close()


class GreenStarter:
    """With a green pool (gevent, eventlet): a greenlet of its own, as their ``threading`` makes it.

    ``consumer.call_soon`` would be too late: it runs only when ``drain_events`` returns, up to two seconds later.
    """

    def __init__(self, pump: Callable[[], None], tick: Callable[[], None]) -> None:
        self._pump, self._tick = pump, tick
        self._news = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="celery-gconc-starter", daemon=True)

    def start(self) -> None:
        """Start the greenlet."""
        self._thread.start()

    def wake(self) -> None:
        """There is news."""
        self._news.set()

    def _loop(self) -> None:
        next_tick = 0.0
        while not self._closed:
            is_news = self._news.wait(max(next_tick - time.monotonic(), 0))
            self._news.clear()
            try:
                if is_news and not self._closed:
                    self._pump()
                if time.monotonic() >= next_tick and not self._closed:
                    next_tick = time.monotonic() + TICK_SECONDS
                    self._tick()
            except Exception:
                logger.exception("celery-gconc: starting a task failed")

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._news.set()


class ConsumerStarter:
    """Any other pool without an event loop (some brokers, Windows): the consumer's own thread, when it comes round.

    Only that thread may use the broker's connection and, in solo, run tasks. It comes round when a message does, or
    after the time-out of a read: Celery's own is two seconds, and a tick's while something waits.
    """

    def __init__(
        self, pump: Callable[[], None], tick: Callable[[], None], consumer: Any, something_waits: Callable[[], bool]
    ) -> None:
        self._pump, self._tick, self._consumer = pump, tick, consumer
        self._something_waits = something_waits
        #: What was handed over and not called yet: once is enough.
        self._pending: set[Callable[[], None]] = set()
        self._ticks: Any = None

    def start(self) -> None:
        """Begin to tick."""
        self._ticks = self._consumer.timer.call_repeatedly(TICK_SECONDS, lambda: self._hand_over(self._tick))

    def attach(self, connection: Any) -> None:
        """The broker is connected (again)."""
        drain_events = connection.drain_events

        def come_round(timeout: float | None = None, **options: Any) -> Any:
            if timeout is not None and self._something_waits():
                timeout = min(timeout, TICK_SECONDS)
            return drain_events(timeout=timeout, **options)

        connection.drain_events = come_round  # celery 5.4-5.7: synloop looks it up at each turn

    def wake(self) -> None:
        """There is news."""
        self._hand_over(self._pump)

    def _hand_over(self, call: Callable[[], None]) -> None:
        if call not in self._pending:
            self._pending.add(call)
            self._consumer.call_soon(self._do, call)

    def _do(self, call: Callable[[], None]) -> None:
        self._pending.discard(call)
        call()

    def close(self) -> None:
        """End the ticks."""
        if self._ticks is not None:
            self._ticks.cancel()
