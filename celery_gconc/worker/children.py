"""Tells when a pool child is gone, or has written a result that nobody reads, without asking the pool.

A file descriptor of the process (pidfd, Linux 5.3 and later) becomes readable when it exits. Where the system has
none (macOS, Windows, gVisor), or forbids it, billiard is asked every :data:`POLL_SECONDS` which children live.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable, Mapping
from contextlib import suppress

from billiard import active_children

from celery_gconc.clock import now

#: How often, in seconds, children are looked at where there are no pidfds. (A child's death must show within 1 s.)
POLL_SECONDS = 0.25


#: How often, in seconds, the pipes of children are looked at while the parent reads none.
PIPES_SECONDS = 0.1


class Pipes:
    """The result pipes of children that run a task each, while the parent's event loop reads nothing.

    What a child writes next is the result of its task, so a pipe that can be read means that the task has ended.
    Nothing is read here. :meth:`watch` is for other threads, :meth:`written` for the link's.
    """

    def __init__(self) -> None:
        self._jobs: dict[int, int] = {}

    def watch(self, jobs: Mapping[int, int]) -> None:
        """Look at these pipes from now on, and at no others: the number of the job by file descriptor."""
        self._jobs = dict(jobs)

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def written(self) -> list[int]:
        """The jobs whose children have written since, each once."""
        from multiprocessing.connection import wait  # not every Python has it (WebAssembly), nor needs it

        jobs = self._jobs
        ready: list[int] = wait(list(jobs), 0)  # type: ignore[assignment]
        return [jobs.pop(fd) for fd in ready]


class Children:
    """The watched children of one link. Only the link's thread calls it, but for :meth:`forget_in_child`."""

    def __init__(self, selector: selectors.BaseSelector, on_exit: Callable[[int], None]) -> None:
        self._selector = selector
        self._on_exit = on_exit
        self._fds: dict[int, int] = {}
        self._polled: set[int] = set()
        #: Those of them that billiard didn't know at the last look; and when the next is due, by :func:`now`.
        self._missing: set[int] = set()
        self._next_poll = 0.0

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
        """Look at the children that have no pidfd, if it is time to.

        ``active_children`` reaps those that have exited, and notes their exit codes for billiard's pool, which asks
        in the same way. One that a pool without an event loop (Windows) is just starting, on a thread of its own, may
        not be known yet, so that a child is gone only when it is missing twice.
        """
        if not self._polled or now() < self._next_poll:
            return
        missing = self._polled - {child.pid for child in active_children()}
        gone, self._missing = missing & self._missing, missing
        self._next_poll = now() + POLL_SECONDS
        for pid in gone:
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
