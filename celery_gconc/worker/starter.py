"""Brings news from any thread to the one that may start requests, for each kind of worker.

link, pool callbacks -> Starter.wake -> Gate.pump;  Lookout -> Starter.knock -> tick;  both on the consumer's thread

None of it is a timer of Celery's: its loop runs ten of those that are due a turn, the oldest first (kombu 5.4-5.7), so
behind thousands of tasks with one ETA a timer of ours would be late by minutes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from celery.utils.log import get_logger

from celery_gconc.worker.wake import Bell

logger = get_logger(__name__)

#: How often, in seconds, parked requests and stopped queues are looked after.
TICK_SECONDS = 0.25


class Starter(Protocol):
    """Calls *pump* when there is news, and *tick* when it is knocked at, on the thread that may start requests."""

    def start(self) -> None:
        """The worker is ready to be called."""

    def wake(self) -> None:
        """There is news. Any thread."""

    def knock(self) -> None:
        """It is time to tick. Any thread."""

    def later(self, call: Callable[[], None]) -> None:
        """Call this when what was just started has gone to the pool. On the thread that may start requests."""

    def keep_turning(self) -> None:
        """A request was kept waiting, so nothing else may come round soon. On the thread that may start requests."""

    def close(self) -> None:
        """The worker stops."""


class HubStarter:
    """With an event loop: a bell that the loop hears, in each of its turns. Any thread may ring it."""

    def __init__(self, pump: Callable[[], None], tick: Callable[[], None]) -> None:
        self._pump, self._tick = pump, tick
        self._bell = Bell()
        self._is_news = self._is_tick_due = False
        #: What is to be called in this turn, and in the next. (In the turn after something was started, the loop hears
        #: that a child takes it, and gives it to the child after all else: kombu 5.4-5.7, "consolidate".)
        self._now: list[Callable[[], None]] = []
        self._next: list[Callable[[], None]] = []
        self._timer: Any = None

    def start(self) -> None:
        """The loop comes with :meth:`register`."""

    def register(self, hub: Any) -> None:
        """Add the bell to the loop; again after each reconnect, which resets the loop."""
        hub.add_reader(self._bell, self._on_rung)
        self._timer = hub.timer

    def wake(self) -> None:
        """There is news: have the loop read it."""
        self._is_news = True
        self._bell.ring()

    def knock(self) -> None:
        """Have the loop tick."""
        self._is_tick_due = True
        self._bell.ring()

    def later(self, call: Callable[[], None]) -> None:
        """Call this in the turn after the next, once."""
        if call not in self._next and call not in self._now:
            self._next.append(call)
            self._bell.ring()

    def keep_turning(self) -> None:
        """Timers that are due go on at once: the loop would sleep for up to a second after each ten (kombu 5.4-5.7)."""
        due = self._timer._queue if self._timer is not None else None
        if due and due[0][0] <= monotonic():
            self._bell.ring()

    def _on_rung(self) -> None:
        self._bell.hear()
        calls, self._now, self._next = self._now, self._next, []
        if self._now:
            self._bell.ring()
        for call in calls:
            call()
        if self._is_tick_due:
            self._is_tick_due = False
            self._tick()
        if self._is_news:
            self._is_news = False
            self._pump()

    def close(self) -> None:
        """Close the bell."""
        self._bell.close()


class GreenStarter:
    """With a green pool (gevent, eventlet): a greenlet of its own, as their ``threading`` makes it.

    ``consumer.call_soon`` would be too late: it runs only when ``drain_events`` returns, up to two seconds later.
    """

    def __init__(self, pump: Callable[[], None], tick: Callable[[], None]) -> None:
        self._pump, self._tick = pump, tick
        self._news = threading.Event()
        self._is_tick_due = False
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="celery-gconc-starter", daemon=True)

    def start(self) -> None:
        """Start the greenlet."""
        self._thread.start()

    def wake(self) -> None:
        """There is news."""
        self._news.set()

    def knock(self) -> None:
        """Have the greenlet tick."""
        self._is_tick_due = True
        self._news.set()

    def later(self, call: Callable[[], None]) -> None:
        """At once: what was started is in the pool."""
        call()

    def keep_turning(self) -> None:
        """Nothing: its timers are a thread of their own, that sleeps only until the next is due."""

    def _loop(self) -> None:
        while not self._closed:
            self._news.wait()
            self._news.clear()
            if self._closed:
                return
            try:
                self._pump()
                if self._is_tick_due:
                    self._is_tick_due = False
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

    def start(self) -> None:
        """The consumer's thread is there already."""

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

    def knock(self) -> None:
        """Have the consumer's thread tick."""
        self._hand_over(self._tick)

    def later(self, call: Callable[[], None]) -> None:
        """At once: what was started is in the pool."""
        call()

    def keep_turning(self) -> None:
        """Nothing: its timers are a thread of their own, that sleeps only until the next is due."""

    def _hand_over(self, call: Callable[[], None]) -> None:
        if call not in self._pending:
            self._pending.add(call)
            self._consumer.call_soon(self._do, call)

    def _do(self, call: Callable[[], None]) -> None:
        self._pending.discard(call)
        call()

    def close(self) -> None:
        """Nothing of its own runs."""
