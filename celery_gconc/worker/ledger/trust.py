"""What this session knows from Redis, and what that lets it do without asking again.

    Redis -> Exchange -> Trust;  Ledger and Permits ask it before a start, and before a permit passes to the next task

A permit starts a task only while the lease surely lives and no newer limit table is known of. From task to task it
passes only while Redis could not give it to somebody who came earlier.

Thread: any, under the ledger's lock; ``is_offered`` and ``lease_ends`` are read without it.
"""

from __future__ import annotations

from typing import Generic

from celery_gconc.clock import now
from celery_gconc.limits.claims import Limits
from celery_gconc.worker.ledger.lines import Line, Lines
from celery_gconc.worker.ledger.permit import Permit
from celery_gconc.worker.ledger.request import R


class Trust(Generic[R]):
    """Owns what Redis knows and has said. Exchange writes it, except where a field says otherwise."""

    def __init__(self, lines: Lines[R], margin: float) -> None:
        self._lines = lines
        #: For how many seconds before the lease's end nothing is started any more.
        self._margin = margin
        #: When the lease ends, and until when permits may pass from task to task, by :func:`now`.
        self.lease_ends = 0.0
        self.reuse_ends = 0.0
        #: The number of the last grant that arrived.
        self.last_grant = 0
        #: Limits that others wait for, and how many of our requests stand at the head of the line: for those a
        #: permit may be used again, for it would come back to us. Permits counts down.
        self.contended: dict[str, int] = {}
        #: Redis would grant a permit if there were room.
        self.is_offered = False
        #: The room that Redis believes this session to have.
        self.believed_room = 0
        #: The version of the limit table that Redis last spoke of; nothing is started by an older one.
        self.table_version = -1
        #: The last sync was answered.
        self.is_answered = False
        #: The worker stops: permits go back as soon as their tasks end. The ledger writes it, once.
        self.is_stopping = False

    def usable(self, line: Line[R], version: int) -> Permit | None:
        """A permit of a line that may start a task now, by the limit table of this *version*."""
        if not line.spare or self.table_version > version:
            return None
        moment = now()
        if moment >= self.lease_ends - self._margin:
            return None
        for permit in reversed(line.spare):
            if permit.is_new or self.may_pass(line.limits, moment):
                return permit
        return None

    def may_pass(self, limits: Limits, moment: float) -> bool:
        """Whether a permit may pass, at this *moment*, from one task of this session to the next without Redis."""
        if self.is_stopping or moment >= self.reuse_ends:
            return False
        lines = self._lines.by_limits
        line = lines.get(limits)
        # Where one of ours under another set came first, it goes back: Redis knows the lines of both, and gives it to
        # the first.
        if len(lines) > 1 and self._lines.has_earlier(limits, line.first() if line is not None else None):
            return False
        if not self.contended:
            return True
        if line is None or not line.waiting:
            return not self.is_contended(limits)
        return all(self.contended.get(limit, 1) > 0 for limit in limits)

    def is_contended(self, limits: Limits) -> bool:
        """Whether others wait for any of the limits."""
        contended = self.contended
        return bool(contended) and any(limit in contended for limit in limits)

    def lease_left(self) -> float:
        """For how many seconds the lease still lasts, as far as this session knows."""
        return self.lease_ends - now()
