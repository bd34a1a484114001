"""What this session knows from Redis, and what that lets it do without asking again.

    Redis -> Exchange -> Trust;  Ledger and Holdings ask it before a start, and before units pass to the next task

Units start a task only while the lease surely lives and no newer limit table is known of. From task to task they pass
only while Redis could not give them to somebody who came earlier.

Thread: any, under the ledger's lock; ``is_offered`` and ``lease_ends`` are read without it.
"""

from __future__ import annotations

from celery_gconc.clock import now
from celery_gconc.limits.claims import Claims
from celery_gconc.worker.ledger.permit import STEPS


class Trust:
    """Owns what Redis knows and has said. Exchange writes it, except where a field says otherwise."""

    def __init__(self, margin: float) -> None:
        #: For how many seconds before the lease's end nothing is started any more.
        self._margin = margin
        #: When the lease ends, and until when units may pass from task to task, by :func:`now`.
        self.lease_ends = 0.0
        self.reuse_ends = 0.0
        #: The number of the last grant that arrived.
        self.last_grant = 0
        #: The last fencing number that Redis gave, and when something was granted last, by Redis' clock.
        self.fence = 0
        self.granted_at = 0.0
        #: The next task's fencing number, which the ledger counts up: above all that this session, and whoever was
        #: granted its units before, has given; and the first that isn't ours to give.
        self.next_number, self._numbers_end = 0, STEPS
        #: Limits that others wait for, and how many of our requests stand at the head of the line: for those units
        #: may be used again, for they would come back to us. Asks counts down.
        self.contended: dict[str, int] = {}
        #: Limits of which others would use more, and how many units this session keeps of each as its tasks end.
        self.shares: dict[str, int] = {}
        #: Redis would grant something if there were room.
        self.is_offered = False
        #: The room that Redis believes this session to have.
        self.believed_room = 0
        #: The version of the limit table that Redis last spoke of; nothing is started by an older one.
        self.table_version = -1
        #: The last sync was answered.
        self.is_answered = False
        #: The worker stops: units go back as soon as their tasks end. The ledger writes it, once.
        self.is_stopping = False

    def may_start(self, version: int, moment: float) -> bool:
        """Whether a task that has units may start at this *moment*, by the limit table of this *version*."""
        return (
            moment < self.lease_ends - self._margin
            and self.table_version <= version
            and self.next_number < self._numbers_end
        )

    def may_start_spare(self, version: int, moment: float) -> bool:
        """Both, at a *moment*: whether a task may start with units that pass to it."""
        return (
            moment < self.reuse_ends
            and moment < self.lease_ends - self._margin
            and self.table_version <= version
            and self.next_number < self._numbers_end
            and not self.is_stopping
        )

    def may_reuse(self, moment: float | None = None) -> bool:
        """Whether units may pass from one task of this session to the next without Redis; now, or at a *moment*."""
        if self.is_stopping or self.next_number >= self._numbers_end:
            return False
        return (now() if moment is None else moment) < self.reuse_ends

    def is_contended(self, claims: Claims) -> bool:
        """Whether others wait for any of the limits."""
        contended = self.contended
        return bool(contended) and any(limit in contended for limit, _ in claims)

    def lease_left(self) -> float:
        """For how many seconds the lease still lasts, as far as this session knows."""
        return self.lease_ends - now()

    @property
    def has_numbers(self) -> bool:
        """Whether there are fencing numbers for more tasks than start from one heartbeat to the next."""
        return self._numbers_end - self.next_number > STEPS - STEPS // 8

    # -- Fencing -----------------------------------------------------------------------------------------

    def take_fence(self, fence: int, at: float | None = None) -> None:
        """Redis gave a fencing number, with a grant *at* that time, or without."""
        if fence > self.fence:
            self.fence, self.next_number, self._numbers_end = fence, fence * STEPS, (fence + 1) * STEPS
        if at is not None:
            self.granted_at = max(self.granted_at, at)
