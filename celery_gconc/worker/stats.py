"""The rows that ``inspect stats`` (and so Flower's worker page) shows of the limits: from memory, refreshed behind."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timezone

from celery_gconc.clock import now
from celery_gconc.protocol.status import LimitStatus, Status
from celery_gconc.protocol.store import Store

#: How old what is shown may be, in seconds, before a newer one is asked for (and shown the next time).
FRESH_SECONDS = 1.0

#: Most limits that are shown.
MOST_ROWS = 50


class StatsRows:
    """One worker's. :meth:`rows` is for the consumer's thread and never waits; answers come on the link's."""

    def __init__(self, ask: Callable[[Callable[[Store], Status]], Future[Status]]) -> None:
        self._ask = ask
        self._status: Status | None = None
        self._asked_at = -FRESH_SECONDS

    def refresh(self) -> None:
        """Ask for what holds now, unless that was just done."""
        if now() - self._asked_at >= FRESH_SECONDS:
            self._asked_at = now()
            self._ask(lambda store: store.status()).add_done_callback(self._answered)

    def rows(self) -> dict[str, str]:
        """One row for each limit, and one that says when they held."""
        self.refresh()
        status = self._status
        if status is None:
            return {}
        rows = {f"gconc {limit.limit}": described(limit) for limit in status.limits[:MOST_ROWS]}
        if (more := len(status.limits) - MOST_ROWS) > 0:
            rows["gconc, not shown"] = f"{more} more limits"
        at = datetime.fromtimestamp(status.at, timezone.utc)
        return {**rows, "gconc as of": f"{at:%Y-%m-%d %H:%M:%S} UTC (reload to update)"}

    def _answered(self, future: Future[Status]) -> None:
        if future.exception() is None:
            self._status = future.result()


def described(limit: LimitStatus) -> str:
    """A limit in one line."""
    text = f"{limit.running} running, no limit" if limit.max is None else f"{limit.running} of {limit.max} running"
    if limit.paused:
        text += ", paused" + (f" by {limit.paused_by}" if limit.paused_by else "")
    if (waiting := limit.waiting + limit.parked) > 0:
        text += f", {waiting} waiting"
        if limit.longest_wait is not None:
            text += f" (longest {limit.longest_wait:.1f} s)"
    if limit.overridden:
        text += f"; set by {limit.set_by}" + (f": {limit.reason}" if limit.reason else "")
    return text
