"""The judge: folds the oracle's log, event by event, and says what broke a promise. It uses no product code.

Promise 1 is judged here: no task starts while as many as may run under one of its limits do. Only starts count: a
lowered max drains. Promise 2 is judged in ``waiting``, 3 in ``counted``, 7 at the end in ``fates``.
"""

from __future__ import annotations

import math
from collections import Counter, deque

from .counted import Counted
from .log import Event
from .maxima import Maxima, State
from .plan import BROKER_BACK, KINDS, LIMITS, QUEUES
from .records import LOSSES, RECOVERY, UNREAD, Life, Run, Task, Violation
from .schedule import BROKER, COORDINATION, SIDE
from .waiting import Waiting


class Checker:
    """Feed it the events in order; ``tick`` between them. Violations are in ``violations``."""

    def __init__(self, limits: dict[str, int], *, broker: str = "redis", extended: bool = True) -> None:
        self.extended, self.is_redis = extended, broker == "redis"
        names = {*LIMITS, *limits, *(name for kind in KINDS.values() for name in kind.covers(QUEUES[0]))}
        self.maxima = {name: Maxima(float(limits.get(name, math.inf))) for name in names}
        self._saved: dict[str, frozenset[State]] = {}
        self.lives: dict[str, Life] = {}
        self.tasks: dict[str, Task] = {}
        self.runs: dict[str, Run] = {}
        self.running: dict[str, set[str]] = {name: set() for name in names}
        self.full: dict[str, float] = dict.fromkeys(names, 0.0)
        self.peaks: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self.faults: Counter[str] = Counter()
        #: Faults over time: (begin, end, name, lives), for those who look for causes.
        self.history: dict[int, tuple[float, float, str, tuple[str, ...]]] = {}
        self.recent: deque[Event] = deque(maxlen=400)
        #: Starts, once for each limit that had a max: all; where no other max could hold; that took the last place.
        self.judged: Counter[str] = Counter()
        self.excused_starts = 0
        self.last_run = 0.0  #: when a task last started or ended
        #: Tasks that are to start.
        self.waiting: set[str] = set()
        #: Numbers of the faults that are under way, and until when those that were may still show.
        self.active: set[int] = set()
        self.quiet = 0.0
        self._calm_since: float | None = 0.0
        self._losses: list[tuple[float, set[str]]] = []
        self._steps: list[float] = []
        self.promise2, self.promise3 = Waiting(self), Counted(self)

    def feed(self, event: Event) -> None:
        """Take one event in."""
        self.recent.append(event)
        getattr(self, f"_on_{event.kind}")(event)

    def violate(self, promise: int, what: str, time: float, text: str) -> None:
        """Note a violation."""
        self.violations.append(Violation(promise, what, time, text))

    # -- Tasks -------------------------------------------------------------------------------------------

    def _on_sent(self, event: Event) -> None:
        self.tasks[event.id] = Task(
            event.id, event.time, event.task, event.queue, tuple(event.limits), event.late, event.excuse,
            ready=event.time + event.eta,
        )  # fmt: skip
        self.waiting.add(event.id)

    def _on_unsent(self, event: Event) -> None:
        self.tasks[event.id].excuse = "unsent"
        self.waiting.discard(event.id)

    def _on_got(self, event: Event) -> None:
        if event.id in self.tasks:
            self.tasks[event.id].got.append((event.time, event.w))

    def _on_start(self, event: Event) -> None:
        task, life = self.tasks[event.id], self.lives[event.w]
        self.last_run = event.time
        run = Run(event.id, event.n, event.w, event.pid, event.time, task.limits)
        self.runs[event.run] = run
        task.runs.append(run)
        self.waiting.discard(event.id)
        if life.dead <= event.time:  # told in the instant before it was killed
            run.ended = event.time
            run.killed = life.name
            return
        if self.extended:
            self._may_start(event, task, life)
        for limit in task.limits:
            self.running[limit].add(event.run)
            self.peaks[limit] = max(self.peaks[limit], len(self.running[limit]))
            self.note_full(limit, event.time)
        life.runs.add(event.run)
        if len(life.runs) >= life.slots:
            life.busy = event.time

    def _may_start(self, event: Event, task: Task, life: Life) -> None:
        over: dict[str, int] = {}
        for limit in task.limits:
            most = self.maxima[limit].most(event.time)
            lives = (self.lives[self.runs[run].life] for run in self.running[limit])
            count = sum(not life.is_excused(event.time, self._steps) for life in lives) + 1
            self._note_judged(limit, most, count, event.time)
            if count > most:
                over[limit] = count
        if not over:
            return
        if self._was_handed_before(event.time, life, over):
            self.excused_starts += 1
            return
        text = [
            f"{limit}: {count} of {self.maxima[limit].most(event.time):g} ("
            + ", ".join(f"{run} on {self.runs[run].life} since {self.runs[run].started:.3f}"
                        for run in sorted(self.running[limit])) + ")"
            for limit, count in over.items()
        ]  # fmt: skip
        self.violate(1, "overshoot", event.time, f"{task.name} {event.run} starts on {event.w}: {'; '.join(text)}")

    def _was_handed_before(self, time: float, life: Life, over: dict[str, int]) -> bool:
        """Whether a child had the task, and could not begin it. A stop, or a killed child, explains only so many."""
        if life.is_excused(time, self._steps) and not life.away and life.may_start > 0 and time - life.back <= 1.0:
            life.may_start -= 1
            return True
        # What a pool is handed is written to its children by the event loop, which may wait for a frozen broker before.
        for froze, went_on, name, _ in self.history.values() if life.pool == "prefork" else ():
            is_just_over = name == "broker-freeze" and went_on <= time <= went_on + 1.0
            if is_just_over and all(
                count <= self.maxima[limit].most_since(froze, time) for limit, count in over.items()
            ):
                return True
        # Killed while idle: what it is handed, it never reads, until its parent finds out and gives it to another.
        for killed in life.children_killed:
            if killed <= time <= killed + UNREAD and all(
                count <= self.maxima[limit].most_since(killed, time) for limit, count in over.items()
            ):
                life.children_killed.remove(killed)
                return True
        return False

    def _note_judged(self, limit: str, most: float, count: int, time: float) -> None:
        if most < math.inf:
            self.judged["under a max"] += 1
            self.judged["by one value"] += self.maxima[limit].least(time) == most
            self.judged["up to the max"] += count == most

    def _on_end(self, event: Event) -> None:
        run = self.runs[event.run]
        self.last_run = event.time
        if run.ended < math.inf:
            return
        task = self.tasks[run.id]
        self._end(event.run, event.time)
        if event.again:
            task.ready = event.time + 0.3
            task.got.clear()
            if all(run.attempt >= other.attempt for other in task.runs):
                self.waiting.add(task.id)
        else:
            task.done = min(task.done, event.time)

    def _end(self, name: str, time: float, killed: str = "") -> None:
        run = self.runs[name]
        for limit in run.limits:
            self.note_full(limit, time)
            self.running[limit].discard(name)
        life = self.lives[run.life]
        if len(life.runs) >= life.slots:
            life.busy = time
        life.runs.discard(name)
        run.ended, run.killed = time, killed

    def note_full(self, limit: str, time: float) -> None:
        """Remember that the limit has no place now, if so."""
        if len(self.running[limit]) >= self.maxima[limit].least(time):
            self.full[limit] = time

    # -- Workers -----------------------------------------------------------------------------------------

    def _on_worker(self, event: Event) -> None:
        if event.phase == "start":
            self.lives[event.w] = Life(event.w, event.slots, event.pool)
            return
        life = self.lives[event.w]
        if event.phase == "ready":
            life.ready = event.time
        elif event.phase == "stopping":
            life.ready = math.inf
        elif event.phase == "dead" and life.dead == math.inf:
            life.dead, life.ready = event.time, math.inf
            for name in list(life.runs):
                self._end(name, event.time, killed=life.name)
            self._survivor_died(event)

    def _on_child(self, event: Event) -> None:
        running = [name for name in self.lives[event.w].runs if self.runs[name].pid == event.pid]
        if not running:
            self.lives[event.w].children_killed.append(event.time)
        for name in running:
            self._end(name, event.time, killed=f"{event.w}/{event.pid}")

    # -- Limits ------------------------------------------------------------------------------------------

    def _on_change(self, event: Event) -> None:
        maxima = self.maxima[event.limit]
        self.note_full(event.limit, event.time)
        if event.phase == "begin":
            maxima.begin(event.value, event.time)
        elif event.phase == "done":
            maxima.done(event.value, event.time, self._calm_since)
        else:
            maxima.failed(event.value)
        self.note_full(event.limit, event.time)

    def _on_mark(self, event: Event) -> None:
        self._saved = {name: maxima.possible for name, maxima in self.maxima.items()}

    def _lose(self, event: Event, survivors: set[str]) -> None:
        for name, maxima in self.maxima.items():
            also: frozenset[State] = frozenset()
            if not survivors:
                also = frozenset({State()}) | self._saved.get(name, frozenset())
            maxima.data_lost(event.time, also)
        self._losses.append((event.time, survivors))

    def _survivor_died(self, event: Event) -> None:
        for time, survivors in self._losses:
            if event.w in survivors and event.time - time <= RECOVERY:
                survivors.discard(event.w)
                if not survivors:
                    self._lose(event, set())

    # -- Faults ------------------------------------------------------------------------------------------

    def _on_fault(self, event: Event) -> None:
        begins = event.phase == "begin"
        name, number = event.name, event.number
        if begins:
            self.faults[name] += 1
            self.history[number] = (event.time, math.inf, name, tuple(event.w))
        else:
            self.history[number] = (self.history[number][0], event.time, name, tuple(event.w))
        (self.active.add if begins else self.active.discard)(number)
        back = BROKER_BACK if name in BROKER else RECOVERY
        self.quiet = max(self.quiet, event.time + back)
        if name.startswith("stop") or name in SIDE:
            self._away(event, begins=begins, is_stop=name not in SIDE)
        if name in COORDINATION or name in SIDE or name.startswith("stop"):
            self._disturb(event)
        if begins and name == "clock-step":
            self._steps.append(event.time)
        if begins and name in LOSSES:
            self._lose(event, {one.name for one in self.lives.values() if one.ready < event.time and not one.away})

    def _away(self, event: Event, *, begins: bool, is_stop: bool) -> None:
        for name in event.w:
            life = self.lives[name]
            if begins:
                if not life.away and event.time - life.back > 1.0:
                    life.away_since = event.time
                life.away.add(event.number)
                if is_stop:
                    life.may_start = max(life.slots - len(life.runs), 0)
            elif event.number in life.away:
                life.away.discard(event.number)
                life.back = event.time

    def _disturb(self, event: Event) -> None:
        kinds = [self.history[n][2] for n in self.active]
        is_disturbed = any(k in COORDINATION or k in SIDE or k.startswith("stop") for k in kinds)
        if event.phase == "begin":
            self._calm_since = None
            for maxima in self.maxima.values():
                maxima.fault_begins(event.time)
        elif not is_disturbed:
            self._calm_since = event.time
            for maxima in self.maxima.values():
                maxima.fault_ends(event.time)

    def _on_calm(self, event: Event) -> None:
        """Nothing to be judged: it stands in the log for people."""

    _on_drain = _on_calm

    def _on_keys(self, event: Event) -> None:
        self.promise3.see(event)

    # -- For the run -------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Look, between events, for what is stuck."""
        self.promise2.tick(now)

    def unfinished(self) -> list[Task]:
        """Tasks that are still to start, or run."""
        return [task for task in self.tasks.values() if task.done == math.inf and not task.excuse and _may_come(task)]


def _may_come(task: Task) -> bool:
    """Whether the task is still to be run; not so where a kill took it, acknowledged."""
    last = task.runs[-1] if task.runs else None
    if last is None or not last.killed:
        return True
    return task.late and ("/" not in last.killed or task.name == "chaos.requeued")
