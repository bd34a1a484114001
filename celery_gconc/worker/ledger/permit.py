"""A permit, as the worker that holds it keeps it.

Thread: any, under the ledger's lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celery_gconc.limits.claims import Limits

#: How many tasks may use one grant, one after another. Each has a fencing number of its own, and Redis keeps as many
#: numbers free between one grant's and the next.
STEPS = 1 << 16


@dataclass(slots=True, eq=False)
class Permit:
    """The right of one task to run under all of ``limits``; named by session and ``number``."""

    number: int
    limits: Limits
    #: Granted and not used yet: it may be used even where others wait, for that is what it was granted for.
    is_new: bool = False
    #: Since when it has no task, by :func:`~celery_gconc.clock.now`.
    idle_since: float = 0.0
    #: The fencing number of its grant; 0 where there was none, and it covers a task that ran before its limit began.
    fence: int = 0
    #: Its task came under other limits while it ran: Redis has not granted it for these, and it ends with that task.
    is_restated: bool = False
    #: How many tasks have used it before.
    step: int = 0
    #: When it was granted, by Redis' clock: Unix time in seconds.
    granted_at: float = 0.0

    @property
    def fencing_number(self) -> int:
        """A number above that of every permit that was granted before this one, by Redis or in this session."""
        return self.fence * STEPS + self.step

    @property
    def may_pass_on(self) -> bool:
        """Whether it was granted for just its limits, and has a fencing number for one more task."""
        return self.fence > 0 and not self.is_restated and self.step + 1 < STEPS

    def for_task(self, session: str) -> dict[str, Any]:
        """As it travels to the task, which gets it as a :class:`TaskPermit`."""
        return {
            "limits": list(self.limits),
            "number": self.fencing_number,
            "session": session,
            "granted_at": self.granted_at,
        }
