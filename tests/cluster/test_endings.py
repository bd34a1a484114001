"""The ways a worker ends: what runs keeps its permit, what is parked goes back in order, and nothing stays behind."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.cluster.versions import needs_soft_shutdown
from tests.kit.keys import key
from tests.kit.servers import wait_until
from tests.kit.state import units
from tests.kit.workers import SHORT_POLLS, Cluster, Worker

#: The tasks that the ending worker has parked, and the one that waits in the other worker.
PARKED, ELSEWHERE = list(range(10, 16)), 50


@pytest.fixture
def two_workers(make_cluster, request: pytest.FixtureRequest) -> Callable[..., tuple[Cluster, Worker, Worker]]:
    """Makes a worker to be ended, which runs *running* and has more parked; and one where another task waits."""

    def make(broker: str, pool: str, limit: int, running: list[tuple[Any, ...]], **conf: object):
        urls = [request.getfixturevalue("rabbitmq_url")] if broker == "rabbitmq" else []
        if broker == "redis":
            conf["broker_transport_options"] = SHORT_POLLS
        cluster = make_cluster(*urls, global_concurrency_limits={"app": limit}, **conf)
        # Its log says what it does while it ends.
        first = cluster.spawn("w1", pool=pool, concurrency=4, queues="emails", options=("-l", "DEBUG"))
        second = cluster.spawn("w2", concurrency=4, queues="other")
        cluster.ready()
        for number, (task, *seconds) in enumerate(running):
            cluster.send(task, 1, *seconds, first=number)
        wait_until(lambda: cluster.oracle.count("s") == len(running), what="the long ones run")
        cluster.send("nap", len(PARKED), 0.05, first=PARKED[0])
        cluster.send("nap", 1, 0.05, queue="other", first=ELSEWHERE)
        if pool != "solo":  # which takes no message while it runs a task
            wait_until(lambda: received(first) == len(running) + len(PARKED), what="it has them")
            # And is done with them: a cold shutdown of threads may raise wherever the signal interrupts (celery 5.7).
            wait_until(lambda: parked(cluster, first) == len(PARKED), what="they are parked")
        wait_until(lambda: received(second) == 1, what="one waits elsewhere")
        return cluster, first, second

    return make


def received(worker: Worker) -> int:
    """How many tasks a worker has received."""
    return worker.output().count("] received")


def parked(cluster: Cluster, worker: Worker) -> int:
    """How many requests a worker holds that it may not start."""
    stats = cluster.app().control.inspect([worker.node], timeout=5).stats() or {}
    return int(stats[worker.node]["global_concurrency"]["parked"]) if stats else 0


def ask_to_end(cluster: Cluster, worker: Worker, how: str) -> None:
    """Tell a worker to end in one of the ways that Celery has."""
    if how == "control":
        cluster.app().control.shutdown([worker.node])
    elif how == "SIGINT twice":
        worker.process.send_signal(signal.SIGINT)
        # Celery 5.7 itself may stand still for seconds where the second comes while it cancels its consumers.
        wait_until(lambda: "Worker: Stopping Pool" in worker.output(), what="it waits for its tasks")
        worker.process.send_signal(signal.SIGINT)
    else:
        worker.process.send_signal(getattr(signal, how))


def moment(cluster: Cluster, kind: str, number: int) -> float:
    """When a task started or ended, by the oracle's clock."""
    return next(event.time for event in cluster.oracle.events() if (event.kind, event.number) == (kind, number))


def lost_pids(cluster: Cluster) -> frozenset[int]:
    """The processes that ended in the middle of a task, without a word."""
    return frozenset(event.pid for event in cluster.oracle.events() if not psutil.pid_exists(event.pid))


def sessions(cluster: Cluster) -> int:
    """How many sessions there are."""
    with cluster.client as client:
        return int(client.zcard(key("sessions")))


def take_over(cluster: Cluster, worker: Worker) -> list[int]:
    """Have a worker consume what is back in the queue; return the order in which it starts."""
    cluster.app().control.add_consumer("emails", destination=[worker.node], reply=True)
    wait_until(lambda: set(PARKED) <= set(cluster.oracle.starts("nap")), what="what was parked runs elsewhere")
    return [number for number in cluster.oracle.starts() if number in PARKED]


@pytest.mark.parametrize(
    ("broker", "pool", "how"),
    [
        ("redis", "prefork", "SIGTERM"),  # over RabbitMQ: in the cold shutdowns, where the first SIGINT is a warm one
        ("redis", "threads", "control"),
        ("rabbitmq", "gevent", "SIGTERM"),
        ("rabbitmq", "solo", "SIGTERM"),
    ],
)
def test_in_a_warm_shutdown_what_runs_keeps_its_permit_and_what_is_parked_goes_back_at_once_in_order(
    two_workers, broker, pool, how
):
    back_within = 3.0  # without an event loop, Celery notices within two
    cluster, ending, other = two_workers(broker, pool, 1, [("held",)])
    ask_to_end(cluster, ending, how)
    if pool != "solo":  # which sees to nothing else while it runs a task
        wait_until(
            lambda: cluster.waiting_in("emails") == len(PARKED), seconds=back_within, what="what was parked is back"
        )
        assert cluster.oracle.count("e") == 0, "the long one was to run still"
        cluster.oracle.let_go()
        order = take_over(cluster, other)
        assert ending.process.wait(20) == 0
    else:
        wait_until(lambda: "Warm shutdown" in ending.output(), what="it is to end")
        cluster.oracle.let_go()
        assert ending.process.wait(20) == 0
        order = take_over(cluster, other)
    exited = cluster.oracle.now()
    assert order == PARKED
    assert exited - moment(cluster, "e", 0) <= 10, "the process went on after its last task"
    assert moment(cluster, "s", ELSEWHERE) - moment(cluster, "e", 0) <= 1.0, "its permit was free late"
    assert cluster.oracle.peak() == 1
    assert sorted(cluster.oracle.starts()) == [0, *PARKED, ELSEWHERE], "no task twice"
    assert sessions(cluster) == 1


# Not on gevent: celery 5.4-5.7 runs its handler in the event loop, where it fails at the first call that blocks.
@pytest.mark.parametrize(
    ("broker", "pool", "how"),
    [
        ("redis", "prefork", "SIGQUIT"),
        ("redis", "threads", "SIGQUIT"),
        ("redis", "solo", "SIGQUIT"),
        ("rabbitmq", "prefork", "SIGINT twice"),
    ],
)
def test_after_a_cold_shutdown_permits_are_free_at_once_and_what_was_parked_is_back_in_order(
    two_workers, broker, pool, how
):
    # Only prefork kills what runs; the others wait for its end, as plain Celery does.
    cluster, ending, other = two_workers(broker, pool, 1, [("held",)])
    ask_to_end(cluster, ending, how)
    if pool == "threads":
        wait_until(lambda: cluster.waiting_in("emails") == len(PARKED), what="it gives back what was parked")
        cluster.oracle.let_go()
    ending.process.wait(15)
    exited = cluster.oracle.now()
    wait_until(lambda: ELSEWHERE in cluster.oracle.starts(), seconds=5, what="the one elsewhere runs")
    assert moment(cluster, "s", ELSEWHERE) - exited <= 1.0, "its permit was free late"
    assert sessions(cluster) == 1
    wait_until(lambda: cluster.waiting_in("emails") == len(PARKED), seconds=5, what="what was parked is back")
    assert take_over(cluster, other) == PARKED
    assert cluster.oracle.peak(lost=lost_pids(cluster)) == 1
    assert sorted(cluster.oracle.starts()) == [0, *PARKED, ELSEWHERE], "no task twice"


@needs_soft_shutdown
@pytest.mark.parametrize(
    ("broker", "pool", "how"), [("redis", "prefork", "SIGTERM"), ("rabbitmq", "prefork", "SIGQUIT")]
)
def test_in_a_soft_shutdown_what_still_runs_keeps_its_permit_until_its_end(two_workers, broker, pool, how, monkeypatch):
    if how == "SIGTERM":
        monkeypatch.setenv("REMAP_SIGTERM", "SIGQUIT")
    cluster, ending, other = two_workers(broker, pool, 2, [("held",), ("nap", 60.0)], worker_soft_shutdown_timeout=2.0)
    ask_to_end(cluster, ending, how)
    wait_until(lambda: "Initiating Soft Shutdown" in ending.output(), what="it is to end")
    cluster.oracle.let_go()
    assert ending.process.wait(30) is not None
    exited = cluster.oracle.now()
    wait_until(lambda: ELSEWHERE in cluster.oracle.starts(), seconds=5, what="the one elsewhere runs")
    assert moment(cluster, "e", 0) <= moment(cluster, "s", ELSEWHERE) <= exited + 1.0
    wait_until(lambda: cluster.waiting_in("emails") == len(PARKED), seconds=5, what="what was parked is back")
    assert sorted(take_over(cluster, other)) == PARKED
    assert cluster.oracle.peak(lost=lost_pids(cluster)) == 2
    assert sorted(cluster.oracle.starts()) == [0, 1, *PARKED, ELSEWHERE], "no task twice"
    assert sessions(cluster) == 1


def test_a_second_start_under_the_same_node_name_is_a_session_of_its_own(make_cluster):
    cluster = make_cluster(
        global_concurrency_limits={"app": 1},
        global_concurrency_heartbeat_interval=0.5,
        global_concurrency_heartbeat_timeout=2.0,
        broker_transport_options=SHORT_POLLS,
    )
    first = cluster.spawn("w1", queues="emails")
    second = cluster.spawn("again", queues="other", options=("-n", first.node))
    cluster.ready()
    cluster.send("held", 1)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="the long one runs")
    first.process.send_signal(signal.SIGTERM)
    cluster.send("nap", 3, 0.05, queue="other", first=1)
    wait_until(lambda: second.output().count("received") == 3, what="the second has them parked")
    assert sessions(cluster) == 2
    assert second.stop() == 0
    assert sessions(cluster) == 1, "its end is that of the first too"
    assert cluster.oracle.count("e") == 0, "the long one was to run still"
    with cluster.client as client:
        assert units(client) == {"app": 1}, "its end has released the permit of the first"
    cluster.oracle.let_go()
    assert first.process.wait(20) == 0
    assert cluster.oracle.starts() == [0]
    assert cluster.waiting_in("other") == 3
    assert (cluster.permits(), sessions(cluster)) == (0, 0)
