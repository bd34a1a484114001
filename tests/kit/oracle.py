"""What ran, as the tasks themselves told it to a Redis that neither Celery nor celery-gconc knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import redis


@dataclass(frozen=True)
class Event:
    """What a task told the oracle: its time in seconds by the oracle's Redis."""

    time: float
    kind: str  # s start, e end, t still running
    number: int
    name: str
    pid: int


@dataclass(frozen=True)
class Fence:
    """What a task told of its permit: its number, limits, session and time of grant; and its own headers."""

    task: int
    permit: tuple[int, list[str], str, float] | None
    headers: dict[str, object] | None


class Oracle:
    """Reads what the tasks told a Redis of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url)

    def events(self) -> list[Event]:
        found = []
        for line in self.client.lrange("events", 0, -1):
            moment, kind, number, name, pid = json.loads(line)
            found.append(Event(moment / 1e6, kind, int(number), name, int(pid)))
        return sorted(found, key=lambda event: event.time)

    def count(self, kind: str, name: str | None = None) -> int:
        return sum(1 for event in self.events() if event.kind == kind and name in (None, event.name))

    def starts(self, name: str | None = None) -> list[int]:
        """The numbers of the tasks that were started, in that order."""
        return [event.number for event in self.events() if event.kind == "s" and name in (None, event.name)]

    def delivery_counts(self) -> dict[int, int]:
        """What the ``delivery`` tasks said: how often the broker had delivered each before."""
        return {int(number): int(count) for number, count in self.client.hgetall("delivery counts").items()}

    def fences(self) -> list[Fence]:
        """What the ``fenced`` tasks said of their permits, in that order."""
        return [Fence(*json.loads(line)) for line in self.client.lrange("fences", 0, -1)]

    def let_go(self) -> None:
        """Have the ``held`` tasks end, those that run and those to come."""
        self.client.set("let go", 1)

    def now(self) -> float:
        seconds, micros = self.client.time()
        return seconds + micros / 1e6

    def peak(
        self,
        *names: str,
        lost: frozenset[int] = frozenset(),
        since: float = 0.0,
        until: float = 1e12,
        weights: Mapping[int, int] | None = None,
    ) -> int:
        """Most tasks of these names that ran at one instant. Those whose pid is in *lost* ended without a word.

        With *weights*, by number: the most that they weighed together.
        """
        running = peak = 0
        events = [e for e in self.events() if not names or e.name in names]
        ended = {(e.number, e.pid) for e in events if e.kind == "e"}
        for event in events:
            if event.kind == "s" and ((event.number, event.pid) in ended or event.pid not in lost):
                running += 1 if weights is None else weights[event.number]
                if since <= event.time <= until:
                    peak = max(peak, running)
            elif event.kind == "e":
                running -= 1 if weights is None else weights[event.number]
        return peak

    def pace(self, *names: str, skip: int = 3) -> float:
        """Tasks that ended a second, without the first and last few."""
        ends = [e.time for e in self.events() if e.kind == "e" and (not names or e.name in names)]
        ends = ends[skip : len(ends) - skip]
        return (len(ends) - 1) / (ends[-1] - ends[0])
