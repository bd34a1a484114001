"""What is said of one task: where it is, and why it isn't running."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from celery_gconc.limits.claims import Limits
from celery_gconc.protocol.status import Holder


class TaskState(str, Enum):
    """Where a task can be. Each is a string, so that it is one in JSON, too."""

    #: In a worker.
    RUNNING = "running"
    WAITING = "waiting"
    PARKED = "parked"
    WAITING_FOR_SLOT = "waiting for a slot"
    SCHEDULED = "scheduled"
    RATE_LIMITED = "rate limited"
    #: At the broker; and taken from there by a worker that doesn't answer.
    QUEUED = "queued"
    TAKEN = "taken"
    #: At its end.
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVOKED = "revoked"
    #: Between two of these, or nowhere.
    RETRYING = "retrying"
    OTHER = "other"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


#: Answers that may only seem so while a task moves on.
UNSURE = frozenset({TaskState.TAKEN, TaskState.RETRYING, TaskState.OTHER, TaskState.UNKNOWN})

#: Where a revoked task stays until its worker comes to it.
NOT_STARTED = frozenset(
    {
        TaskState.WAITING,
        TaskState.PARKED,
        TaskState.WAITING_FOR_SLOT,
        TaskState.SCHEDULED,
        TaskState.RATE_LIMITED,
    }
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a task is and why. ``answer`` says it in words; times in seconds."""

    task_id: str
    state: TaskState
    answer: str
    task: str | None = None
    #: The worker that has it.
    node: str | None = None
    #: The limits that cover it, as far as that is known.
    limits: Limits = ()
    #: The limit that it waits for, its position in that line, and who holds that limit.
    line: str | None = None
    position: int | None = None
    holders: tuple[Holder, ...] = ()
    #: For how long it has waited, or run.
    seconds: float | None = None
    #: About how much longer it waits, from the durations of the last minutes; None where that isn't known.
    expected_wait: float | None = None
    #: The queue that holds its message, its position there, and how many messages that queue holds.
    queue: str | None = None
    queue_position: int | None = None
    queue_length: int | None = None
    #: What the result backend says.
    result: str | None = None
    details: tuple[str, ...] = ()
