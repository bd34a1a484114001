"""What is fixed for every run: tasks with the limits that may cover them, queues, pools, bounds in seconds."""

from __future__ import annotations

from dataclasses import dataclass

#: Heartbeat and lease of the namespace.
INTERVAL, LEASE = 0.5, 3.0

#: After how long Redis as the broker delivers a message again that nobody has acknowledged.
VISIBILITY = 12.0

#: For how long a changed max may not have reached a worker yet: a notice, and the start of a task that was under way.
WINDOW = 1.0

#: The same where a fault kept notices away: reuse of permits ends two intervals after the last answered sync.
WINDOW_AFTER_FAULT = 2 * INTERVAL + 0.5

#: How long a startable task may wait while a slot is free for it.
STUCK = 8.0

#: How long after a fault of the broker its clients may take to reconnect (Celery waits 2, 4, 6 ... s between tries).
BROKER_BACK = 14.0

#: How long all may take to drain at the end, at most; and Redis to hold nothing more after that.
DRAIN, EMPTY = 90.0, LEASE + 2 * INTERVAL + 2.0

#: At the end: when nothing has started for so long, what the broker had to deliver again has come, or is lost.
QUIET = VISIBILITY + BROKER_BACK + 4.0

#: How long a warm shutdown may take before it counts as hung.
WARM = 40.0

#: Tasks that are under way at once, at most, for each worker; and how many are sent a second in all.
OUTSTANDING, PACE = 12, 30.0

QUEUES = ("q0", "q1", "q2")


@dataclass(frozen=True, slots=True)
class Kind:
    """One task of the app: which limits may cover it beside its queue's and ``app``, and how it is acknowledged."""

    name: str
    limits: tuple[str, ...] = ()
    late: bool = False
    requeues: bool = False
    retries: bool = False

    @property
    def task(self) -> str:
        """Its registered name."""
        return f"chaos.{self.name}"

    def covers(self, queue: str) -> tuple[str, ...]:
        """All limits that may cover it when it is sent to *queue*."""
        return ("app", f"queue:{queue}", f"task:{self.task}", *self.limits)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("plain"),
        Kind("alone"),
        Kind("pooled", ("pool:a",)),
        Kind("both", ("pool:a", "pool:b")),
        Kind("late", ("pool:b",), late=True),
        Kind("requeued", late=True, requeues=True),
        Kind("flaky", ("pool:b",), retries=True),
    )
}

#: Every limit that a run may configure or set.
LIMITS = (
    "app", *(f"queue:{queue}" for queue in QUEUES), "task:chaos.alone", "task:chaos.plain", "pool:a", "pool:b",
)  # fmt: skip
