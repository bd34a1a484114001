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

from .clock import now
from .starter import TICK_SECONDS

logger = get_logger(__name__)

#: For how long, in seconds, an event loop may stand still before others take its permits.
LATE_SECONDS = 1.0

#: After how many seconds of standing still it is told.
TOLD_SECONDS = 3.0


class Lookout:
    """One worker's. :meth:`came_round` is for the consumer's thread; all that is given here is called on another."""

    def __init__(
        self,
        knock: Callable[[], None],
        on_late: Callable[[], None],
        on_back: Callable[[], None],
        free_slots: Callable[[], int],
    ) -> None:
        self._knock, self._on_late, self._on_back = knock, on_late, on_back
        #: How many slots stand empty meanwhile.
        self._free_slots = free_slots
        #: Whether there is an event loop: without one (solo), the consumer's thread may run tasks itself.
        self._has_loop = False
        #: Whether the event loop stands still.
        self.is_late = False
        #: When it was last seen to run, by :func:`now`.
        self._seen = now()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="celery-gconc-lookout", daemon=True)

    def start(self, *, has_loop: bool) -> None:
        """Begin to knock; where there is an event loop, look out for its answers too."""
        self._has_loop = has_loop
        self._thread.start()

    def came_round(self) -> bool:
        """The event loop runs. Return whether it had been taken to stand still."""
        was_late, self.is_late = self.is_late, False
        self._seen = now()
        return was_late

    @property
    def late_for(self) -> float:
        """For how many seconds the event loop has stood still; 0.0 where it runs."""
        return now() - self._seen if self.is_late else 0.0

    def close(self) -> None:
        """The worker stops."""
        self._closed.set()

    def _watch(self) -> None:
        was_late = is_told = False
        since = 0.0
        while not self._closed.wait(TICK_SECONDS):
            try:
                self._knock()
                if not self._has_loop:
                    continue
                seen = self._seen
                self.is_late = now() - seen > LATE_SECONDS
                if self.is_late:
                    since = seen
                    self._on_late()
                    if not is_told and now() - since >= TOLD_SECONDS and self._free_slots() > 0:
                        is_told = True
                        self._warn(now() - since)
                elif was_late:
                    self._on_back()
                    if is_told:
                        is_told = False
                        logger.warning(
                            "celery-gconc: the event loop goes on after %.0f s: tasks under limits start here again",
                            self._seen - since,
                        )
            except Exception:
                logger.exception("celery-gconc: looking after the event loop failed")
            was_late = self.is_late

    def _warn(self, seconds: float) -> None:
        logger.warning(
            "celery-gconc: the event loop has stood still for %.0f s: this worker has no room for tasks under limits, "
            "though %d of its slots are free; other workers run them (a slow signal handler, or a broker that does "
            "not answer, can hold it up)",
            seconds,
            self._free_slots(),
        )
