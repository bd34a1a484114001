"""One run: start the world, carry out the schedule, feed the checker all along, drain, judge."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import redis

from tests.kit.keys import key
from tests.kit.servers import ROOT, wait_until

from .checker import Checker
from .fates import fates
from .faults import Faults
from .load import Load, Operator
from .log import Event
from .plan import DRAIN, EMPTY, LIMITS, QUIET, VISIBILITY
from .schedule import Schedule
from .world import World

#: How often, in seconds, the log is read and Redis' keys are counted; how often a line of progress is printed.
LOOK, PROGRESS = 0.25, 10.0

#: What must be gone at the end, with how it is counted.
_LEFT = {"holders": "zcard", "units": "hlen", "held": "hlen", "waiters": "zcard", "reserved": "zcard", "roll": "zcard",
         "wants": "hlen", "todo": "zcard", "contended": "hlen", "settling": "zcard"}  # fmt: skip


class ChaosRun:
    """Carries out one schedule; :meth:`carry_out` returns the result as a JSON object."""

    def __init__(self, schedule: Schedule, folder: Path, *, extended: bool, broken: str, say: Callable[[str], None],
                 to_the_end: bool = False) -> None:  # fmt: skip
        self.schedule, self.folder, self.extended = schedule, folder, extended
        self._broken, self._say, self._to_the_end = broken, say, to_the_end
        self.checker = Checker(schedule.limits, broker=schedule.broker, extended=extended)
        self.events: list[Event] = []

    def carry_out(self) -> dict[str, Any]:
        """Run it."""
        without = self.schedule.members[0].name if self._broken == "worker" else ""
        self.world = World(self.schedule, self.folder, extended=self.extended, without=without)
        try:
            return self._carry_out()
        finally:
            self.world.close()
            with (self.folder / "events.jsonl").open("w") as out:
                for event in self.events:
                    out.write(json.dumps([event.time, event.kind, event.data]) + "\n")

    def _carry_out(self) -> dict[str, Any]:
        world = self.world
        self._counter = redis.Redis(port=world.coordination.port, socket_timeout=0.3)
        for worker in world.workers.values():
            worker.start()
        wait_until(lambda: all(worker.is_ready for worker in world.workers.values()), 90, "all workers are ready")
        world.oracle.tell("mark", name="snapshot")
        world.coordination.snapshot()
        operator = Operator(world)
        load = Load(world, self._outstanding)
        faults = Faults(world, operator.change if self.extended else lambda step: None)
        self._began = self._said = time.monotonic()
        self._faults = faults
        load.start()
        for step in self.schedule.steps:
            if self._look_until(step.at):
                break
            faults.carry_out(step)
        self._look_until(self.schedule.seconds)
        load.stop()
        faults.wait()
        if self._broken == "leak":
            world.coordination.client.hincrby(key("held"), "app", 1)
        self._look()
        if not self._stops:
            self._drain(operator)
        operator.close()
        return self._result(load, operator, faults)

    # -- Looking -----------------------------------------------------------------------------------------

    @property
    def _stops(self) -> bool:
        return bool(self.checker.violations) and not self._to_the_end

    def _outstanding(self) -> int:
        """Tasks that were sent in the last minute and a half (older ones are lost) and have not ended."""
        newest = self._now - 90
        return sum(1 for task in list(self.checker.tasks.values())[-1000:]
                   if task.done == math.inf and not task.excuse and task.sent > newest)  # fmt: skip

    _now = 0.0

    def _look_until(self, at: float) -> bool:
        """Look until so many seconds after the beginning; true where the run is to stop."""
        while not self._stops and time.monotonic() - self._began < at:
            self._look()
            time.sleep(max(min(LOOK, at - (time.monotonic() - self._began)), 0))
        return self._stops

    def _look(self) -> None:
        self._count_keys()
        self._now = self.world.oracle.now()
        while True:
            events = list(self.world.oracle.new())
            for event in events:
                self.events.append(event)
                self.checker.feed(event)
            if len(events) < 5000:
                break
        self.checker.tick(self._now)
        if time.monotonic() - self._said >= PROGRESS:
            self._said = time.monotonic()
            self._say(self._progress())

    def _progress(self) -> str:
        checker = self.checker
        done = sum(task.done < math.inf for task in checker.tasks.values())
        return (
            f"{time.monotonic() - self._began:6.0f} s  faults {sum(checker.faults.values()):4}  sent "
            f"{len(checker.tasks):6}  done {done:6}  under way {self._outstanding():3}  "
            f"violations {len(checker.violations)}"
        )

    def _count_keys(self) -> None:
        if not self.extended or self.checker.active:
            return
        with suppress(redis.RedisError):
            with self._counter.pipeline(transaction=True) as pipe:
                pipe.hgetall(key("held"))
                pipe.zcard(key("sessions"))
                for name, count in _LEFT.items():
                    getattr(pipe, count)(key(name))
                held, sessions, *left = pipe.execute()
            holders = {limit.decode(): int(count) for limit, count in held.items()}
            self.world.oracle.tell("keys", holders=holders, sessions=sessions, left=dict(zip(_LEFT, left, strict=True)))

    # -- The end -----------------------------------------------------------------------------------------

    def _drain(self, operator: Operator) -> None:
        """All faults are over and no load comes: everything must run, and Redis come to hold nothing."""
        world, checker = self.world, self.checker
        world.oracle.tell("drain")
        if self.extended:
            for limit in LIMITS:
                for value in ("reset", "resume"):
                    wait_until(lambda limit=limit, value=value: operator.set(limit, value), 30, "a change is confirmed")
        ends = time.monotonic() + DRAIN
        since = time.monotonic()
        while time.monotonic() < ends and not self._stops:
            self._look()
            if not checker.unfinished() or self._now - checker.last_run > QUIET:
                break
            time.sleep(LOOK)
        self._drained = time.monotonic() - since
        if self._stops:
            return
        sessions = sum(worker.is_alive and self._is_extended(name) for name, worker in world.workers.items())
        ends = time.monotonic() + EMPTY
        while time.monotonic() < ends and not checker.promise3.is_empty(sessions):
            time.sleep(LOOK)
            self._look()
        checker.promise3.finish(sessions)

    def _is_extended(self, name: str) -> bool:
        return self.extended and not (self._broken == "worker" and name == self.schedule.members[0].name)

    _drained = 0.0

    def _result(self, load: Load, operator: Operator, faults: Faults) -> dict[str, Any]:
        checker = self.checker
        found = fates(checker)
        if self._stops:  # before its end: what has not run yet isn't lost
            found.lost.clear()
            found.unexplained.clear()
        elif self.extended:
            for text in found.unexplained:
                checker.violate(7, text.partition(":")[0], self._now, text)
        return {
            "seed": self.schedule.seed,
            "minutes": round(self.schedule.seconds / 60, 2),
            "mode": "celery-gconc" if self.extended else "plain Celery",
            "source": _source(),
            "broken": self._broken,
            "broker": self.schedule.broker,
            "workers": [f"{member.pool} {member.slots}" for member in self.schedule.members],
            "limits": self.schedule.limits,
            "tasks": found.sent,
            "done": found.done,
            "excused": found.excused,
            "faults": dict(sorted(checker.faults.items())),
            "changes": operator.confirmed,
            "changes_not_confirmed": operator.failed,
            "lost": dict(sorted(found.lost.items())),
            "doubled": dict(sorted(found.doubled.items())),
            "unexplained": found.unexplained[:20],
            "starts_judged": dict(checker.judged),
            "starts_excused": checker.excused_starts,
            "seconds_watched_for_stuck": round(checker.promise2.watched, 1),
            "seconds_to_drain": round(self._drained, 1),
            "shutdowns_hung": faults.hung,
            "errors": faults.errors,
            "violations": [asdict(violation) for violation in checker.violations],
            "visibility": VISIBILITY,
        }


def _source() -> str:
    """Which celery_gconc ran: a hash of its files."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "celery_gconc").rglob("*")):
        if file.suffix in (".py", ".lua"):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
