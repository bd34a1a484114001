"""Notices that a worker's event loop stands still, from a thread of its own: it knocks, and the loop answers.

    Lookout -> Starter.knock -> tick -> Lookout.came_round

A slow signal handler, or a broker that is silent over a half-open connection, can hold it up for minutes. Meanwhile
it reads no results and starts nothing; so its worker must have no room, or every free permit that one of its requests
is the first to wait for would be granted to it, given back, and granted to it again.

It is asked, not heard of by chance: each turn of the loop answers, however many timers or messages it is busy with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from celery.utils.log import get_logger

from celery_gconc.clock import now
from celery_gconc.protocol.messages import Stall
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.session.counts import Counters
from celery_gconc.worker.starter import TICK_SECONDS

logger = get_logger(__name__)

#: For how long, in seconds, an event loop may stand still before others take its permits.
LATE_SECONDS = 1.0

#: After how many seconds in which nothing is started though slots are free it is told.
TOLD_SECONDS = 3.0

#: Why that may be.
STANDS_STILL = "its event loop stands still (a slow signal handler, or a broker that does not answer, can hold it up)"
PROMISED = "its free slots are promised to tasks that do not start"


class Lookout:
    """One worker's. :meth:`came_round` is for the consumer's thread; all that is given here is called on another."""

    def __init__(
        self,
        pool: Pool,
        knock: Callable[[], None],
        on_late: Callable[[], None],
        on_back: Callable[[], None],
        *,
        free_slots: Callable[[], int],
        unused_slots: Callable[[], int],
        counters: Counters,
    ) -> None:
        self._pool = pool
        self._knock, self._on_late, self._on_back = knock, on_late, on_back
        #: How many slots are free, and how many of them nothing is to have though something waits.
        self._free_slots, self._unused_slots = free_slots, unused_slots
        self._counters = counters
        #: Whether there is an event loop: without one (solo), the consumer's thread may run tasks itself.
        self._has_loop = False
        #: When it was last seen to run, by :func:`now`.
        self._seen = now()
        #: Why nothing is started though slots are free, how many, and since when; and whether that was told.
        self._stall: tuple[str, int, float] | None = None
        self._is_told = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="celery-gconc-lookout", daemon=True)

    def start(self, *, has_loop: bool) -> None:
        """Begin to knock; where there is an event loop, look out for its answers too."""
        self._has_loop = has_loop
        self._seen = now()
        self._thread.start()

    def came_round(self) -> bool:
        """The event loop runs. Return whether it had been taken to stand still."""
        was_late, self._pool.is_stalled = self._pool.is_stalled, False
        self._seen = now()
        return was_late

    def stall(self) -> Stall | None:
        """Whether nothing has been started for some time though slots are free. Any thread."""
        stall = self._stall
        if stall is None or now() - stall[2] < TOLD_SECONDS:
            return None
        why, slots, since = stall
        return Stall(why, slots, now() - since)

    def close(self) -> None:
        """The worker stops."""
        self._closed.set()

    def _watch(self) -> None:
        was_late = False
        while not self._closed.wait(TICK_SECONDS):
            seen = self._seen
            is_late = self._pool.is_stalled = self._has_loop and now() - seen > LATE_SECONDS
            try:
                self._knock()
                if is_late:
                    self._on_late()
                elif was_late:
                    self._on_back()
                self._look_for_stall(seen)
                self._counters.stall = self.stall()
            except Exception:
                logger.exception("celery-gconc: looking after the event loop failed")
            was_late = is_late

    def _look_for_stall(self, seen: float) -> None:
        before = self._stall
        if self._pool.is_stalled:
            why, slots, since = STANDS_STILL, self._free_slots(), seen
        else:
            why, slots, since = PROMISED, self._unused_slots(), now()
        if slots > 0:
            self._stall = (why, slots, before[2] if before is not None and before[0] == why else since)
        else:
            self._stall = None
        if before is not None and self._is_told and (self._stall is None or self._stall[0] != before[0]):
            self._is_told = False
            logger.warning(
                "celery-gconc: tasks under limits start here again: none has for %.0f s, because %s",
                now() - before[2],
                before[0].partition(" (")[0],
            )
        if not self._is_told and (stall := self.stall()) is not None:
            self._is_told = True
            logger.warning(
                "celery-gconc: this worker has had no room for tasks under limits for %.0f s, though %d of its slots "
                "are free, because %s; other workers may run them",
                stall.seconds,
                stall.slots,
                stall.why,
            )
