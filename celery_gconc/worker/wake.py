"""A bell: any thread rings it, and the one thread that waits for it hears.

Thread: any rings, one hears.

It stands between threads that have something to say and one that sleeps in a selector. It carries nothing: whoever
rings has written down what is new before, and whoever hears looks for it afterwards.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Protocol


class Wakeable(Protocol):
    """A part that has a thread, or a turn of one, of its own: others only tell it that there is news."""

    def wake(self) -> None:
        """There is news. Any thread; never waits."""


class Ringable(Protocol):
    """A bell, or what rings one."""

    def ring(self) -> None:
        """Wake whoever waits for it. Any thread; never waits."""


class Bell:
    """Made before everything that rings or hears it. Any number of rings before it is heard are one."""

    def __init__(self) -> None:
        #: A byte is on its way, so that further rings cost no system call. Written without a lock: two threads that
        #: ring at once may send two bytes, and a byte that is read late wakes the hearer once for nothing.
        self._is_rung = False
        self._heard, self._ringing = socket.socketpair()
        for end in (self._heard, self._ringing):
            end.setblocking(False)

    def ring(self) -> None:
        """Wake the thread that waits. Any thread; never waits; does nothing once the bell is closed."""
        if not self._is_rung:
            self._is_rung = True
            with suppress(OSError):
                self._ringing.send(b"\0")

    def fileno(self) -> int:
        """What a selector waits on: it can be read when the bell was rung."""
        return self._heard.fileno()

    def hear(self) -> bool:
        """Return whether the bell was rung since the last call. Only for the thread that waits.

        What is written before a ring is seen by whoever looks after this returns, also where the ring comes while it
        runs.
        """
        rung = False
        with suppress(OSError):
            rung = bool(self._heard.recv(64))
        self._is_rung = False  # after the read: a ring that came in between is one with the byte that was read
        return rung

    def close(self) -> None:
        """Nobody hears it any more."""
        self._heard.close()
        self._ringing.close()

    def forget_in_child(self) -> None:
        """In a forked child: close this side, so that only the parent can ring and hear it."""
        for end in (self._heard, self._ringing):
            with suppress(OSError):
                os.close(end.detach())
