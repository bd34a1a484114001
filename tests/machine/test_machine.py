"""Whatever happens to workers, Redis and the way between them, the promises hold: searched for by Hypothesis.

    rules -> Cluster -> workers made of the real parts (gate, ledger, session, link...) -> the real Lua
    the promises <- what the pools really run, and what operators did (oracle.py); and the keys as they are

What stands for a person, a system or a broker is made here: requests, pools, queues, the time, the way to Redis. The
threads of a worker are turns, which the rules order; two threads inside of one part are not shown here.

``GCONC_MACHINE_EXAMPLES`` says how many histories are tried (``make machine``, each night, tries more and others),
``GCONC_MACHINE_STEPS`` how long each is at most.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from .cluster import Cluster
from .pool import LIMITS, QUEUES
from .server import Clock
from .worker import Worker, in_machine

#: Heartbeat settings that workers have, one beside the other: interval and timeout.
BEATS = [(2.0, 8.0), (2.0, 8.0), (2.0, 8.0), (1.0, 4.0), (1.0, 12.0)]

#: What becomes of calls and notices.
CALLS = ["ok", "ok", "lost", "unanswered", "doubled", "late"]
NOTICES = ["ok", "lost", "late", "doubled"]

some_worker = st.integers(0, 2)
some_limit = st.sampled_from(LIMITS)
some_kind = st.sampled_from(["prefork", "prefork", "threads"])
some_slots = st.integers(1, 3)
some_beats = st.sampled_from(BEATS)
some_time = st.sampled_from([0.3, 1.2, 2.5, 5.0, 9.0, 14.0])
some_workers = st.tuples(some_kind, some_slots, st.integers(1, 4), some_beats, st.booleans())
some_pass = st.sampled_from([0.0, 0.02, 0.3, 1.2, 3.0, 6.0, 9.0])

#: Task, queue, for how long it runs (None: until the machine ends it), and how many of them.
some_tasks = st.lists(
    st.tuples(
        st.sampled_from(["a", "a", "a", "b", "ab", "free"]),
        st.sampled_from(QUEUES),
        st.sampled_from([0.02, 0.1, 0.1, 1.0, 6.0, None]),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=4,
)
Tasks = list[tuple[str, str, float | None, int]]

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

#: What becomes of the first calls of a worker that comes back.
RETURNS = [["ok", "lost", "lost"], ["ok", "ok", "lost", "lost"], ["last"], ["ok", "last"]]


class Machine(RuleBasedStateMachine):
    """Up to three workers, two queues, four limits."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self._patched = in_machine(self.clock)
        self._patched.__enter__()
        self.cluster: Cluster = None  # type: ignore[assignment]

    # -- Workers -----------------------------------------------------------------------------------------

    @initialize(
        configured=st.dictionaries(some_limit, st.integers(1, 2), max_size=2),
        workers=st.lists(some_workers, min_size=2, max_size=3),
        maxima=st.dictionaries(some_limit, st.sampled_from([1, 2, 3])),
        first=st.sampled_from([1, 1, 2]),
        tasks=some_tasks,
    )
    def begin(
        self, configured: dict[str, int], workers: list[Any], maxima: dict[str, int], first: int, tasks: Tasks
    ) -> None:
        self.cluster = Cluster(self.url, self.clock, configured)
        maxima["pool:a"] = first
        for limit, maximum in maxima.items():
            self._set(limit, maximum)
        for one in workers:
            self._start(*one)
        self.cluster.run(4.0)  # a new namespace waits for those who may have lived in it before
        self.send(tasks)
        self.cluster.take_snapshot()

    def _start(self, kind: str, slots: int, prefetch: int, beats: tuple[float, float], is_link_first: bool) -> None:
        self.cluster.start(kind=kind, slots=slots, prefetch=prefetch * slots, beats=beats, is_link_first=is_link_first)
        self.cluster.trouble(self.cluster.slowest + 4.0)

    @precondition(lambda self: len(self.cluster.workers) < 3)
    @rule(worker=some_workers)
    def start(self, worker: Any) -> None:
        self._start(*worker)

    @precondition(lambda self: self._staying > 1)
    @rule(which=some_worker, how=st.sampled_from(["dies", "dies", "stops"]))
    def end_worker(self, which: int, how: str) -> None:
        worker = self._worker(which)
        if how == "dies":
            self.cluster.kill(worker)
        elif not worker.frozen and not worker.is_stopping:
            worker.stop()

    # -- Tasks -------------------------------------------------------------------------------------------

    @rule(tasks=some_tasks, settles=st.booleans())
    def send(self, tasks: Tasks, settles: bool = True) -> None:
        for task, queue, seconds, count in tasks:
            for _ in range(count):
                self.cluster.queues.send(task, queue, seconds)
        if settles:
            self.cluster.settle()

    @precondition(lambda self: any(worker.pool.running for worker in self.cluster.workers))
    @rule(
        which=st.integers(0, 5), how=st.sampled_from(["returns", "returns", "returns", "raises", "dies", "times out"])
    )
    def end(self, which: int, how: str) -> None:
        found = [
            (worker, job) for worker in self.cluster.workers for job in worker.pool.running
            if not (worker.frozen == "all" and worker.kind == "threads")
        ]  # fmt: skip
        if not found:
            return
        worker, job = found[which % len(found)]
        if how in ("dies", "times out") and worker.kind == "prefork":
            if how == "times out":
                worker.pool.time_out(job)
                self.cluster.after(0.1, lambda: worker.pool.kill(job))
            else:
                worker.pool.kill(job)
            self.cluster.trouble(1.0)
        else:
            worker.pool.end(job, is_good=how != "raises")

    @rule(rounds=st.integers(1, 6), seconds=st.sampled_from([0.0, 0.01, 0.3]))
    def work(self, rounds: int, seconds: float) -> None:
        """Tasks end one after another, the oldest first, and others start."""
        for _ in range(rounds):
            for worker in list(self.cluster.workers):
                running = worker.pool.running
                if running and not worker.frozen:
                    worker.pool.end(running[0])
            self.cluster.run(seconds)

    @rule(tasks=some_tasks, rounds=st.integers(1, 4))
    def send_and_work(self, tasks: Tasks, rounds: int) -> None:
        self.send(tasks)
        self.work(rounds, 0.01)

    @rule(tasks=some_tasks, seconds=st.sampled_from([0.15, 0.6, 1.5, 3.0, 9.0]))
    def send_and_wait(self, tasks: Tasks, seconds: float) -> None:
        self.send(tasks)
        self.cluster.take_snapshot()
        self.pass_time(seconds)

    @rule(
        which=some_worker,
        what=st.sampled_from(["revoke", "purge", "resize"]),
        limit=some_limit,
        slots=st.integers(1, 4),
    )
    def order(self, which: int, what: str, limit: str, slots: int) -> None:
        """An operator revokes what waits, discards it, or has the pool grow or shrink."""
        worker = self._worker(which)
        if worker.frozen or worker.is_stopping:
            return
        if what == "resize":
            worker.pool.resize(slots)
        elif what == "purge":
            worker.parts.gate.purge(limit, 10)
        elif worker.waiting:
            next(iter(worker.waiting)).is_revoked = True

    # -- Time and threads --------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.002, 0.02, 0.15, 0.6, 1.5, 3.0, 6.0, 14.0]))
    def pass_time(self, seconds: float) -> None:
        self.cluster.run(seconds)
        if seconds >= 1.5 and self.cluster.is_well and self.clock.at - self.cluster.well_from >= 1.5:
            self.cluster.look_at_rest()

    @rule(which=some_worker, thread=st.sampled_from(["link", "consumer", "tick"]))
    def turn(self, which: int, thread: str) -> None:
        """One thread alone goes on."""
        worker = self._worker(which)
        if thread == "tick":
            worker.tick()
        elif thread == "link" and worker.has_link_work:
            worker.link_turn()
        elif thread == "consumer" and worker.has_consumer_work:
            worker.consumer_turn()
        self.cluster.over()

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

    # -- Operators ---------------------------------------------------------------------------------------

    @precondition(lambda self: not self.cluster.server.is_away)
    @rule(limit=some_limit, maximum=st.sampled_from([0, 1, 1, 2, 3, None]))
    def set(self, limit: str, maximum: int | None) -> None:
        self._set(limit, maximum)

    @precondition(lambda self: not self.cluster.server.is_away)
    @rule(limit=some_limit, how=st.sampled_from(["reset", "pause", "resume"]))
    def change(self, limit: str, how: str) -> None:
        store, setting = self.cluster.namespace.store, self.cluster.operators.settings[limit]
        if how == "reset":
            store.reset(limit, by="machine")
            setting.values = {None}
        else:
            store.pause(limit, how == "pause", by="machine")
            setting.pauses = {how == "pause"}
        self.cluster.operators.note(limit, self.clock.at)
        self.cluster.trouble(2 * self.cluster.slowest)

    def _set(self, limit: str, maximum: int | None) -> None:
        self.cluster.namespace.store.set(limit, maximum, by="machine")
        self.cluster.operators.settings[limit].values = {float("inf") if maximum is None else float(maximum)}
        self.cluster.operators.note(limit, self.clock.at)
        self.cluster.trouble(2 * self.cluster.slowest)

    # -- The end -----------------------------------------------------------------------------------------

    def _worker(self, which: int) -> Worker:
        return self.cluster.workers[which % len(self.cluster.workers)]

    @property
    def _staying(self) -> int:
        return sum(not worker.is_stopping for worker in self.cluster.workers)

    def _recover(self) -> None:
        """Something went wrong that has consequences for as long as leases last."""
        cluster = self.cluster
        cluster.trouble(2 * cluster.longest + 3 * cluster.slowest)

    def teardown(self) -> None:
        try:
            if self.cluster is not None:
                try:
                    if sys.exc_info()[0] is None:
                        self._drain()
                finally:
                    self.cluster.close()
        finally:
            self._patched.__exit__(None, None, None)

    def _drain(self) -> None:
        """Nothing goes wrong any more: all that waits runs, and nothing is left."""
        cluster = self.cluster
        cluster.do_all_later()
        for worker in cluster.workers:
            worker.way.is_cut = False
            worker.ambush = None
            worker.way.fates.clear()
            worker.way.notice_fates.clear()
        for limit in LIMITS:
            cluster.namespace.store.pause(limit, False, by="machine")
            cluster.operators.settings[limit].pauses = {False}
            self._set(limit, 2)
        self._recover()
        if all(worker.is_stopping for worker in cluster.workers):
            self._start("prefork", 2, 4, BEATS[0], False)
        ends = self.clock.at + 60.0 + 2 * len(self._unfinished)
        while self.clock.at < ends:
            for worker in list(cluster.workers):
                for job in worker.pool.running:
                    worker.pool.end(job)
            cluster.run(0.25)
            if not self._unfinished and (cluster.is_well or cluster.has_nothing_left()):
                break
        assert not self._unfinished, f"wait for ever: {self._unfinished}: {cluster.describe()}"
        cluster.run(2.0)
        cluster.look_at_rest()
        state = cluster.namespace.look()
        assert state.requests == {}, cluster.describe()
        assert cluster.namespace.store.audit(repair=False) == ()

    @property
    def _unfinished(self) -> list[Any]:
        return [
            *self.cluster.queues.unstarted,
            *(message for worker in self.cluster.workers for message in worker.waiting),
            *(job for worker in self.cluster.workers for job in worker.pool.jobs),
        ]


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """What workers log costs time, and tells of what the machine does to them."""
    logger = logging.getLogger("celery_gconc")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.takes_long(60)
@pytest.mark.timeout(900)  # a failure is made smaller before it is shown: for up to five minutes
def test_whatever_happens_to_workers_and_redis_the_promises_hold(redis_url: str, quiet: Any):
    class OnThisRedis(Machine):
        url = redis_url

    examples = os.environ.get("GCONC_MACHINE_EXAMPLES")
    run_state_machine_as_test(
        OnThisRedis,
        settings=settings(
            max_examples=int(examples or 120),
            stateful_step_count=int(os.environ.get("GCONC_MACHINE_STEPS", "16")),
            deadline=None,
            derandomize=examples is None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
