"""What a session is still to tell Redis: permits that ended, requests that ask for one, tasks that are newly covered.

Ledger (end, ask, withdraw, state) -> Outbox -> Ledger.collect -> link -> Redis
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from celery_gconc.clock import now
from celery_gconc.limits.claims import Limits

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class News(Generic[R]):
    """What there is to tell."""

    #: Numbers of permits that are free, and of requests that were withdrawn.
    ended: tuple[int, ...]
    #: New requests for permits: number, limits, who asks.
    asks: tuple[tuple[int, Limits, R], ...]
    #: Who runs with a permit of other limits than Redis knows.
    unstated: tuple[R, ...]


class Outbox(Generic[R]):
    """One ledger's, and behind its lock."""

    def __init__(self) -> None:
        #: When there will be something to tell Redis, by :func:`~celery_gconc.clock.now`; None = nothing.
        self.due_at: float | None = None
        #: Whether the next sync has to state all: the last one may not have arrived.
        self.needs_statement = True
        self._numbers = 0
        self._ended: list[int] = []
        self._unasked: dict[int, tuple[Limits, R]] = {}
        #: What was asked for by number, until it is granted, or Redis has been told that it is withdrawn.
        self._asked_for: dict[int, Limits] = {}
        self._unstated: list[R] = []

    def due(self, delay: float = 0.0) -> None:
        """There is something to tell, in so many seconds at the latest."""
        at = now() + delay if delay else 0.0
        self.due_at = at if self.due_at is None else min(self.due_at, at)

    def new_number(self) -> int:
        """The number of a request, or of a permit that was never asked for."""
        self._numbers += 1
        return self._numbers

    def ask(self, limits: Limits, request: R, delay: float) -> int:
        """Ask for a permit; return the number of the request."""
        number = self.new_number()
        self._unasked[number] = (limits, request)
        self._asked_for[number] = limits
        self.due(delay)
        return number

    def withdraw(self, number: int, delay: float = 0.0) -> None:
        """A permit that was asked for is not needed any more."""
        if self._unasked.pop(number, None) is None:
            self.end(number, delay)
        else:
            del self._asked_for[number]

    def end(self, number: int, delay: float = 0.0) -> None:
        """A permit is free."""
        self._ended.append(number)
        self.due(delay)

    def state(self, request: R) -> None:
        """Who runs has a permit of other limits than Redis knows."""
        self._unstated.append(request)

    def granted(self, number: int) -> Limits | None:
        """A permit was granted: for which limits it was asked for; None where that is not known any more."""
        return self._asked_for.pop(number, None)

    def answered(self, number: int) -> None:
        """A request that Redis may not have been told of (again) has its answer."""
        self._unasked.pop(number, None)

    def take_back(self, number: int) -> bool:
        """Whether a withdrawal could still be undone: Redis had not heard of it."""
        if number in self._ended:
            self._ended.remove(number)
            return True
        return False

    def take(self) -> News[R]:
        """All that there is to tell; it is taken as told."""
        asks = tuple((number, limits, request) for number, (limits, request) in self._unasked.items())
        news = News(tuple(self._ended), asks, tuple(self._unstated))
        for withdrawn in self._ended:
            self._asked_for.pop(withdrawn, None)
        self._ended.clear()
        self._unasked.clear()
        self._unstated.clear()
        self.due_at = None
        self.needs_statement = False
        return news

    def forget(self) -> None:
        """A new session begins: what was asked for, and what ended, is void; what runs is stated as a whole."""
        self._ended.clear()
        self._unasked.clear()
        self._asked_for.clear()
        self._unstated.clear()
