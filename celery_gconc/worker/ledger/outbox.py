"""What this session has yet to tell Redis: limits of which it has other units, lines that want something else.

    Holdings, Asks, Started -> Outbox -> Exchange.collect -> link -> Redis

Thread: any, under the ledger's lock; ``due_at`` is read without it.
"""

from __future__ import annotations

from typing import Generic

from celery_gconc.clock import now
from celery_gconc.worker.ledger.lines import Line
from celery_gconc.worker.ledger.permit import Permit
from celery_gconc.worker.ledger.request import R


class Outbox(Generic[R]):
    """Owns what happened since the last sync."""

    def __init__(self) -> None:
        #: When the next sync is due, by :func:`~celery_gconc.clock.now`; None = there is nothing to say.
        self.due_at: float | None = None
        #: The next sync has to state everything, and as if for the first time: the last one may not have arrived.
        self.needs_statement = True
        #: It is to be made even if neither units nor lines have anything to say by then.
        self._is_wanted = False
        #: The limits of which this session has more or fewer units than it told, and the lines that ask for others.
        self.limits: dict[str, None] = {}
        self.lines: dict[Line[R], None] = {}
        #: Tasks that Redis believes to run: of the last statement by id, others by the grant that they used first.
        self.over: list[str] = []
        self.ended: list[int] = []

    def due(self, delay: float = 0.0) -> None:
        """There is something to say, or to ask, within *delay* seconds."""
        self._is_wanted = True
        self._by(delay)

    def units_changed(self, limit: str, delay: float = 0.0) -> None:
        """There are more or fewer units of a limit than by the grants."""
        self.limits[limit] = None
        self._by(delay)

    def asks_changed(self, line: Line[R], delay: float = 0.0) -> None:
        """A line asks for more or fewer of its requests, or for others."""
        self.lines[line] = None
        self._by(delay)

    def has_ended(self, request: R, permit: Permit) -> None:
        """A task runs no more: Redis hears of it when there is anything to say."""
        if permit.is_stated:
            self.over.append(request.task_id)
        elif permit.grant:
            self.ended.append(permit.grant)

    @property
    def has_news(self) -> bool:
        """Whether there still is something to say: what a line wanted a moment ago it may have found here."""
        return (
            self._is_wanted
            or self.needs_statement
            or bool(self.limits)
            or any(line.asked or line.told for line in self.lines)
        )

    def is_said(self) -> None:
        """Everything there was to say is in a sync."""
        self.over.clear()
        self.ended.clear()
        self.limits.clear()
        self.needs_statement = False
        self.is_settled()

    def is_settled(self) -> None:
        """There is nothing that Redis has to hear: :attr:`has_news` says no."""
        self.lines.clear()
        self.due_at = None
        self._is_wanted = False

    def _by(self, delay: float) -> None:
        at = now() + delay if delay else 0.0
        if self.due_at is None or at < self.due_at:
            self.due_at = at
