"""The rows that ``inspect stats`` (and so Flower's worker page) shows of the limits: from memory, refreshed behind.

Thread: consumer; answers come on the link's.
"""

from __future__ import annotations

from concurrent.futures import Future, wait
from datetime import datetime, timezone

from celery_gconc.clock import now
from celery_gconc.protocol.status import LimitStatus, Overview
from celery_gconc.worker.session.link import Link

#: How old what is shown may be, in seconds, before a newer one is asked for (and shown the next time).
FRESH_SECONDS = 1.0

#: How long, in seconds, a call waits for the first answer.
FIRST_SECONDS = 0.25

#: How many limits are shown.
MAX_ROWS = 50


class StatsRows:
    """One worker's. All fields belong to the consumer's thread, but :attr:`_overview`, which the link's writes."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._overview: Overview | None = None
        #: When it was last asked for, by :func:`now`.
        self._asked_at = -FRESH_SECONDS

    def rows(self) -> dict[str, str]:
        """One row for each limit, and one that says when they held.

        As of the last call; only until there is an answer it waits for one, for :data:`FIRST_SECONDS` at most.
        """
        self._refresh()
        overview = self._overview
        if overview is None:
            return {}
        status = overview.status
        rows = {f"gconc {limit.limit}": described(limit) for limit in status}
        if (more := overview.limits - len(rows)) > 0:
            rows["gconc, not shown"] = f"{more} more limits"
        at = datetime.fromtimestamp(status.at, timezone.utc)
        return {**rows, "gconc as of": f"{at:%Y-%m-%d %H:%M:%S} UTC (reload to update)"}

    def _refresh(self) -> None:
        """Ask for what holds now, unless that was just done."""
        if now() - self._asked_at < FRESH_SECONDS:
            return
        self._asked_at = now()
        answer = self._link.call(lambda store: store.overview(MAX_ROWS))
        if self._overview is None:
            wait([answer], FIRST_SECONDS)
        answer.add_done_callback(self._answered)  # at once, here, where it has come

    def _answered(self, answer: Future[Overview]) -> None:
        if answer.exception() is None:
            self._overview = answer.result()


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
