"""The thread behind ``top`` that talks to Redis, so that keys are answered while Redis isn't there.

top -> Poller -> Redis -> Poller -> top
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

from celery import Celery

from celery_gconc.errors import GlobalConcurrencyError
from celery_gconc.operations.operations import Operations
from celery_gconc.protocol.status import Status

#: How long, in seconds, Redis has for an answer before the view says that it is away.
CALL_SECONDS = 2.0

#: What is to be done with a limit, and told in a line.
Action = Callable[[Operations], str]

#: What the poller tells: what holds now, what an action did, or what went wrong (an error that isn't ours ends it).
Told = Status | str | Exception


class Poller(threading.Thread):
    """Looks every *interval* seconds, and after each action; *tell* is called when there is something in :meth:`told`.

    A daemon: a Redis that hangs keeps nobody from leaving. Actions and what is told cross threads in queues; the
    connection is this thread's own.
    """

    def __init__(self, app: Celery, interval: float, tell: Callable[[], None]) -> None:
        super().__init__(daemon=True, name="gconc-top")
        self._operations = Operations(app, call_timeout=CALL_SECONDS)
        self._interval, self._tell = interval, tell
        self._actions: SimpleQueue[Action | None] = SimpleQueue()
        self._told: SimpleQueue[Told] = SimpleQueue()

    def do(self, action: Action) -> None:
        """Have something done soon."""
        self._actions.put(action)

    def told(self) -> Iterator[Told]:
        """What was told since the last call."""
        while not self._told.empty():  # one reader
            yield self._told.get()

    def stop(self) -> None:
        """End soon."""
        self._actions.put(None)

    def run(self) -> None:
        """Look, and do what is asked, until :meth:`stop`."""
        try:
            self._go_on()
        except Exception as exc:  # noqa: BLE001 - the view must not stand still without a word
            self._told.put(exc)
            self._tell()
        finally:
            self._operations.close()

    def _go_on(self) -> None:
        while True:
            self._try(Operations.status)
            try:
                action = self._actions.get(timeout=self._interval)
            except Empty:
                continue
            if action is None:
                return
            self._try(action)

    def _try(self, function: Callable[[Operations], Status | str]) -> None:
        try:
            self._told.put(function(self._operations))
        except GlobalConcurrencyError as exc:
            self._told.put(exc)
        self._tell()
