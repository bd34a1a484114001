"""The requests of one session that wait for a permit: in lines by their claims, each made of groups by candidates.

    Ledger (a request comes, leaves, is next) -> Lines -> Line -> Group

Thread: any, under the ledger's lock.

Nothing here costs more with more requests than the logarithm of the number of groups: a worker may hold 50,000. Those
with the same candidate claims (one task of one queue) are a group, so that they go to another line together when a
limit begins or ends.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace, merge
from itertools import chain, islice
from typing import Generic, NamedTuple

from celery_gconc.limits.claims import Claims, Limits, limits_of
from celery_gconc.limits.table import LimitTable
from celery_gconc.worker.ledger.request import R, Request

#: From this many groups on those are forgotten in which nothing waits.
MAX_GROUPS = 1000

_Head = tuple[float, int, "Group[R]"]


class Granted(NamedTuple):
    """Units that were granted for the first of a line, and when that was heard, by :func:`~celery_gconc.clock.now`."""

    grant: int
    at: float


@dataclass(frozen=True, slots=True)
class Queued(Generic[R]):
    """One set of limits for which requests wait here: how many, and the first of them."""

    limits: Limits
    count: int
    first: R


class Group(Generic[R]):
    """Requests that wait here and whose candidate claims are the same. In order of arrival."""

    __slots__ = ("candidates", "head", "line", "movable", "waiting")

    def __init__(self, candidates: Claims) -> None:
        self.candidates = candidates
        #: A request leaves from anywhere, and from the front, at the same cost (a dict's front would get slower).
        self.waiting: OrderedDict[R, None] = OrderedDict()
        #: Those of them whose messages may go back for others to take.
        self.movable: dict[R, None] = {}
        self.line: Line[R] | None = None
        #: Its one valid entry in its line's order: no later than the arrival of its first.
        self.head: _Head[R] | None = None


class Line(Generic[R]):
    """The requests of this session with the same claims, with what is asked and was granted for them.

    Lines writes who waits in it, Asks the rest.
    """

    __slots__ = (
        "_entries", "_heads", "asked", "at", "claims", "granted", "limits", "number", "told", "waiting",
    )  # fmt: skip

    def __init__(self, claims: Claims, number: int) -> None:
        self.claims, self.limits = claims, limits_of(claims)
        #: As Redis knows it: among the sets of claims of this session.
        self.number = number
        #: For how many of its requests Redis is to be asked.
        self.asked = 0
        #: Of which limit Redis lacked units for the first of them, when it last heard of them; and since when.
        self.at: tuple[str, float] | None = None
        #: Those that Redis has, as of the last grant that is known here; some may have started or left since.
        self.told: deque[R] = deque()
        #: What was granted for its first.
        self.granted: deque[Granted] = deque()
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
        self.at = self.at if self.waiting else None
        self.waiting += 1
        if is_first and (group.head is None or request.arrived < group.head[0]):
            self._list(group, request.arrived)

    def remove(self, group: Group[R], request: R) -> None:
        """It waits no more."""
        del group.waiting[request]
        if request.may_move:
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

    @property
    def first_arrival(self) -> float:
        """When that one came, where there is one."""
        first = self.first()
        assert first is not None
        return first.arrived

    def pop(self) -> R:
        """Take out who came first."""
        group = self._first_group()
        assert group is not None
        request, _none = group.waiting.popitem(last=False)
        if request.may_move:
            group.movable.pop(request, None)
        self.waiting -= 1
        return request

    @property
    def lacks(self) -> bool:
        """Whether more wait in it than were granted something."""
        return self.waiting > len(self.granted)

    def some(self, first: int, count: int) -> Iterator[R]:
        """So many of those that wait behind the *first* so many, in order."""
        return islice(self._after(first), count) if count > 0 else iter(())

    def _after(self, count: int) -> Iterator[R]:
        self._first_group()
        groups = [group for head in self._heads if (group := head[2]).head is head and group.waiting]
        if len(groups) == 1:
            return islice(groups[0].waiting, count, None)
        return islice(merge(*(group.waiting for group in groups), key=_arrival), count, None)

    def _first_group(self) -> Group[R] | None:
        heads = self._heads
        if len(heads) == 1 and (group := heads[0][2]).head is heads[0] and group.waiting:
            return group  # whenever its first came
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

    __slots__ = ("_groups", "_last_number", "_max_groups", "_on", "by_claims", "by_number", "freed", "granted_count")

    def __init__(self) -> None:
        #: The lines in which somebody waits, or of which Redis knows; also by number, and by each of their limits.
        self.by_claims: dict[Claims, Line[R]] = {}
        self.by_number: dict[int, Line[R]] = {}
        self._on: dict[str, dict[Line[R], None]] = {}
        self._last_number = 0
        #: How much was granted for them, in all. Written by Asks.
        self.granted_count = 0
        #: What waits in them, by the identity of candidate claims, which are hard to look up by what they are, and each
        #: of which is made once; some of these may be empty.
        self._groups: dict[int, Group[R]] = {}
        self._max_groups = MAX_GROUPS
        #: Who waited here until no limit covered them any more, and still does.
        self.freed: list[Collection[R]] = []

    def line(self, claims: Claims) -> Line[R]:
        """The line of these claims, begun where there is none."""
        line = self.by_claims.get(claims)
        if line is None:
            self._last_number += 1
            line = self.by_claims[claims] = self.by_number[self._last_number] = Line(claims, self._last_number)
            for limit in line.limits:
                self._on.setdefault(limit, {})[line] = None
        return line

    def put(self, request: R, claims: Claims) -> Line[R]:
        """A request waits in the line of these claims from now on; return that."""
        group = self._groups.get(id(request.candidates))
        if group is None:
            group = self._new_group(request.candidates)
        line = group.line
        if line is None or line.claims is not claims or line.number not in self.by_number:
            line = self.line(claims)
            if group.line is not line:
                line.join(group)  # nothing waits in it, or it had gone there with the table
        line.put(group, request)
        return line

    def remove(self, request: R) -> Line[R] | None:
        """A request waits no more; return its line, None where it stands in none."""
        group = self._groups.get(id(request.candidates))
        if group is None or group.line is None or request not in group.waiting:
            return None
        line = group.line
        line.remove(group, request)
        return line

    def holds(self, request: R) -> bool:
        """Whether a request stands in a line."""
        group = self._groups.get(id(request.candidates))
        return group is not None and request in group.waiting

    def drop_if_idle(self, line: Line[R]) -> None:
        """Forget a line of which nobody knows anything any more."""
        if not (line.waiting or line.asked or line.told or line.granted) and line.number in self.by_number:
            del self.by_claims[line.claims], self.by_number[line.number]
            for limit in line.limits:
                on = self._on[limit]
                del on[line]
                if not on:
                    del self._on[limit]

    def clear(self) -> None:
        """Nobody waits in any line any more."""
        for group in self._groups.values():
            if group.line is not None:
                group.line.part(group)
        self._groups.clear()

    def go_by(self, table: LimitTable) -> list[Line[R]]:
        """Another table holds: each group goes to its line there. Return the lines that changed."""
        changed: dict[Line[R], None] = {}
        for group in list(self._groups.values()):
            claims, line = table.covering(group.candidates), group.line
            if not group.waiting or line is None or line.claims == claims:
                continue
            line.part(group)
            changed[line] = None
            if claims:
                other = self.line(claims)
                other.join(group)
                changed[other] = None
            else:
                self.freed.append(group.waiting)
                del self._groups[id(group.candidates)]
        return list(changed)

    def take_freed(self) -> list[R]:
        """Whom no limit covers any more, in order of arrival. Each is given once."""
        freed = sorted(chain(*self.freed), key=_arrival)
        self.freed.clear()
        return freed

    def occupied(self) -> list[Line[R]]:
        """Those lines in which somebody waits."""
        return [line for line in self.by_claims.values() if line.waiting]

    def first_for(self, limit: str) -> Line[R] | None:
        """Of our lines for a limit that lack something, the one whose first came first."""
        found = [line for line in self._on.get(limit, ()) if line.lacks]
        return found[0] if len(found) == 1 else min(found, key=lambda line: line.first_arrival, default=None)

    def occupied_for(self, limit: str) -> list[Line[R]]:
        """Our lines for a limit in which somebody waits."""
        return [line for line in self._on.get(limit, ()) if line.waiting]

    def has_earlier(self, limit: str, line: Line[R] | None) -> bool:
        """Whether another of our lines for a limit lacks something, and came first; any will do without a *line*."""
        lines = self._on.get(limit, {})
        if line is None:
            return any(other.lacks for other in lines)
        arrived = line.first_arrival if len(lines) > 1 else 0.0
        return any(other is not line and other.lacks and other.first_arrival < arrived for other in lines)

    def is_shared(self, line: Line[R]) -> bool:
        """Whether another of our lines that lacks something is for one of its limits, too."""
        return any(other.lacks for limit in line.limits for other in self._on[limit] if other is not line)

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
        firsts = [(line, line.first()) for line in self.by_claims.values()]
        return [Queued(line.limits, line.waiting, first) for line, first in firsts if first is not None]

    def parked(self) -> dict[str, int]:
        """How many stand in no line in Redis, by limit: others of ours stand before them."""
        parked: dict[str, int] = {}
        for line in self.by_claims.values():
            behind = line.waiting - len(line.granted) - line.asked
            for limit in line.limits if behind > 0 else ():
                parked[limit] = parked.get(limit, 0) + behind
        return parked

    # -- Its own -----------------------------------------------------------------------------------------

    def _new_group(self, candidates: Claims) -> Group[R]:
        if len(self._groups) >= self._max_groups:
            self._groups = {one: group for one, group in self._groups.items() if group.waiting}
            self._max_groups = max(2 * len(self._groups), MAX_GROUPS)
        group = self._groups[id(candidates)] = Group(candidates)
        return group


def _arrival(request: Request) -> float:
    return request.arrived
