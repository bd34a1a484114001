"""Finds out that a pool child is gone, or has written a result that nobody reads, without asking the pool.

    Runs, step (watch, watch_pipes) -> Children -> link (exited, written)

Thread: any watches; the link's looks.

A file descriptor of the process (pidfd, Linux 5.3 and later) becomes readable when it exits. Where the system has
none (macOS, Windows, gVisor), or forbids it, billiard is asked every :data:`POLL_SECONDS` which children live.
"""

from __future__ import annotations

import os
import selectors
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from billiard import active_children

from celery_gconc.clock import now
from celery_gconc.worker.wake import Bell

#: How often, in seconds, children are looked at where there are no pidfds. (A child's death must show within 1 s.)
POLL_SECONDS = 0.25

#: How often, in seconds, the pipes of children are looked at while the parent reads none.
PIPES_SECONDS = 0.1


class Children:
    """The children of one worker's pool that are watched. Made before all that watch, and before the link."""

    def __init__(self, bell: Bell) -> None:
        #: Wakes the link, which is to look at what was asked for.
        self._bell = bell
        #: Any thread adds children to watch, and the link's takes them out. Any thread replaces the pipes as a whole
        #: (the number of the job by the descriptor of its result pipe); the link's takes out those written to.
        self._wanted: set[int] = set()
        self._pipes: dict[int, int] = {}
        #: The link's thread owns the rest. pidfds by child, and the children that have none.
        self._fds: dict[int, int] = {}
        self._polled: set[int] = set()
        #: Those of them that billiard didn't know at the last look; and when the next is due, by :func:`now`.
        self._missing: set[int] = set()
        self._next_poll = 0.0
        #: Children that are gone, and that :meth:`exited` has not given yet.
        self._gone: deque[int] = deque()
        self._selector: selectors.BaseSelector | None = None

    # -- Any thread --------------------------------------------------------------------------------------

    def watch(self, pid: int) -> None:
        """Notice when that child is gone."""
        if pid not in self._fds and pid not in self._polled and pid not in self._wanted:
            self._wanted.add(pid)
            self._bell.ring()

    def watch_pipes(self, jobs: Mapping[int, int]) -> None:
        """Notice when one of these result pipes can be read, and of no others: the number of the job by descriptor.

        For while the parent's event loop reads nothing: what a child writes next is the result of its task, so a pipe
        that can be read means that the task has ended. Nothing is read here.
        """
        self._pipes = dict(jobs)
        self._bell.ring()

    # -- The link's thread -------------------------------------------------------------------------------

    def attach(self, selector: selectors.BaseSelector) -> None:
        """Have *selector* wait for children too: its data are functions to call."""
        self._selector = selector

    @property
    def look_seconds(self) -> float | None:
        """After how many seconds at most :meth:`exited` and :meth:`written` want to be called again, if at all."""
        if self._gone:
            return 0.0
        if self._pipes:
            return PIPES_SECONDS
        return POLL_SECONDS if self._polled else None

    def exited(self) -> int | None:
        """A watched child that is gone, if there is one. Each is given once."""
        while self._wanted:
            self._begin(self._wanted.pop())
        if self._polled and now() >= self._next_poll:
            self._poll()
        return self._gone.popleft() if self._gone else None

    def written(self) -> int | None:
        """A job whose child has written its result, if there is one. Each is given once."""
        jobs = self._pipes
        if not jobs:
            return None
        from multiprocessing.connection import wait  # not every Python has it (WebAssembly), nor needs it

        ready: list[int] = wait(list(jobs), 0)  # type: ignore[assignment]
        return jobs.pop(ready[0]) if ready else None

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

    def _begin(self, pid: int) -> None:
        if pid in self._fds or pid in self._polled:
            return  # it was asked for twice
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._gone.append(pid)
        except (AttributeError, OSError):
            self._polled.add(pid)
        else:
            self._fds[pid] = fd
            assert self._selector is not None
            self._selector.register(fd, selectors.EVENT_READ, partial(self._exited, pid))

    def _exited(self, pid: int) -> None:
        self._drop(pid)
        self._gone.append(pid)

    def _poll(self) -> None:
        """Look at the children that have no pidfd.

        ``active_children`` reaps those that have exited, and notes their exit codes for billiard's pool, which asks
        in the same way. One that a pool without an event loop (Windows) is just starting, on a thread of its own, may
        not be known yet, so that a child is gone only when it is missing twice.
        """
        missing = self._polled - {child.pid for child in active_children()}
        gone, self._missing = missing & self._missing, missing
        self._next_poll = now() + POLL_SECONDS
        self._polled -= gone
        self._gone.extend(gone)

    def _drop(self, pid: int) -> None:
        fd = self._fds.pop(pid, None)
        if fd is not None:
            assert self._selector is not None
            with suppress(KeyError, OSError):
                self._selector.unregister(fd)
            with suppress(OSError):
                os.close(fd)
