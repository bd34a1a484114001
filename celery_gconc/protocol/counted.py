"""What a session has counted, as it tells Redis with its heartbeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_gconc.protocol.messages import milliseconds, text_of

#: The upper bounds of the ranges in which waits and holds are counted, in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, float("inf"))

#: Of how many limits one call tells: each costs Redis some 60 us.
RECORDED = 12


@dataclass(frozen=True, slots=True)
class LimitCounts:
    """What a session counted under a limit: tasks that got permits, and their waits and holds by :data:`BUCKETS`."""

    grants: int
    wait: tuple[int, ...]
    waited: float
    hold: tuple[int, ...]
    held: float

    def encode(self) -> dict[str, Any]:
        """As the scripts take it."""
        return {
            "grants": self.grants,
            "wait": list(self.wait),
            "waited": milliseconds(self.waited),
            "hold": list(self.hold),
            "held": milliseconds(self.held),
        }


@dataclass(frozen=True, slots=True)
class Lately:
    """How many tasks have ended under a limit, and of some: seconds since then, seconds waited, seconds held."""

    ended: int
    samples: tuple[tuple[float, float, float], ...]

    def encode(self) -> dict[str, Any]:
        """As the scripts take it."""
        return {"ended": self.ended, "samples": [[milliseconds(span) for span in sample] for sample in self.samples]}


@dataclass(frozen=True, slots=True)
class Stall:
    """A worker gives itself no room, though slots of it are free."""

    #: What keeps it from starting tasks, as a sentence goes on after "because".
    why: str
    slots: int
    #: For how many seconds it has been so.
    seconds: float

    def encode(self) -> dict[str, Any]:
        """As the scripts take it."""
        return {"why": text_of(self.why), "slots": self.slots, "span": milliseconds(self.seconds)}


@dataclass(frozen=True, slots=True)
class Record:
    """What a session counted since it last told, of up to :data:`RECORDED` limits; see ``lua/session/record.lua``."""

    limits: Mapping[str, LimitCounts]
    recent: Mapping[str, Lately]
    lease_losses: int
    redis_errors: int
    without_redis: int
    #: How many requests the worker holds behind those in line, where that is another number than Redis was told.
    parked: Mapping[str, int]
    #: How many messages wait at the broker, of queues that it reads message by message.
    at_broker: Mapping[str, int] = field(default_factory=dict)
    #: Whether it starts nothing though it could.
    stall: Stall | None = None

    def encode(self) -> dict[str, Any]:
        """As the script takes it."""
        return {
            "limits": {limit: counts.encode() for limit, counts in self.limits.items()},
            "recent": {limit: lately.encode() for limit, lately in self.recent.items()},
            "counts": {
                "lease_losses": self.lease_losses,
                "redis_errors": self.redis_errors,
                "without_redis": self.without_redis,
            },
            "parked": dict(self.parked),
            "at_broker": dict(self.at_broker),
            "stall": self.stall.encode() if self.stall is not None else None,
        }
