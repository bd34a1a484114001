"""A request as the ledger sees it.

Thread: any, under the ledger's lock; what each field says of itself is the gate's to write.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from celery_gconc.limits.claims import Claims
from celery_gconc.worker.ledger.permit import Permit


class Request(Protocol):
    """It waits for a permit, or runs. The ledger writes its claims, its permit and its start, the gate the rest."""

    #: What it would claim if each limit had a max.
    candidates: Claims
    #: What it claimed when it came here, started, or when another table began.
    claims: Claims
    #: Its permit, if it has one. None where it runs uncovered, or unlimited while Redis is unreachable.
    permit: Permit | None
    #: When it reached its gate, and when it started with a permit (0.0: it didn't), by
    #: :func:`~celery_gconc.clock.now`.
    arrived: float
    started_at: float
    #: The queue that its message came from, if that is known, and whether it may go back for others to take.
    queue: str | None
    may_move: bool

    @property
    def task_id(self) -> str:
        """The id of its task."""

    @property
    def task(self) -> str:
        """The name of its task."""


R = TypeVar("R", bound=Request)
