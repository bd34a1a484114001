"""Tasks with an ETA by the thousand: what is due at one instant keeps neither the worker nor other tasks waiting."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from tests.failures.report import HEARTBEAT
from tests.failures.worker_kit import OWN_APP
from tests.kit.servers import wait_until
from tests.kit.workers import Cluster


def told(cluster: Cluster) -> int:
    """How many starts and ends the tasks have told."""
    return int(cluster.oracle.client.llen("events"))


def due_in(seconds: float) -> datetime:
    return datetime.now(timezone.utc) + timedelta(seconds=seconds)


@pytest.mark.wild("workers", "1,000 tasks with one ETA, under a limit nowhere near full")
def test_a_thousand_tasks_with_one_eta_all_run_without_a_stall(make_cluster: Callable[..., Cluster]):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 100})
    (worker,) = cluster.start("a")
    count = 1000  # kombu runs ten due timers a turn, which may last a second: these can be in the way for 100 s
    cluster.send("nap", count, 0.0, eta=due_in(4))
    wait_until(lambda: told(cluster) > 0, 60, "they are due")
    worker.process.send_signal(signal.SIGSTOP)  # thousands more, or a slow signal handler, hold the loop up as well
    time.sleep(1.5)
    worker.process.send_signal(signal.SIGCONT)
    seen = 0
    while (before := seen) < 2 * count:  # at no time does none end for long
        wait_until(lambda before=before: told(cluster) > before, 15, f"more than {before // 2} have run")
        seen = told(cluster)


@pytest.mark.wild("workers", "hundreds of tasks with one ETA wait for a full limit, others behind them")
def test_tasks_that_are_due_behind_hundreds_that_wait_for_a_full_limit_start_at_once(
    make_cluster: Callable[..., Cluster],
):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1})
    cluster.start("a")
    cluster.send("nap", 1, 60.0)
    cluster.done(0)
    wait_until(lambda: cluster.oracle.count("s") == 1, 20, "the limit is full")
    due = due_in(3)
    cluster.send("nap", 400, 0.0, first=1, eta=due)
    cluster.send("late", 20, 0.0, queue="celery", eta=due + timedelta(milliseconds=1))
    cluster.done(20, name="late", seconds=20)
    assert cluster.oracle.count("s", "nap") == 1


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.wild("workers", "worker_eta_task_limit = 5 and a full limit")
def test_what_waits_for_a_full_limit_takes_nothing_of_worker_eta_task_limit(
    make_cluster: Callable[..., Cluster], redis_url: str, request: pytest.FixtureRequest, broker: str
):
    url = redis_url if broker == "redis" else request.getfixturevalue("rabbitmq_url")
    cluster = make_cluster(
        url,
        global_concurrency_limits={"queue:emails": 1},
        worker_eta_task_limit=5,
        worker_prefetch_multiplier=1,
    )
    cluster.start("a", concurrency=2)
    cluster.send("nap", 20, 60.0)
    wait_until(lambda: cluster.oracle.count("s") == 1, 20, "the limit is full")
    cluster.send("late", 20, 0.0, queue="celery", first=100)
    cluster.done(20, name="late", seconds=20)
    assert cluster.oracle.count("s", "nap") == 1


@pytest.mark.wild(
    "workers",
    "a signal handler holds up the event loop for seconds while slots are free",
    result="reported in the log, in status and by doctor",
)
def test_a_worker_that_has_free_slots_and_no_room_is_told_of_in_its_log_in_status_and_by_doctor(
    make_cluster: Callable[..., Cluster],
):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2}, **HEARTBEAT)
    cluster.module = OWN_APP
    (worker,) = cluster.start("a")
    cluster.send("blocking", 1)
    wait_until(lambda: "has had no room for tasks under limits" in worker.output(), 14, "the log says so")
    assert "4 of its slots are free, because its event loop is stuck" in worker.output()
    told = "a@test has not started a limited task for"

    def says(command: str) -> bool:
        return told in cluster.celery("gconc", command).stdout

    wait_until(lambda: says("status"), 10, "status says so")
    assert says("doctor")
    cluster.oracle.let_go()
    wait_until(lambda: "tasks under limits start here again" in worker.output(), 30, "the log says that it is over")
    cluster.send("nap", 1, 0.0, first=10)
    cluster.done(1, name="nap")
    wait_until(lambda: not says("status"), 10, "status says no more of it")
    assert not says("doctor")
