"""A permit, as the worker that holds it keeps it, and what its task can learn of it: :func:`current_permit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celery._state import get_current_worker_task

from .limits import Limits

#: Where a permit travels to the task: a key of its request's ``delivery_info``. The worker makes that mapping anew for
#: each delivery, so no sender can forge it; and it is none of the headers that a retry copies (celery 5.4-5.7).
PERMIT_KEY = "global_concurrency"

#: How many tasks may use one grant, one after another: each has a fencing number of its own, so many above the grant's.
STEPS = 1 << 16


@dataclass(slots=True, eq=False)
class Permit:
    """The right of one task to run under all of ``limits``; named by session and ``number``."""

    number: int
    limits: Limits
    #: Granted and not used yet: it may be used even where others wait, for that is what it was granted for.
    new: bool = False
    #: Since when it has no task, by :func:`~celery_gconc.clock.now`.
    idle_since: float = 0.0
    #: The fencing number of its grant, 0 if there was none: it covers a task that ran before its limit began.
    fence: int = 0
    #: How many tasks have used it before.
    step: int = 0
    #: When it was granted, by Redis' clock: Unix time in seconds.
    granted_at: float = 0.0

    @property
    def fencing_number(self) -> int:
        """A number above that of every permit that was granted before this one, by Redis or in this session."""
        return self.fence * STEPS + self.step

    def told(self, session: str) -> dict[str, Any]:
        """As it travels to the task, which gets it as a :class:`TaskPermit`."""
        return {
            "limits": list(self.limits),
            "number": self.fencing_number,
            "session": session,
            "granted_at": self.granted_at,
        }

    @property
    def may_pass_on(self) -> bool:
        """Whether it has a fencing number for one more task."""
        return self.fence > 0 and self.step + 1 < STEPS


@dataclass(frozen=True, slots=True)
class TaskPermit:
    """The permit of a running task.

    ``number`` is a fencing number (M. Kleppmann, "How to do distributed locking", 2016): for a limit of 1, each task
    that is started under it has a greater one than all those before it, whatever was killed, stalled or lost in
    between. Let the store that the task writes to refuse a number below the greatest it has seen. Under a limit of
    more than 1 it is unique, and tasks that ran one after another under the same permit have growing ones.
    It fits a signed 64-bit integer. It may fall back in one case: Redis loses all data while its clock is set back.
    """

    #: The limits that it covers.
    limits: Limits
    number: int
    #: The session (one worker's life) that was granted it.
    session: str
    #: When Redis granted it to the session, by Redis' clock: Unix time in seconds. Tasks that reuse it share this.
    granted_at: float


def current_permit() -> TaskPermit | None:
    """The permit of the task that runs in this thread, or greenlet.

    None outside of a worker's task (eager mode, direct calls), where no limit covers the task, where it was started
    before its limit began, or while Redis was away (``global_concurrency_on_redis_error="run"``).
    """
    task = get_current_worker_task()
    if task is None:
        return None
    told: Any = (task.request.delivery_info or {}).get(PERMIT_KEY)
    if told is None:
        return None
    return TaskPermit(tuple(told["limits"]), told["number"], told["session"], told["granted_at"])
