"""``python -m benchmarks.many``: what a worker pays for each step with 1,000 and with 50,000 requests that wait.

The gate and the ledger themselves, without a broker, a Redis and a pool: so that what is seen is their own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from celery.concurrency.thread import TaskPool as Threads
from celery.worker import state

from celery_gconc.clock import now
from celery_gconc.limits.claims import Claims, claims_on
from celery_gconc.protocol.messages import Grant, Synced
from celery_gconc.worker.dispatch import Dispatcher
from celery_gconc.worker.gate import Gate
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.runs import Runs
from celery_gconc.worker.watch.stalls import TICK_SECONDS
from tests.kit.tables import leading, whole

SLOTS = 4

#: How many times its cost with few a step may have with many (and a millisecond), and its length in seconds at most.
MOST_TIMES, MAX_SECONDS = 5.0, 0.005


class Anything:
    """What the gate's other parts are told goes nowhere."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


class Intake(Anything):
    """No broker is under it."""

    keep_seconds = 60.0
    wants_more = False
    is_quiet = True

    def queue_of(self, message: Any) -> str:
        return "celery"

    def may_move(self, run: Any) -> bool:
        return True

    def take_surplus(self) -> list[Any]:
        return []

    def holds_for(self, name: str | None) -> float | None:
        return 900.0


class Candidates(Anything):
    """All tasks are of one queue."""

    def of(self, request: Any, queue: str) -> Claims:
        return claims_on(("app", f"queue:{queue}", f"task:{request.task.name}"))


class Request:
    """A request as the gate sees it."""

    def __init__(self, number: int, kind: int) -> None:
        self.id = f"id-{number}"
        self.task = SimpleNamespace(name=f"task-{kind}", rate_limit=None)
        self.eta = self.expires = self.message = None
        self.parent_id, self.root_id = None, self.id
        self.is_revoked = False

    def revoked(self) -> bool:
        return self.id in state.revoked


class Metering(Anything):
    """No queue is metered."""

    is_due = False


class Worker:
    """A gate with its ledger, a session open, and requests of twenty kinds that wait under a limit of two."""

    def __init__(self, waiting: int) -> None:
        self.version = 1
        self.table = {"queue:celery": 2}
        self.pool = Pool(SimpleNamespace(pool=Threads(SLOTS), hub=None, controller=SimpleNamespace(autoscaler=None)))
        self.ledger: Ledger[Any] = Ledger(self.table, pool=self.pool, bell=SimpleNamespace(ring=lambda: None))
        self.turns: Any = Anything()
        self.runs = Runs(self.ledger, self.pool, Anything(), Anything(), self.turns)
        intake: Any = Intake()
        metering: Any = Metering()
        self.dispatcher = Dispatcher(
            lambda request: None, self.ledger, self.pool, self.runs, intake, metering, Anything(), Anything(),
            self.turns, runs_without_redis=False,
        )  # fmt: skip
        self.gate = Gate(self.ledger, Candidates(), intake, metering, self.dispatcher, self.turns)
        self.ends = now() + 3600
        self.ledger.opened("s", 1, self.ends)
        self.ledger.apply(Synced("ok", version=1, changes=whole(self.table, 1)), self.ends, self.ends)
        #: What was asked for, by set: its claims, and for how many requests.
        self.wanted: dict[int, tuple[Claims, int]] = {}
        self.syncs = 1
        self.count = 0
        self.grants = 1
        for _ in range(waiting):
            self.admit()
            if self.count == SLOTS:
                self.sync()
        while self.dispatcher.has_unnoted:  # as turns of the loop do
            self.gate.pump()

    def admit(self) -> None:
        self.count += 1
        self.gate.admit(Request(self.count, self.count % 20))

    def sync(self, **told: Any) -> None:
        """One round trip: as many are granted as the limit of two has left."""
        self.syncs += 1
        sync = self.ledger.collect("e", self.syncs, confirmed=self.syncs - 1, full=False)
        for want in sync.wants:
            self.wanted[want.set] = (want.claims, want.kept + len(want.requests))
        left = max(2 - self.ledger.running_count, 0)
        found = [(number, claims) for number, (claims, count) in self.wanted.items() for _ in range(count)][:left]
        for number, claims in found:
            self.wanted[number] = (claims, self.wanted[number][1] - 1)
        grants = tuple(
            Grant(self.grants + index + 1, number, claims, fence=1) for index, (number, claims) in enumerate(found)
        )
        self.grants += len(grants)
        self.ledger.apply(Synced("ok", version=self.version, grants=grants, **told), self.ends, self.ends)
        self.gate.pump()

    def end_one(self) -> None:
        """A task ends, the next starts with its permit, and one more comes."""
        run = self.ledger.running()[0]
        self.dispatcher.done(run)
        self.sync()
        self.admit()

    def sweep(self) -> None:
        self.gate.sweep(TICK_SECONDS)

    def revoke_one(self) -> None:
        run = next(iter(self.dispatcher.rounds._runs.values()))
        state.requests[run.task_id] = run.request
        state.revoked.add(run.task_id)
        self.gate.sweep(TICK_SECONDS)
        self.admit()

    def go_back(self) -> None:
        """Some go back to their queue, and as many come."""
        runs = self.ledger.take_out({"celery"}, 20)
        self.dispatcher.let_go(runs)
        for _ in runs:
            self.admit()

    def change_table(self) -> None:
        """A limit of the app begins, or ends: all that wait stand in another line."""
        before, self.version = self.table, self.version + 1
        self.table = {**before, "app": 50} if "app" not in before else {"queue:celery": 2}
        self.sync(changes=leading(before, self.table, self.version - 1, self.version))

    def give_up_lines(self) -> None:
        self.ledger.parked()
        self.ledger.queued()


STEPS: dict[str, Callable[[Worker], None]] = {
    "a task ends, the next starts, one more comes": Worker.end_one,
    "a sweep (four a second)": Worker.sweep,
    "one is revoked": Worker.revoke_one,
    "20 go back to their queue, 20 come": Worker.go_back,
    "a limit begins or ends for all of them": Worker.change_table,
    "what a heartbeat tells": Worker.give_up_lines,
}


def cost(worker: Worker, step: Callable[[Worker], None], times: int) -> tuple[float, float]:
    """Seconds of this thread that a step takes: the median, and the 95th percentile."""
    spans = []
    for _ in range(times):
        began = time.thread_time()
        step(worker)
        spans.append(time.thread_time() - began)
    return statistics.median(spans), statistics.quantiles(spans, n=20)[-1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many")
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=50_000)
    parser.add_argument("--times", type=int, default=200)
    arguments = parser.parse_args()
    few, many = Worker(arguments.few), Worker(arguments.many)
    missed = 0
    print(f"{'us a step, median (95 %)':46} {arguments.few:>16,} {arguments.many:>16,}")
    for name, step in STEPS.items():
        (small, small_most), (large, large_most) = cost(few, step, arguments.times), cost(many, step, arguments.times)
        is_missed = large > MOST_TIMES * small + 1e-3 or large_most > MAX_SECONDS
        missed += is_missed
        figures = [f"{a * 1e6:,.0f} ({b * 1e6:,.0f})" for a, b in ((small, small_most), (large, large_most))]
        print(f"{'MISS' if is_missed else 'ok':4} {name:42} {figures[0]:>15} {figures[1]:>15}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
