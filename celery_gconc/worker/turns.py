"""What the thread that starts requests is asked to do in one of its next turns.

    link, pool callbacks (wake), stall watch (knock), gate (resume_later) -> Turns -> Starter

Thread: any asks; the starter's hears and takes.

Made before all that ask. Which bell is rung depends on the kind of worker, and so does who hears it (starter.py).
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any

from celery_gconc.worker.pool import Pool
from celery_gconc.worker.wake import Bell


class Turns:
    """One worker's. Its flags are set by any thread and cleared by the starter's, before it does what they ask for."""

    def __init__(self, consumer: Any) -> None:
        #: The event loop, where there is one: for its life the consumer keeps the same.
        self._hub: Any = consumer.hub
        self.bell = bell_for(consumer)
        #: Something may be startable; it is time to tick; there may be something to say to Redis.
        self._is_news = self._is_tick_due = self._is_speech_due = False
        #: Whether the event loop speaks to Redis. Written by its thread.
        self.speaks = False
        #: Queues are to be consumed again: in this turn, or in the one after it.
        self._resumes_now = self._resumes_next = False

    # -- Any thread --------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There is news: something may be startable."""
        self._is_news = True
        self.bell.ring()

    def knock(self) -> None:
        """It is time to tick."""
        self._is_tick_due = True
        self.bell.ring()

    def speak(self) -> None:
        """There may be something to say to Redis."""
        self._is_speech_due = True
        self.bell.ring()

    # -- The thread that starts requests -----------------------------------------------------------------

    def resume_later(self) -> bool:
        """Have queues consumed again when what was just started has gone to the pool. False where it has by now.

        In the turn after something was started, the loop hears that a child takes it, and gives it to the child after
        all else (kombu 5.4-5.7, "consolidate"): so in the turn after that.
        """
        if self._hub is None:
            return False
        if not self._resumes_next and not self._resumes_now:
            self._resumes_next = True
            self.bell.ring()
        return True

    def keep_turning(self) -> None:
        """A request was kept waiting, so nothing else may come round soon: timers that are due go on at once.

        The loop would sleep for up to a second after each ten (kombu 5.4-5.7). Without a loop, timers are a thread of
        their own, which sleeps only until the next is due.
        """
        if self._hub is not None and (due := self._hub.timer._queue) and due[0][0] <= monotonic():
            self.bell.ring()

    def take_resume(self) -> bool:
        """Whether queues are to be consumed again in this turn."""
        resumes, self._resumes_now, self._resumes_next = self._resumes_now, self._resumes_next, False
        if self._resumes_now:
            self.bell.ring()
        return resumes

    def take_tick(self) -> bool:
        """Whether it is time to tick."""
        is_due, self._is_tick_due = self._is_tick_due, False
        return is_due

    def take_speech(self) -> bool:
        """Whether there may be something to say to Redis."""
        is_due, self._is_speech_due = self._is_speech_due, False
        return is_due

    def take_news(self) -> bool:
        """Whether there is news."""
        is_news, self._is_news = self._is_news, False
        return is_news


class Caller:
    """Rung where there is something to say to Redis: calls the one that speaks, the event loop or the link's thread.

    The loop does where there is one, but while it stands still, and while Celery looks for its broker. Where tasks run
    on its thread (solo), it would often be late.
    """

    def __init__(self, turns: Turns, pool: Pool, bell: Bell) -> None:
        self._turns, self._pool, self._bell = turns, pool, bell

    @property
    def calls_loop(self) -> bool:
        """Whether the loop speaks now."""
        return self._turns.speaks and not self._pool.is_stalled

    def ring(self) -> None:
        """There is something to say, or something will be due later. Any thread; never waits."""
        if self.calls_loop:
            self._turns.speak()
        else:
            self._bell.ring()


class GreenBell:
    """Heard by a greenlet, as gevent's or eventlet's ``threading`` has it."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self.is_closed = False

    def ring(self) -> None:
        """Wake the greenlet."""
        self._rung.set()

    def wait(self) -> None:
        """Wait for a ring."""
        self._rung.wait()
        self._rung.clear()

    def close(self) -> None:
        """Wake the greenlet for the last time."""
        self.is_closed = True
        self._rung.set()


class SilentBell:
    """Nobody can be woken: the consumer's thread comes round on its own, and looks."""

    def ring(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def bell_for(consumer: Any) -> Bell | GreenBell | SilentBell:
    """What wakes the thread that may start requests of a worker."""
    if consumer.hub is not None:
        return Bell()
    return GreenBell() if consumer.pool.is_green else SilentBell()
