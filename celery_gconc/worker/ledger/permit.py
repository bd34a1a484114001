"""A permit, as the worker that gave it keeps it.

Thread: any, under the ledger's lock.
"""

from __future__ import annotations

from typing import Any

from celery_gconc.limits.claims import Claims, Limits
from celery_gconc.worker.ledger.units import Uses

#: How many tasks a session may start between one fencing number of Redis and the next. Each has a number of its own,
#: and Redis keeps as many free.
STEPS = 1 << 16


class Permit:
    """The right of one task to run: it uses the units of its claims for as long as it runs."""

    # (What most permits never change stands here, and costs nothing to make.)

    #: The grant that it is the first to use; 0 where its units were used before.
    grant = 0
    #: Its task came under other limits while it ran: Redis has not granted that, and it ends with that task.
    is_restated = False
    #: Redis was told that its task runs, for people to see.
    is_stated = False

    def __init__(self, claims: Claims, uses: Uses, fencing_number: int = 0, granted_at: float = 0.0) -> None:
        #: What it claims, and the units that it uses for that.
        self.claims = claims
        self.uses = uses
        #: Its fencing number; 0 where its task ran before its limits began.
        self.fencing_number = fencing_number
        #: When its session was last granted something before it started, by Redis' clock: Unix time in seconds.
        self.granted_at = granted_at

    def for_task(self, limits: Limits, session: str) -> tuple[Any, ...]:
        """As it travels to the task, which makes a :class:`~celery_gconc.permit.TaskPermit` of it."""
        return limits, self.fencing_number, session, self.granted_at
