"""What people ask of Redis, page by page: each reply is of one instant, and no script looks at everything.

Store -> Reader -> a script for each page -> values of :mod:`~celery_gconc.protocol.status`

Between two pages things change. What was there from the first to the last is told, once; what came, went or changed
meanwhile may be told as it was, as it is, or not at all, and two pages may disagree: a task that waits on one may run
on the next. What belongs together comes in one piece: all numbers of a limit, all of a session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

from celery_gconc.protocol.messages import text_of
from celery_gconc.protocol.replies import (
    ended_tasks_of,
    holder_of,
    limit_status_of,
    session_status_of,
    totals_of,
    waiter_of,
    whereabouts_of,
)
from celery_gconc.protocol.scripts import PAGE
from celery_gconc.protocol.status import EndedTask, Holder, LimitStatus, SessionStatus, Totals, Waiter, Whereabouts

#: Between the parts of what an audit has found.
US = "\x1f"

#: Runs a script, by its name and what it is asked.
Run = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Names:
    """Which limits there are, in order of name, those without a max last; and how many sessions live."""

    limits: tuple[str, ...]
    live: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Some limits, and what is the same for all: when (Unix time by Redis' clock), and the version of the table."""

    found: Mapping[str, LimitStatus]
    at: float
    version: int
    live: int


class Reader:
    """Puts pages together."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def names(self) -> Names:
        """All limits that are limited, configured by a live session or set at run time."""
        limited: set[str] = set()
        unlimited: set[str] = set()
        live = 0
        for reply in self._pages("names", {}):
            limited.update(reply["limited"] or ())
            unlimited.update(reply["unlimited"] or ())
            live = int(reply["live"])
        return Names((*sorted(limited), *sorted(unlimited - limited)), live)

    def limits(self, names: Iterable[str]) -> Limits:
        """What holds for these limits; the time and version are those of the last page."""
        left, found = list(names), {}
        while True:
            reply = self._run("status", {"limits": left[:PAGE]})
            told = reply["limits"] or ()
            found.update({item["limit"]: limit_status_of(item) for item in told})
            left = left[len(told) :]
            if not left:
                return Limits(found, reply["now"] / 1000, int(reply["version"]), int(reply["live"]))

    def sessions(self) -> tuple[SessionStatus, ...]:
        """The live sessions. What several are configured with is read once."""
        told = [item for reply in self._pages("sessions", {}) for item in reply["sessions"] or ()]
        configs = {digest: self._configured(digest) for digest in {item["config"] for item in told}}
        return tuple(session_status_of(item, configs) for item in told)

    def holders(self, limit: str, count: int) -> tuple[Holder, ...]:
        """Those that have run for longest, in that order."""
        pages = self._pages("holders", {"limit": limit})
        found = (holder_of(item, limit) for reply in pages for item in reply["holders"] or ())
        return tuple(nsmallest(count, found, key=lambda holder: holder.since))

    def waiting(self, limit: str, count: int) -> tuple[Waiter, ...]:
        """The first in line, in order."""
        rows = self._line(limit, lambda to, known: sum(order < to for order in known) >= count)
        first = enumerate(sorted(rows)[:count], 1)
        return tuple(waiter_of({**rows[order], "position": position}, limit) for position, order in first)

    def find(self, task_id: str) -> tuple[Whereabouts, ...]:
        """Where a task is: a request that moves on from page to page may be found as it waits, or as it runs."""
        found: dict[str, Mapping[str, Any]] = {}
        for reply in self._pages("find", {"task": text_of(task_id)}):
            found.update({item["number"]: item for item in reply["found"] or ()})
        return tuple(whereabouts_of({**item, "position": self._position(item)}) for item in found.values())

    def history(self, limit: str, seconds: float) -> tuple[EndedTask, ...]:
        """Tasks that have ended lately."""
        pages = self._pages("recent", {"limit": limit, "span": int(seconds * 1000)})
        return ended_tasks_of([part for reply in pages for part in reply["parts"] or ()])

    def totals(self) -> Totals:
        """What was counted."""
        totals: dict[str, str] = {}
        for reply in self._pages("totals", {}):
            totals.update(reply["totals"] or {})
        return totals_of(totals)

    def audit(self, repair: bool) -> list[tuple[str, str]]:
        """What doesn't fit together: kind and member of each finding. Each is looked at in one script."""
        pages = self._pages("audit", {"repair": repair})
        found = [(str(item["kind"]), str(item["member"])) for reply in pages for item in reply["findings"] or ()]
        used = {("unused", member.partition(US)[0]) for kind, member in found if kind == "use"}
        return [item for item in dict.fromkeys(found) if item not in used]

    def _configured(self, digest: str) -> Mapping[str, int]:
        """What sessions of one configuration are configured with: limit to max."""
        values: dict[str, int] = {}
        for reply in self._pages("configured", {"digest": digest}) if digest else ():
            values.update(reply["values"] or {})
        return values

    def _position(self, item: Mapping[str, Any]) -> int | None:
        """Where a request stands that was found waiting; it may have moved on since."""
        if "order" not in item:
            return None
        own = str(item["order"])
        rows = self._line(item["line"], lambda to, _: to > own)
        return sum(order < own for order in rows) + 1

    def _line(self, limit: str, is_enough: Callable[[str, Iterable[str]], bool]) -> dict[str, Mapping[str, Any]]:
        """Requests in a line by their order, from the first on until that is enough.

        The pages have the first request of each want in order. What comes before ``to`` is in those up to it. A want
        whose first request was granted meanwhile stands further behind with the others: they are taken once.
        """
        rows: dict[str, Mapping[str, Any]] = {}
        for reply in self._pages("waiting", {"limit": limit}):
            known = {_request_of(row) for row in rows.values()}
            rows.update({row["order"]: row for row in reply["waiting"] or () if _request_of(row) not in known})
            if "to" in reply and is_enough(reply["to"], rows):
                break
        return rows

    def _pages(self, name: str, asked: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        after = None
        while True:
            reply = self._run(name, {**asked, "after": after})
            yield reply
            if (after := reply.get("next")) is None:
                return


def _request_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """The arrival and the want of a request, and its task: whichever of the want's requests it is by now."""
    return row["order"][:-4], row["id"]
