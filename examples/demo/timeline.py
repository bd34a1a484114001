"""What the witness's events mean: who ran when, whether a limit was ever exceeded, and how well it was used.

The check is exact. At each start, the tasks that run, this one among them, must be no more than the limit in force:
lowering a limit ends no task, it only starts no other. While a change is under way (from the moment the command is
given to the moment it returns) either value may hold, so the larger one is in force. A task that dies with its worker
ends at the kill.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .witness import Event


@dataclass(frozen=True, slots=True)
class Excess:
    """A task that started above the limit. ``at`` is in seconds since the begin."""

    at: float
    worker: str
    running: int
    limit: int

    def __str__(self) -> str:
        return f"{self.running} tasks ran under a limit of {self.limit} at {self.at:.3f} s (started on {self.worker})"


@dataclass(slots=True)
class Run:
    """One task's run. ``row`` is the lowest that was free at its start, from 0."""

    task: str
    worker: str
    began: float
    row: int
    ended: float | None = None
    killed: bool = False


@dataclass(slots=True)
class Phase:
    """A stretch of time under one limit. Times in seconds since the begin."""

    name: str
    limit: int
    began: float
    ended: float = 0.0
    #: Most tasks that ran at once when a task started.
    peak: int = 0
    #: Time that tasks ran, up to the limit, as a share of what the limit allows.
    utilisation: float = 0.0


@dataclass(slots=True)
class Timeline:
    """Grows event by event; ``phases`` are complete once it has heard the stop."""

    limit: int
    zero: float = 0.0
    #: Seconds since the begin, of the last event.
    now: float = 0.0
    runs: list[Run] = field(default_factory=list)
    running: dict[str, Run] = field(default_factory=dict)
    phases: list[Phase] = field(default_factory=list)
    excesses: list[Excess] = field(default_factory=list)
    killed: str = ""
    killed_at: float | None = None
    recovered_at: float | None = None
    stopped: bool = False
    #: The limit that the check goes by, and the phase that peaks are counted to.
    _in_force: int = 0
    _phase: Phase | None = None
    _coming: Phase | None = None

    @classmethod
    def of(cls, limit: int, events: Iterable[Event]) -> Timeline:
        """The timeline of *events* under a first *limit*."""
        timeline = cls(limit)
        for event in events:
            timeline.hear(event)
        return timeline

    @property
    def begun(self) -> bool:
        """Whether it has heard the begin."""
        return self._phase is not None

    @property
    def recovery(self) -> float | None:
        """Seconds from the kill until as many tasks as the limit ran again."""
        if self.killed_at is None or self.recovered_at is None:
            return None
        return self.recovered_at - self.killed_at

    @property
    def limit_words(self) -> str:
        """The limit, or both values while a change is under way."""
        if self._coming is None or self._coming.limit == self.limit:
            return str(self.limit)
        return f"{self.limit} -> {self._coming.limit}"

    def by_worker(self) -> Counter[str]:
        """How many tasks each worker runs now."""
        return Counter(run.worker for run in self.running.values())

    def hear(self, event: Event) -> None:
        """Take in the next event."""
        if event.kind != "begin" and not self.begun:
            raise ValueError(f"a timeline begins with a begin, not with {event}")
        if self.stopped:
            return
        self.now = event.at - self.zero
        getattr(self, f"_hear_{event.kind}")(event)

    def _hear_begin(self, event: Event) -> None:
        self.zero, self.now, self._in_force = event.at, 0.0, self.limit
        self._phase = Phase(f"limit {self.limit}", self.limit, 0.0)
        self.phases.append(self._phase)

    def _hear_start(self, event: Event) -> None:
        assert self._phase is not None
        if event.worker == self.killed:
            return  # said by a process that was already dead when Redis heard it
        taken = {run.row for run in self.running.values()}
        row = next(row for row in range(len(taken) + 1) if row not in taken)
        run = Run(event.task, event.worker, self.now, row)
        self.runs.append(run)
        self.running[event.task] = run
        count = len(self.running)
        self._phase.peak = max(self._phase.peak, count)
        if count > self._in_force:
            self.excesses.append(Excess(self.now, event.worker, count, self._in_force))
        if self.killed_at is not None and self.recovered_at is None and count >= self.limit:
            self.recovered_at = self.now

    def _hear_end(self, event: Event) -> None:
        run = self.running.pop(event.task, None)
        if run is not None:
            run.ended = self.now

    def _hear_announce(self, event: Event) -> None:
        word = "raised" if event.limit > self.limit else "lowered"
        self._coming = Phase(f"{word} to {event.limit}", event.limit, self.now)
        if event.limit > self.limit:
            self._phase, self._in_force = self._coming, event.limit

    def _hear_change(self, event: Event) -> None:
        assert self._coming is not None
        self._coming.began = min(max(event.effective - self.zero, self._coming.began), self.now)
        self._phase, self._in_force, self.limit = self._coming, event.limit, event.limit
        self.phases.append(self._coming)

    def _hear_kill(self, event: Event) -> None:
        self.killed, self.killed_at = event.worker, self.now
        for run in [run for run in self.running.values() if run.worker == event.worker]:
            del self.running[run.task]
            run.ended, run.killed = self.now, True
        self._phase = Phase(f"{event.worker} killed", self.limit, self.now)
        self.phases.append(self._phase)

    def _hear_stop(self, _event: Event) -> None:
        self.stopped = True
        for run in self.running.values():
            run.ended = self.now
        ends = [phase.began for phase in self.phases[1:]] + [self.now]
        for phase, end in zip(self.phases, ends, strict=True):
            phase.ended = end
            length = phase.ended - phase.began
            used = _used(self.runs, phase)
            phase.utilisation = used / (phase.limit * length) if phase.limit and length else 0.0


def _used(runs: Iterable[Run], phase: Phase) -> float:
    """Seconds that tasks ran in a phase; those above its limit (which drain) don't count."""
    steps: list[tuple[float, int]] = []
    for run in runs:
        began, ended = max(run.began, phase.began), min(run.ended or phase.ended, phase.ended)
        if began < ended:
            steps += [(began, 1), (ended, -1)]
    used, count, last = 0.0, 0, phase.began
    for at, step in sorted(steps):
        used += min(count, phase.limit) * (at - last)
        count, last = count + step, at
    return used
