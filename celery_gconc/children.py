"""Tells at once when a pool child is gone, without reaping it (billiard does that) and without asking the pool.

A file descriptor of the process (pidfd, Linux 5.3 and later) becomes readable when it exits. Where the system has
none, or forbids it, the parent looks every :data:`POLL_SECONDS`.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable
from contextlib import suppress

#: How often, in seconds, children are looked at where there are no pidfds. (A child's death must show within 1 s.)
POLL_SECONDS = 0.25


class Children:
    """The watched children of one link. Only the link's thread calls it, but for :meth:`forget_in_child`."""

    def __init__(self, selector: selectors.BaseSelector, on_exit: Callable[[int], None]) -> None:
        self._selector = selector
        self._on_exit = on_exit
        self._fds: dict[int, int] = {}
        self._polled: set[int] = set()

    def __contains__(self, pid: int) -> bool:
        return pid in self._fds or pid in self._polled

    @property
    def poll_seconds(self) -> float | None:
        """How soon :meth:`poll` wants to be called again, if at all."""
        return POLL_SECONDS if self._polled else None

    def watch(self, pid: int) -> None:
        """Begin to watch a child; tells of it now if it is gone already."""
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._on_exit(pid)
        except (AttributeError, OSError):
            self._polled.add(pid)
        else:
            self._fds[pid] = fd
            self._selector.register(fd, selectors.EVENT_READ, pid)

    def exited(self, pid: int) -> None:
        """The selector has shown the pidfd of a child: it is gone."""
        self._drop(pid)
        self._on_exit(pid)

    def poll(self) -> None:
        """Look at the children that have no pidfd."""
        for pid in [pid for pid in self._polled if _is_gone(pid)]:
            self._polled.remove(pid)
            self._on_exit(pid)

    def close(self) -> None:
        """Watch none any more."""
        for pid in list(self._fds):
            self._drop(pid)
        self._polled.clear()

    def forget_in_child(self) -> None:
        """In a forked child: close the descriptors, leave the selector (it is the parent's) alone."""
        for fd in self._fds.values():
            with suppress(OSError):
                os.close(fd)

    def _drop(self, pid: int) -> None:
        fd = self._fds.pop(pid, None)
        if fd is not None:
            with suppress(KeyError, OSError):
                self._selector.unregister(fd)
            with suppress(OSError):
                os.close(fd)


def _is_gone(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
