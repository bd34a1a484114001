"""The requests of one session that wait for a permit: in lines by their limits, each made of groups by their names.

Nothing here costs more with more requests than the logarithm of the number of groups: a worker may hold 50,000. Those
with the same candidate limits (one task of one queue) are a group, so that they go to another line together when a
limit begins or ends.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from heapq import heappop, heappush, heapreplace, merge
from itertools import islice
from typing import Generic, Protocol, TypeVar

from celery_gconc.limits.claims import Limits
from celery_gconc.worker.ledger.permit import Permit


class Waiter(Protocol):
    """A request as its line sees it."""

    #: When it reached its gate, by :func:`~celery_gconc.clock.now`.
    arrived: float
    #: Whether its message may go back for others to take.
    may_move: bool


R = TypeVar("R", bound=Waiter)

_Head = tuple[float, int, "Group[R]"]


class Group(Generic[R]):
    """Requests that wait here and whose candidate limits are the same. In order of arrival."""

    __slots__ = ("head", "line", "movable", "names", "waiting")

    def __init__(self, names: Limits) -> None:
        self.names = names
        #: A request leaves from anywhere, and from the front, at the same cost (a dict's front would get slower).
        self.waiting: OrderedDict[R, None] = OrderedDict()
        #: Those of them whose messages may go back for others to take.
        self.movable: dict[R, None] = {}
        self.line: Line[R] | None = None
        #: Its one valid entry in its line's order: no later than the arrival of its first.
        self.head: _Head[R] | None = None


class Line(Generic[R]):
    """The requests of this session for one set of limits: those that wait here, and what was asked for them."""

    __slots__ = ("_entries", "_heads", "asked", "limits", "spare", "waiting")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.asked: deque[int] = deque()
        self.spare: list[Permit] = []
        #: How many wait in it.
        self.waiting = 0
        #: Its groups by the arrival of their first, as a heap. Entries are put right when they come to the front.
        self._heads: list[_Head[R]] = []
        self._entries = 0

    def put(self, group: Group[R], request: R) -> None:
        """A request of a group of this line waits."""
        is_first = not group.waiting
        group.waiting[request] = None
        if request.may_move:
            group.movable[request] = None
        self.waiting += 1
        if is_first and (group.head is None or request.arrived < group.head[0]):
            self._list(group, request.arrived)

    def remove(self, group: Group[R], request: R) -> None:
        """It waits no more."""
        del group.waiting[request]
        group.movable.pop(request, None)
        self.waiting -= 1

    def join(self, group: Group[R]) -> None:
        """A group comes from another line, with all that wait in it."""
        group.line, group.head = self, None
        self.waiting += len(group.waiting)
        if group.waiting:
            self._list(group, next(iter(group.waiting)).arrived)

    def part(self, group: Group[R]) -> None:
        """A group goes to another line."""
        group.line = group.head = None
        self.waiting -= len(group.waiting)

    def first(self) -> R | None:
        """Who came first of those that wait."""
        group = self._first_group()
        return next(iter(group.waiting)) if group is not None else None

    def pop(self) -> R:
        """Take out who came first."""
        group = self._first_group()
        assert group is not None
        request, _none = group.waiting.popitem(last=False)
        group.movable.pop(request, None)
        self.waiting -= 1
        return request

    def after(self, count: int) -> Iterator[R]:
        """Those that wait behind the first so many, in order."""
        self._first_group()
        groups = [group for head in self._heads if (group := head[2]).head is head and group.waiting]
        if len(groups) == 1:
            return islice(groups[0].waiting, count, None)
        return islice(merge(*(group.waiting for group in groups), key=lambda request: request.arrived), count, None)

    def _first_group(self) -> Group[R] | None:
        heads = self._heads
        while heads:
            head = heads[0]
            arrived, _, group = head
            if group.head is not head:  # it has gone to another line, or stands here once more
                heappop(heads)
            elif not group.waiting:
                group.head = None
                heappop(heads)
            elif (first := next(iter(group.waiting)).arrived) == arrived:
                return group
            else:
                group.head = self._entry(group, first)
                heapreplace(heads, group.head)
        return None

    def _list(self, group: Group[R], arrived: float) -> None:
        group.head = self._entry(group, arrived)
        heappush(self._heads, group.head)

    def _entry(self, group: Group[R], arrived: float) -> _Head[R]:
        self._entries += 1  # of two that came at the same time, the one that was listed first
        return (arrived, self._entries, group)
