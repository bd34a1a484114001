"""What goes on where nothing goes wrong: workers start and stop, tasks come and end, operators change limits.

rules -> Promises, a Cluster -> workers made of the real parts (gate, ledger, session, link...) -> the real Lua
"""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from celery_gconc.protocol.scripts import WORK

from .pool import LIMITS, QUEUES
from .promises import Promises
from .server import Clock
from .worker import Worker, in_machine

#: Heartbeat settings that workers have, one beside the other: interval and timeout.
BEATS = [(2.0, 8.0), (2.0, 8.0), (2.0, 8.0), (1.0, 4.0), (1.0, 12.0)]

some_worker = st.integers(0, 2)
some_limit = st.sampled_from(LIMITS)
some_kind = st.sampled_from(["prefork", "prefork", "threads"])
some_slots = st.integers(1, 3)
#: How much a script does that others may do as well.
some_work = st.sampled_from([WORK, WORK, WORK, 2])
some_beats = st.sampled_from(BEATS)
some_workers = st.tuples(some_kind, some_slots, st.integers(1, 4), some_beats, st.booleans(), st.booleans())

#: Task, queue, for how long it runs (None: until the machine ends it), and how many of them.
some_tasks = st.lists(
    st.tuples(
        st.sampled_from(["a", "a", "a", "a2", "a3", "b", "ab", "a2b", "free"]),
        st.sampled_from(QUEUES),
        st.sampled_from([0.02, 0.1, 0.1, 1.0, 6.0, None]),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=4,
)
Tasks = list[tuple[str, str, float | None, int]]


class Machine(RuleBasedStateMachine):
    """Up to three workers, two queues, four limits."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self._failures: list[BaseException] = []
        self._patched = in_machine(self.clock, self._failures.append)
        self._patched.__enter__()
        self.cluster: Promises = None  # type: ignore[assignment]

    # -- Workers -----------------------------------------------------------------------------------------

    @initialize(
        configured=st.dictionaries(some_limit, st.integers(1, 2), max_size=2),
        workers=st.lists(some_workers, min_size=2, max_size=3),
        maxima=st.dictionaries(some_limit, st.sampled_from([1, 2, 3])),
        first=st.sampled_from([1, 1, 2, 3]),
        tasks=some_tasks,
        work=some_work,
    )
    def begin(
        self,
        configured: dict[str, int],
        workers: list[Any],
        maxima: dict[str, int],
        first: int,
        tasks: Tasks,
        work: int,
    ) -> None:
        self.cluster = Promises(self.url, self.clock, configured, work, self._failures)
        maxima["pool:a"] = first
        for limit, maximum in maxima.items():
            self._set(limit, maximum)
        for one in workers:
            self._start(*one)
        self.cluster.run(4.0)  # a new namespace waits for those who may have lived in it before
        self.send(tasks)
        self.cluster.take_snapshot()

    def _start(
        self,
        kind: str,
        slots: int,
        prefetch: int,
        beats: tuple[float, float],
        is_link_first: bool,
        loop_speaks: bool,
    ) -> None:
        self.cluster.start(
            kind=kind, slots=slots, prefetch=prefetch * slots, beats=beats, is_link_first=is_link_first,
            loop_speaks=loop_speaks,
        )  # fmt: skip
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

    @precondition(lambda self: not self.cluster.server.is_away)
    @rule(
        maximum=st.sampled_from([2, 3]),
        heavy=st.sampled_from(["a2", "a2", "a3", "a2b"]),
        fills=st.integers(0, 3),
        rounds=st.integers(1, 8),
    )
    def outweigh(self, maximum: int, heavy: str, fills: int, rounds: int) -> None:
        """A heavy task comes while part of its limit is in use, and lighter ones go on coming."""
        for limit in LIMITS:
            self._set(limit, maximum if limit == "pool:a" else None)
        self.cluster.run(0.1)
        self.send([("a", "r", 1.0, 1)])
        self.cluster.run(0.1)
        self.send([("free", "q", 1.5, fills), (heavy, "q", 0.3, 1), ("free", "q", 0.5, fills)])
        for _ in range(rounds):
            self.cluster.run(0.1)
            self.send([("a", "r", 0.3, 1)])

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
        self.cluster.fail()
        self.cluster.over()

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
            self._set(limit, 3)
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
        cluster.run(cluster.slowest + 1.0)
        cluster.look_at_rest()
        state = cluster.namespace.look()
        assert state.wants == {}, cluster.describe()
        assert state.shown == {}, f"people are shown {state.shown}: {cluster.describe()}"
        assert cluster.namespace.store.audit(repair=False) == ()

    @property
    def _unfinished(self) -> list[Any]:
        return [
            *self.cluster.queues.unstarted,
            *(message for worker in self.cluster.workers for message in worker.waiting),
            *(job for worker in self.cluster.workers for job in worker.pool.jobs),
        ]
