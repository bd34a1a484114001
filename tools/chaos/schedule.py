"""seed -> what happens when: pure, so that the same seed gives the same schedule."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from .plan import LEASE, LIMITS

#: Faults by what they happen to, with their least and greatest duration in seconds; 0: over at once.
COORDINATION = {
    "flushall": (0, 0), "kill-empty": (0.2, 3), "kill-snapshot": (0.2, 3), "freeze": (0.5, 5), "pause": (0.5, 5),
    "cut": (0.3, 5), "delay": (2, 6), "silence": (1, 5), "script-flush": (0, 0), "clock-step": (0, 0),
    "client-kill": (0, 0), "reload": (0, 0),
}  # fmt: skip
BROKER = {"broker-cut": (0.2, 2), "broker-freeze": (0.5, 3)}
WORKER = {
    "kill": (0.2, 3), "kill-child": (0, 0), "stop-short": (0.3, LEASE - 1.5), "stop-long": (LEASE + 1, LEASE + 4),
    "warm": (0, 0),
}  # fmt: skip
SIDE = {"partition": (1, LEASE + 3)}
FAULTS = {**COORDINATION, **BROKER, **WORKER, **SIDE}

#: A cycle: so many seconds with faults, then so many without.
ROUGH, CALM = 22.0, 12.0

#: Mean seconds between two faults, and between two changes of a limit, in the rough part.
FAULT_GAP, CHANGE_GAP = 1.3, 1.2

POOLS = ("prefork", "threads", "gevent", "solo", "prefork")


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happens *at* seconds after the load began and lasts for *seconds*."""

    at: float
    what: str  #: a fault, ``change``, ``snapshot``, ``calm``
    target: str = ""  #: a worker's name, a side, a limit, a kind of client
    seconds: float = 0.0
    value: str = ""  #: what a limit is changed to, or by how much a clock steps

    def __str__(self) -> str:
        return f"{self.at:7.2f} {self.what:14} {self.target:18} {self.value:12} {self.seconds:.1f}"


@dataclass(frozen=True, slots=True)
class Member:
    """A worker of the run."""

    name: str
    pool: str
    slots: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that a seed decides."""

    seed: int
    seconds: float
    broker: str
    members: tuple[Member, ...]
    limits: dict[str, int]
    steps: tuple[Step, ...]

    def as_dict(self) -> dict[str, object]:
        """For the result."""
        return asdict(self)


def make(seed: int, seconds: float, *, workers: int = 6, broker: str = "", rough: float = ROUGH,
         faults: tuple[str, ...] = ()) -> Schedule:  # fmt: skip
    """The schedule of *seed*. *broker* and *faults* narrow it; what is left stays as seeded."""
    chance = random.Random(f"chaos {seed}")
    drawn = chance.choice(("redis", "redis", "rabbitmq"))
    members = tuple(_members(chance, workers))
    limits = {
        "app": chance.randint(5, 9), "queue:q0": chance.randint(1, 3), "task:chaos.alone": chance.randint(1, 2),
        "pool:a": chance.randint(2, 4), "pool:b": chance.randint(2, 4),
    }  # fmt: skip
    steps: list[Step] = []
    begins = 2.0
    while begins < seconds:
        ends = min(begins + rough, seconds)
        steps += _faults(chance, begins, ends, members, faults or tuple(FAULTS))
        steps += _changes(chance, begins, ends)
        steps.append(Step(begins + chance.uniform(0, 4), "snapshot"))
        if ends + CALM > seconds:
            break
        steps.append(Step(ends, "calm", seconds=CALM))
        begins = ends + CALM
    steps = [step for step in steps if step.at < seconds]
    return Schedule(seed, seconds, broker or drawn, members, limits, tuple(sorted(steps, key=lambda step: step.at)))


def _members(chance: random.Random, count: int) -> Iterator[Member]:
    first = ["prefork", "prefork", chance.choice(("threads", "gevent"))]
    pools = first + [chance.choice(POOLS) for _ in range(count - len(first))]
    for number, pool in enumerate(pools[:count]):
        yield Member(f"w{number}", pool, 1 if pool == "solo" else chance.randint(1, 3))


def _faults(chance: random.Random, begins: float, ends: float, members: tuple[Member, ...],
            known: tuple[str, ...]) -> Iterator[Step]:  # fmt: skip
    busy: dict[str, float] = {}
    moment = begins + chance.uniform(0, 1)
    while moment < ends - 1:
        what = chance.choice(_weighted())
        least, most = FAULTS[what]
        lasts = round(min(chance.uniform(least, most), ends - moment), 2)
        member = chance.choice(members)
        target, value, busies = "", "", ["coordination"]
        if what in WORKER:
            if what == "kill-child":
                member = chance.choice([one for one in members if one.pool == "prefork"])
            target, busies = member.name, [member.name]
        elif what in BROKER:
            busies = ["broker"]
        elif what in SIDE:
            target = "A"
        elif what == "clock-step":
            value = str(chance.choice((-3600000, 3600000)))
        elif what == "client-kill":
            target = chance.choice(("normal", "pubsub", "both"))
        # A stop that is shorter than the lease must not be made one that isn't, and the other way about.
        fits = lasts >= min(least, most) and all(busy.get(one, 0.0) <= moment for one in busies)
        if fits and what in known:
            for one in busies:
                busy[one] = moment + lasts + (4.0 if what in ("kill", "warm") else 0.5)
            yield Step(round(moment, 2), what, target, lasts, value)
        moment += chance.expovariate(1 / FAULT_GAP) + 0.1


def _weighted() -> list[str]:
    return [*COORDINATION, *SIDE, *BROKER, *list(WORKER) * 2, "kill"]


def _changes(chance: random.Random, begins: float, ends: float) -> Iterator[Step]:
    moment = begins + chance.uniform(0, 1)
    while moment < ends - 3:
        limit = chance.choice(LIMITS)
        how = chance.choices(("set", "unlimited", "reset", "zero", "pause"), (9, 2, 3, 1, 1))[0]
        value = str(chance.randint(3, 8) if limit == "app" else chance.randint(1, 4)) if how == "set" else how
        yield Step(round(moment, 2), "change", limit, value="0" if how == "zero" else value)
        if how in ("zero", "pause"):  # not for long: it holds up all that it covers
            yield Step(round(moment + chance.uniform(0.5, 3), 2), "change", limit,
                       value="resume" if how == "pause" else "reset")  # fmt: skip
        moment += chance.expovariate(1 / CHANGE_GAP) + 0.05
