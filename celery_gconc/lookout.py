"""Notices that a worker's event loop stands still, from a thread of its own.

A slow signal handler, or a broker that is silent over a half-open connection, can hold it up for minutes. Meanwhile
it reads no results and starts nothing; so its worker must have no room, or every free permit that one of its requests
is the first to wait for would be granted to it, given back, and granted to it again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from celery.utils.log import get_logger

from .clock import now

logger = get_logger(__name__)

#: For how long, in seconds, an event loop may stand still before others take its places.
LATE_SECONDS = 1.0


class Lookout:
    """One worker's. :meth:`came_round` is for the consumer's thread; *on_late* and *on_back* are called on another."""

    def __init__(self, on_late: Callable[[], None], on_back: Callable[[], None]) -> None:
        self._on_late, self._on_back = on_late, on_back
        #: Whether the event loop stands still.
        self.is_late = False
        #: When it was last seen to run, by :func:`now`.
        self._seen = now()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="celery-gconc-lookout", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def came_round(self) -> bool:
        """The event loop runs. Return whether it had been taken to stand still."""
        was_late, self.is_late = self.is_late, False
        self._seen = now()
        return was_late

    def close(self) -> None:
        """The worker stops."""
        self._closed.set()

    def _watch(self) -> None:
        was_late = False
        while not self._closed.wait(LATE_SECONDS / 4):
            self.is_late = now() - self._seen > LATE_SECONDS
            try:
                if self.is_late:
                    self._on_late()
                elif was_late:
                    self._on_back()
            except Exception:
                logger.exception("celery-gconc: looking after the event loop failed")
            was_late = self.is_late
