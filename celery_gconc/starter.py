"""Brings news from any thread to the one that may start requests, for each kind of worker.

link, pool callbacks -> Starter.wake -> Gate.pump, on the consumer's thread
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from celery.utils.log import get_logger

logger = get_logger(__name__)


class Starter(Protocol):
    """Brings news to the thread that may start requests."""

    def wake(self) -> None:
        """There is news. Any thread."""

    def close(self) -> None:
        """The worker stops."""


class HubStarter:
    """With an event loop: a socket that the loop reads. Any thread may wake it."""

    def __init__(self, pump: Callable[[], None]) -> None:
        self._pump = pump
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._awake = threading.Lock()

    def register(self, hub: Any) -> None:
        """Add the socket to the loop; again after each reconnect, which resets the loop."""
        hub.add_reader(self._reader, self._on_readable)

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


class ThreadStarter:
    """Without an event loop (gevent, eventlet, some brokers): a thread or greenlet of its own.

    ``consumer.call_soon`` would be too late: it runs only when ``drain_events`` returns, up to two seconds later.
    """

    def __init__(self, pump: Callable[[], None]) -> None:
        self._pump = pump
        self._news = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="celery-gconc-starter", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is news."""
        self._news.set()

    def _loop(self) -> None:
        while not self._closed:
            self._news.wait()
            self._news.clear()
            if not self._closed:
                try:
                    self._pump()
                except Exception:
                    logger.exception("celery-gconc: starting a task failed")

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._news.set()


class SoloStarter:
    """Solo without an event loop: only the consumer's own thread may run tasks."""

    def __init__(self, pump: Callable[[], None], consumer: Any) -> None:
        self._pump = pump
        self._consumer = consumer

    def wake(self) -> None:
        """There is news."""
        self._consumer.call_soon(self._pump)

    def close(self) -> None:
        """Nothing is its own."""
