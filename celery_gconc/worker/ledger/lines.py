"""The requests of one session that wait for a permit: in lines by their limits, each made of groups by their names.

    Ledger (a request comes, leaves, is next) -> Lines -> Line -> Group

Thread: any, under the ledger's lock.

Nothing here costs more with more requests than the logarithm of the number of groups: a worker may hold 50,000. Those
with the same candidate limits (one task of one queue) are a group, so that they go to another line together when a
limit begins or ends.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace, merge
from itertools import chain, islice
from typing import Generic

from celery_gconc.limits.claims import Limits
from celery_gconc.limits.table import LimitTable
from celery_gconc.worker.ledger.permit import Permit
from celery_gconc.worker.ledger.request import R, Request

#: From this many groups on those are forgotten in which nothing waits.
MAX_GROUPS = 1000

_Head = tuple[float, int, "Group[R]"]


@dataclass(frozen=True, slots=True)
class Queued(Generic[R]):
    """One set of limits for which requests wait here: how many, and the first of them."""

    limits: Limits
    count: int
    first: R


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
    """The requests of this session for one set of limits, with the permits that they ask for or may use.

    Lines writes who waits in it, Permits what is asked for and spare.
    """

    __slots__ = ("_entries", "_heads", "asked", "limits", "spare", "waiting")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        #: The numbers of what was asked for them, in order.
        self.asked: deque[int] = deque()
        #: Permits that no task uses now.
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
        """Those that wait behind the first *count*, in order."""
        self._first_group()
        groups = [group for head in self._heads if (group := head[2]).head is head and group.waiting]
        if len(groups) == 1:
            return islice(groups[0].waiting, count, None)
        return islice(merge(*(group.waiting for group in groups), key=_arrival), count, None)

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


class Lines(Generic[R]):
    """Owns the lines of one session, their groups, and who waits in them."""

    __slots__ = ("_groups", "_max_groups", "by_limits", "freed")

    def __init__(self) -> None:
        #: The lines in which somebody waits, or for which a permit is asked for or spare.
        self.by_limits: dict[Limits, Line[R]] = {}
        #: What waits in them, by candidate limits; some of these may be empty.
        self._groups: dict[Limits, Group[R]] = {}
        self._max_groups = MAX_GROUPS
        #: Who waited here until no limit covered them any more, and still does.
        self.freed: list[Collection[R]] = []

    def line(self, limits: Limits) -> Line[R]:
        """The line of these limits, begun where there is none."""
        line = self.by_limits.get(limits)
        if line is None:
            line = self.by_limits[limits] = Line(limits)
        return line

    def put(self, line: Line[R], request: R) -> None:
        """A request waits in this line from now on."""
        group = self._groups.get(request.names)
        if group is None:
            group = self._new_group(request.names)
        if group.line is not line:
            line.join(group)  # nothing waits in it, or it had gone there with the table
        line.put(group, request)

    def remove(self, request: R) -> Line[R] | None:
        """A request waits no more; return its line, None where it stands in none."""
        group = self._groups.get(request.names)
        if group is None or group.line is None or request not in group.waiting:
            return None
        line = group.line
        line.remove(group, request)
        return line

    def holds(self, request: R) -> bool:
        """Whether a request stands in a line."""
        group = self._groups.get(request.names)
        return group is not None and request in group.waiting

    def drop_if_idle(self, limits: Limits) -> None:
        """Forget a line that nothing is known of any more."""
        line = self.by_limits[limits]
        if not (line.waiting or line.asked or line.spare):
            del self.by_limits[limits]

    def clear(self) -> None:
        """Nobody waits in any line any more."""
        for group in self._groups.values():
            if group.line is not None:
                group.line.part(group)
        self._groups.clear()

    def go_by(self, table: LimitTable) -> list[Limits]:
        """Another table holds: each group goes to its line there. Return the limits of the lines that changed."""
        changed: dict[Limits, None] = {}
        for group in list(self._groups.values()):
            limits, line = table.covering(group.names), group.line
            if not group.waiting or line is None or line.limits == limits:
                continue
            line.part(group)
            changed[line.limits] = None
            if limits:
                self.line(limits).join(group)
                changed[limits] = None
            else:
                self.freed.append(group.waiting)
                del self._groups[group.names]
        return list(changed)

    def take_freed(self) -> list[R]:
        """Whom no limit covers any more, in order of arrival. Each is given once."""
        freed = sorted(chain(*self.freed), key=_arrival)
        self.freed.clear()
        return freed

    def occupied(self) -> list[Limits]:
        """The limits of those lines in which somebody waits."""
        return [limits for limits, line in self.by_limits.items() if line.waiting]

    def has_earlier(self, limits: Limits, request: R | None) -> bool:
        """Whether one of ours under another set that shares a limit with this one came before *request* (or waits)."""
        for line in self._sharing(limits):
            first = line.first()
            if first is not None and (request is None or first.arrived < request.arrived):
                return True
        return False

    def is_shared(self, limits: Limits) -> bool:
        """Whether one of ours waits under another set that shares a limit with this one."""
        return any(self._sharing(limits))

    def last_movable(self, queues: Container[str], count: int) -> list[R]:
        """The last to come of those of these queues that may go back for others to take; in order of arrival."""
        # Those of one group have one queue: no other shares its candidates.
        movable = [group.movable for group in self._groups.values() if group.movable]
        ours = [reversed(requests) for requests in movable if next(reversed(requests)).queue in queues]
        return list(islice(merge(*ours, key=_arrival, reverse=True), count))[::-1]

    # -- Questions ---------------------------------------------------------------------------------------

    def waiting(self) -> list[R]:
        """Everybody who waits in a line, by line. Costs more with more of them, as no other method here does."""
        return [request for group in self._groups.values() for request in group.waiting]

    def queued(self) -> list[Queued[R]]:
        """For which sets of limits requests wait."""
        firsts = [(line, line.first()) for line in self.by_limits.values()]
        return [Queued(line.limits, line.waiting, first) for line, first in firsts if first is not None]

    def parked(self) -> dict[str, int]:
        """How many stand in no line in Redis, by limit: others of ours stand before them."""
        parked: dict[str, int] = {}
        for limits, line in self.by_limits.items():
            behind = line.waiting - len(line.spare) - len(line.asked)
            for limit in limits if behind > 0 else ():
                parked[limit] = parked.get(limit, 0) + behind
        return parked

    # -- Its own -----------------------------------------------------------------------------------------

    def _new_group(self, names: Limits) -> Group[R]:
        if len(self._groups) >= self._max_groups:
            self._groups = {name: group for name, group in self._groups.items() if group.waiting}
            self._max_groups = max(2 * len(self._groups), MAX_GROUPS)
        group = self._groups[names] = Group(names)
        return group

    def _sharing(self, limits: Limits) -> Iterator[Line[R]]:
        """Our other lines in which somebody waits, and that share a limit with this set."""
        for other, line in self.by_limits.items():
            if line.waiting and other != limits and not set(limits).isdisjoint(other):
                yield line


def _arrival(request: Request) -> float:
    return request.arrived
