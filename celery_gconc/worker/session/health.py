"""Whether this worker reaches its coordination Redis, and what became of its sessions: for anybody to read.

Thread: the link's writes, any reads.

Made before all that write or read it: so the link says here what others have to act upon, and wakes them.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LostLease:
    """A session that Redis ended while its worker lived."""

    session: str
    #: The requests that ran with a permit of it. (Permits of the next session go to others only.)
    holders: tuple[Any, ...]
    #: How many requests ran, with a permit or without.
    running: int


class LostLeases:
    """Lost leases on their way to one thread that acts on them. The link's thread adds, that thread takes."""

    def __init__(self) -> None:
        self._lost: deque[LostLease] = deque()
        self._is_news = threading.Event()

    def add(self, lost: LostLease) -> None:
        """A lease was lost."""
        self._lost.append(lost)
        self.wake()

    def wake(self) -> None:
        """Have the thread that waits go on, whether there is one or not."""
        self._is_news.set()

    def wait(self, seconds: float) -> None:
        """Wait until a lease is lost, for at most *seconds*."""
        self._is_news.wait(seconds)
        self._is_news.clear()

    def take(self) -> LostLease | None:
        """The next, if there is one. Each is given once."""
        return self._lost.popleft() if self._lost else None


class Health:
    """One worker's. Each field is written whole by the link's thread, and read without a lock."""

    def __init__(self, url: str) -> None:
        #: The coordination Redis, without secrets.
        self.url = url
        #: Whether the last word with Redis went well.
        self.connected = False
        #: Whether, while it isn't connected, it can't be until somebody changes something.
        self.is_unusable = False
        #: Set once the first session is open, Redis was found to be away, or the worker must not run.
        self.tried = threading.Event()
        #: Why this worker must not run; None where it may. Whoever may stop it does: on the consumer's thread.
        self.refusal: str | None = None
        #: How often a session of this worker ended while it lived.
        self.lease_losses = 0
        self._why = "the coordination Redis has not answered yet"
        #: Added to before the link starts, by those who want to know.
        self._listeners: list[LostLeases] = []

    @property
    def trouble(self) -> str | None:
        """Why there is no connection to Redis, and what to do; None where there is one."""
        return None if self.connected else f"{self._why} ({self.url})"

    @property
    def is_away(self) -> bool:
        """Whether Redis was tried, and isn't there."""
        return not self.connected and self.tried.is_set()

    def listen(self, lost: LostLeases) -> None:
        """Pass on to *lost* all leases that are lost from now on."""
        self._listeners.append(lost)

    # -- The link's thread -------------------------------------------------------------------------------

    def reached(self) -> None:
        """Redis answers."""
        self.connected, self.is_unusable = True, False
        self.tried.set()

    def lost(self, why: str, *, is_unusable: bool) -> None:
        """Redis doesn't answer, or not as it should."""
        self._why = why
        self.connected, self.is_unusable = False, is_unusable
        self.tried.set()

    def refused(self, why: str) -> None:
        """Say why this worker must not run."""
        self.refusal = why
        self.tried.set()

    def lease_lost(self, lost: LostLease) -> None:
        """Redis has ended the session though the worker lived. Said before the next session is granted anything."""
        self.lease_losses += 1
        for listener in self._listeners:
            listener.add(lost)
