"""What this session has yet to tell Redis: permits it releases, permits it asks for, tasks that are newly covered.

    Permits, Started -> Outbox -> Exchange.collect -> link -> Redis

Thread: any, under the ledger's lock; ``due_at`` is read without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from celery_gconc.clock import now
from celery_gconc.limits.claims import Limits
from celery_gconc.worker.ledger.request import R


@dataclass(frozen=True, slots=True)
class Changes(Generic[R]):
    """What one sync says that is new."""

    #: Numbers of permits that are free, and of asks that were withdrawn.
    released: tuple[int, ...]
    #: New asks: number, limits, who asks.
    asks: tuple[tuple[int, Limits, R], ...]
    #: Who runs with a permit of other limits than Redis knows.
    restated: tuple[R, ...]


class Outbox(Generic[R]):
    """Owns the numbers of asks and permits, and what happened since the last sync."""

    def __init__(self) -> None:
        #: When the next sync is due, by :func:`~celery_gconc.clock.now`; None = there is nothing to say.
        self.due_at: float | None = None
        #: The next sync has to state everything: the last one may not have arrived.
        self.needs_statement = True
        self._last_number = 0
        self._released: list[int] = []
        self._asks: dict[int, tuple[Limits, R]] = {}
        #: The limits of each ask, by its number, until it is granted or Redis was sent its withdrawal.
        self._asked_for: dict[int, Limits] = {}
        self._restated: list[R] = []

    def due(self, delay: float = 0.0) -> None:
        """There is something to say, within *delay* seconds."""
        at = now() + delay if delay else 0.0
        if self.due_at is None or at < self.due_at:
            self.due_at = at

    def new_number(self) -> int:
        """The number of an ask, or of a permit that nobody asked for."""
        self._last_number += 1
        return self._last_number

    def ask(self, limits: Limits, request: R, delay: float) -> int:
        """Ask for a permit; return the number of the ask."""
        number = self._last_number = self._last_number + 1
        self._asks[number] = (limits, request)
        self._asked_for[number] = limits
        self.due(delay)
        return number

    def withdraw(self, number: int, delay: float = 0.0) -> None:
        """An ask is void: nothing here needs its permit any more."""
        if self._asks.pop(number, None) is None:
            self.release(number, delay)
        else:
            del self._asked_for[number]

    def match(self, number: int) -> Limits | None:
        """A permit was granted: return the limits that it was asked for, and settle its ask.

        None where the ask is void and Redis knows. Where it is void and Redis doesn't know yet, it never will: the
        grant may serve another ask for the same limits.
        """
        limits = self._asked_for.pop(number, None)
        if limits is not None:
            self._asks.pop(number, None)  # after a failure it may be here once more
            if number in self._released:
                self._released.remove(number)
        return limits

    def release(self, number: int, delay: float = 0.0) -> None:
        """A permit is free."""
        self._released.append(number)
        self.due(delay)

    def restate(self, request: R) -> None:
        """A request runs with a permit of other limits than Redis knows."""
        self._restated.append(request)

    def take(self) -> Changes[R]:
        """Everything there is to say; it counts as said."""
        asks = tuple((number, limits, request) for number, (limits, request) in self._asks.items())
        changes = Changes(tuple(self._released), asks, tuple(self._restated))
        for withdrawn in self._released:
            self._asked_for.pop(withdrawn, None)
        self._released.clear()
        self._asks.clear()
        self._restated.clear()
        self.due_at = None
        self.needs_statement = False
        return changes

    def clear(self) -> None:
        """A new session begins: asks and releases of the old one are void, and what runs is stated as a whole."""
        self._released.clear()
        self._asks.clear()
        self._asked_for.clear()
        self._restated.clear()
