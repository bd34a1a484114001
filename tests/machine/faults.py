"""What goes wrong: faults of workers, of Redis and of the way between them, one after another or at the worst moment.

FaultyMachine -> Cluster, Worker, Way, Server
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from .machine import Machine, Tasks, some_tasks, some_worker, some_workers
from .pool import LIMITS
from .worker import Worker

#: What becomes of calls and notices.
CALLS = ["ok", "ok", "lost", "unanswered", "doubled", "late"]
NOTICES = ["ok", "lost", "late", "doubled"]

#: What may befall a worker, or Redis.
FAULTS = [
    "freeze loop",
    "freeze all",
    "cut off",
    "die",
    "silence",
    "go away",
    "flush",
    "restart",
    "snapshot",
    "lower",
    "clock",
]

some_fault = st.sampled_from(FAULTS)
some_time = st.sampled_from([0.3, 1.2, 2.5, 5.0, 9.0, 14.0])
some_pass = st.sampled_from([0.0, 0.02, 0.3, 1.2, 3.0, 6.0, 9.0])

#: What becomes of the first calls of a worker that comes back.
RETURNS = [["ok", "lost", "lost"], ["ok", "ok", "lost", "lost"], ["last"], ["ok", "last"]]


class FaultyMachine(Machine):
    """The same, with all that may befall workers, Redis and the way between them."""

    # -- The way to Redis --------------------------------------------------------------------------------

    @rule(
        which=some_worker,
        calls=st.lists(st.sampled_from(CALLS), max_size=3),
        notices=st.lists(st.sampled_from(NOTICES), max_size=3),
    )
    def lose(self, which: int, calls: list[str], notices: list[str]) -> None:
        """What is sent next is lost, doubled or late, either way."""
        way = self._worker(which).way
        way.fates.extend(calls)
        way.notice_fates.extend(notices)
        self._recover()

    # -- Faults ------------------------------------------------------------------------------------------

    @rule(
        faults=st.lists(st.tuples(some_fault, some_worker, st.integers(0, 3), some_time), min_size=1, max_size=2),
        tasks=some_tasks,
        seconds=some_pass,
    )
    def strike(self, faults: list[tuple[str, int, int, float]], tasks: Tasks, seconds: float) -> None:
        """Something goes wrong, or two things at once; tasks come, and time passes."""
        for fault, which, how, lasts in faults:
            self._befall(fault, self._worker(which), how, lasts)
        self.send(tasks)
        self.cluster.run(seconds)

    @rule(
        fault=some_fault,
        which=some_worker,
        other=some_worker,
        how=st.integers(0, 3),
        lasts=some_time,
        tasks=some_tasks,
        seconds=some_pass,
    )
    def ambush(self, fault: str, which: int, other: int, how: int, lasts: float, tasks: Tasks, seconds: float) -> None:
        """It goes wrong, for one worker or another, just when Redis has told one something that it would act upon."""
        victim = self._worker(other)
        self._worker(which).ambush = lambda: self._befall(fault, victim, how, lasts)
        self.send(tasks)
        self.work(3, 0.01)
        self.cluster.run(seconds)

    # -- Worst moments: what a guard of the product is for, made likely -----------------------------------

    @rule(which=some_worker, share=st.sampled_from([0.4, 0.8, 0.9, 1.1]), how=st.integers(0, 3))
    def oversleep(self, which: int, share: float, how: int) -> None:
        """All of it stands still just when it is granted something, up to the end of its lease or beyond."""
        worker = self._worker(which)
        self._calm(worker)

        def sleep() -> None:
            self._befall("freeze all", worker, 0, share * worker.timeout)
            if how > 1:
                self._befall("clock", worker, how, 0.0)

        worker.ambush = sleep
        self.send([("a", "q", None, 4), ("a", "r", None, 3)])
        self.work(2, 0.01)
        self.cluster.run(share * worker.timeout + 0.3)

    @rule(which=some_worker, loses=st.booleans(), calls=st.sampled_from([*RETURNS, []]))
    def come_back(self, which: int, loses: bool, calls: list[str]) -> None:
        """It comes back after its lease, or after others to a Redis that lost all data; it runs tasks still."""
        worker = self._worker(which)
        self._calm(worker)
        self.send([("a", "q", None, 4), ("a", "r", None, 3)])
        self.cluster.run(0.1)
        worker = self._holder(worker)
        if loses:
            self.cluster.lose_all(with_connections=False)
        away = 1.5 if loses else worker.timeout + worker.interval
        self._befall("cut off", worker, 0, away)
        self.cluster.run(away - 0.05)
        worker.way.fates.extend(calls)
        self.cluster.run(1.1)
        if not worker.way.is_cut:
            for job in worker.pool.running:
                worker.pool.end(job)
        self.cluster.run(0.2)
        if worker.way.is_cut:
            self.cluster.run(self.cluster.longest - 1.0)
            self._for_a_time(0.5, worker.way, "is_cut", True, False)

    @rule(which=some_worker, age=st.sampled_from([0.0, 0.0, 0.9, 1.9]), lasts=st.sampled_from([2.0, 5.0, 7.5]))
    def go_back_at_once(self, which: int, age: float, lasts: float) -> None:
        """Redis goes back to before this one was granted something, or renewed its lease; and it is cut off."""
        worker = self._worker(which)
        self._calm(worker)
        self.send([("a", "q", None, 1)])
        if age:
            self.cluster.run(0.1)
        self.cluster.take_snapshot()
        if not age:
            self.work(1, 0.01)
        self.cluster.run(age)
        worker = self._holder(worker)
        self._befall("cut off", worker, 0, lasts)
        self._befall("snapshot", worker, 0, 0.0)
        self.send([("a", "q", None, 2), ("a", "r", None, 2)])
        self.cluster.run(lasts + 0.5)

    @rule(which=some_worker, worker=some_workers, is_new=st.booleans())
    def lose_all_and_meet(self, which: int, worker: Any, is_new: bool) -> None:
        """All data are lost; the first to come is new, or has the shortest lease: those that run tasks are cut off."""
        cluster = self.cluster
        self._calm(self._worker(which))
        self.send([("a", "q", None, 4), ("a", "r", None, 4)])
        cluster.run(0.1)
        others = [one for one in cluster.workers if one.pool.running] or cluster.workers[:1]
        cluster.lose_all(with_connections=is_new)
        for one in others:
            self._befall("cut off", one, 0, 1.2 if is_new else one.timeout)
        if is_new and len(cluster.workers) < 4:
            self._start(*worker)
        self.send([("a", "q", None, 2), ("a", "r", None, 2)])
        cluster.run(1.4 if is_new else max(one.timeout for one in others))
        self._recover()

    @rule(which=some_worker, calls=st.sampled_from([["late"], ["late", "late"], ["doubled", "late"]]))
    def fall_behind(self, which: int, calls: list[str]) -> None:
        """What it says comes after what it said later; then others want what it holds."""
        worker = self._worker(which)
        self._calm(worker)
        self.send([("a", "q", None, 2)], settles=False)
        for _ in range(4):
            worker.try_consumer()
            worker.try_link()
        worker.way.fates.extend(calls)
        self.cluster.run(worker.interval)
        for _ in range(3):
            if worker.pool.running and not worker.frozen:
                worker.pool.end(worker.pool.running[0])
            self.send([("a", "q", None, 1)], settles=False)
            worker.try_consumer()
            self.cluster.run(0.25)
        self.send([("a", "r", None, 3)])
        self.cluster.run(0.3)
        self._recover()

    @rule(rounds=st.sampled_from([6, 12, 16]), task=st.sampled_from(["a", "a", "ab"]))
    def go_on(self, rounds: int, task: str) -> None:
        """Nothing goes wrong, and each has tasks all the time, more than may run."""
        cluster = self.cluster
        cluster.run(min(max(cluster.well_from - self.clock.at, 0.0), 30.0))
        for number in range(rounds):
            self.send([("a", "q", 0.1, 1), (task if number % 3 == 0 else "a", "r", 0.1, 1)])
            cluster.run(0.2)

    def _holder(self, default: Worker) -> Worker:
        """One that runs a task of pool:a."""
        return next((worker for worker, _ in self.cluster.running("pool:a")), default)

    def _calm(self, worker: Worker) -> None:
        """One task of pool:a may run, none does, and this worker is awake and can be reached."""
        worker.way.fates.clear()
        worker.frozen, worker.way.is_cut = "", False
        if not self.cluster.server.is_away:
            self._set("pool:a", 1)
        for one in self.cluster.workers:
            for job in one.pool.running:
                if not one.frozen:
                    one.pool.end(job)
        self.cluster.run(0.1)

    def _befall(self, fault: str, worker: Worker, how: int, lasts: float) -> None:
        cluster, server = self.cluster, self.cluster.server
        if fault == "die":
            if self._staying > 1 and worker in cluster.workers:
                cluster.kill(worker)
            return
        if fault == "lower":
            if not server.is_away:
                self._set(LIMITS[how], 1)
            return
        if fault.startswith("freeze"):
            self._for_a_time(lasts, worker, "frozen", fault.partition(" ")[2], "")
        elif fault == "cut off":
            self._for_a_time(lasts, worker.way, "is_cut", True, False)
        elif fault == "go away":
            self._for_a_time(lasts, server, "is_away", True, False)
        elif fault == "silence":  # a firewall forgets the connection for notices
            worker.silence()
        elif fault == "snapshot":
            cluster.go_back(cluster.snapshots[-1 - how % len(cluster.snapshots)])
        elif fault == "clock":
            cluster.step_clock([-50, -1, 1, 50][how] * 3600)
        else:
            cluster.lose_all(with_connections=fault == "restart")
        self._recover()

    def _for_a_time(self, seconds: float, whose: Any, name: str, value: Any, then: Any) -> None:
        setattr(whose, name, value)

        def end() -> None:
            setattr(whose, name, then)
            self._recover()

        self.cluster.after(seconds, end)
