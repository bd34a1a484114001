"""One request on its way through the worker: what it claims, where it stands, when it came and started.

Thread: the gate's writes it until it is dispatched; after that whoever hears of its end.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from celery_gconc.clock import now
from celery_gconc.limits.claims import Claims, Limits, limits_of
from celery_gconc.worker.ledger.permit import Permit

#: The attribute of a request that says which run it is, while its callbacks are ours (hooks.py); else None.
RUN_KEY = "gconc_run"

#: When the broker delivered it, where that was noted.
_DELIVERED_KEY = "gconc_delivered_at"


class RunState(Enum):
    """Where a request stands. It goes from one to the next, and may leave out any but the last."""

    #: It waits here, for a permit or for a slot.
    PARKED = "parked"
    #: It has a slot, and a permit where it needs one, and is on its way to the pool.
    GRANTED = "granted"
    #: A child of the pool has begun it. (Of other pools nobody asks.)
    STARTED = "started"
    #: It runs no more, or was let go: nothing here is its any more.
    ENDED = "ended"


#: Each of them at hand: of an enum it costs more (Python 3.11), and each request asks several times.
PARKED, GRANTED, STARTED, ENDED = RunState


class Run:
    """One request. Its fields say who writes them; all may read."""

    # (What most requests never change stands here, and costs nothing to make.)

    #: Its permit. The ledger's, under its lock.
    permit: Permit | None = None
    #: Where it stands. The dispatcher's thread writes GRANTED; callbacks of the pool, or the link's thread, the rest.
    #: None of them makes ENDED undone.
    state = PARKED
    #: When it reached the gate, by :func:`now`. The gate's.
    arrived = 0.0
    #: When it was started with a permit, by :func:`now` (0.0: it wasn't). The ledger's, under its lock.
    started_at = 0.0
    #: Which limits covered it then: they may be others by the time at which it ends. Written where it is dispatched.
    limits_at_start: Limits = ()
    #: Whether it went to the pool without a permit though a limit covers it. Written where it is dispatched.
    is_unlimited = False
    #: Whether it was seen to wait for a permit while a slot was free. Written where it is parked, and unparked.
    has_waited = False
    #: Whether its message may go back to its queue for other workers to take. The gate's.
    may_move = False
    #: When the broker last heard that its message is held, by :func:`now`. The gate's.
    kept = 0.0
    #: What the pool gave for it, while it runs: it leads back here, so it is let go at the end.
    job: Any = None

    #: What it claims. The ledger's, under its lock.
    claims: Claims = ()

    def __init__(self, request: Any, candidates: Claims, queue: str | None) -> None:
        #: Celery's own.
        self.request = request
        #: What it would claim if each limit had a max, and the queue that its message came from, where that is known.
        self.candidates = candidates
        self.queue = queue

    @classmethod
    def of(cls, request: Any) -> Run | None:
        """The run that a request is, while its callbacks are ours."""
        run = getattr(request, RUN_KEY, None)
        return run if isinstance(run, cls) else None

    @property
    def limits(self) -> Limits:
        """The limits that cover it."""
        return limits_of(self.claims)

    def could_claim(self, limit: str) -> bool:
        """Whether it would claim something of a limit if that had a max."""
        return any(claim.limit == limit for claim in self.candidates)

    @property
    def task_id(self) -> str:
        """The id of the task."""
        return str(self.request.id)

    @property
    def task(self) -> str:
        """The registered name of the task."""
        return str(self.request.task.name)

    @property
    def message_id(self) -> tuple[str, int]:
        """What tells its message from others, however often it is delivered: a retry has the id of its task."""
        return self.task_id, int(self.request.request_dict.get("retries") or 0)

    @property
    def is_revoked(self) -> bool:
        """Whether it is not to be run any more. Celery acknowledges and announces it on this call."""
        return bool(self.request.revoked())

    @property
    def delivered_at(self) -> float:
        """When the broker delivered it, where that was noted; else when it arrived."""
        return float(self.request.__dict__.get(_DELIVERED_KEY, self.arrived))

    def purge(self) -> None:
        """It is not to be run: acknowledged, and announced as revoked (celery 5.4-5.7: as ``revoked()`` does it)."""
        self.request._announce_revoked("purged", False, None, False)

    def let_go(self) -> None:
        """It is over: the request's callbacks are its own again, and no cycle of references is left behind."""
        self.state = ENDED
        self.request.gconc_run = None
        self.job = None


def note_delivery(request: Any, **kwargs: Any) -> None:
    """Remember when the broker delivered a request: before it comes to the gate, it may wait (ETA, rate limit).

    A receiver of Celery's signal ``task_received``.
    """
    request.__dict__[_DELIVERED_KEY] = now()
