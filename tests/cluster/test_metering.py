"""A queue whose own limit is full: its messages wait at the broker, and those who hold units of the limit read them.

What stands in the broker's list is read with a plain client, what runs is told by the oracle.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from amqp.exceptions import NotFound
from kombu import Connection

from tests.cluster.versions import needs_quorum_queues
from tests.kit.servers import RabbitMQServer, patience, wait_until
from tests.kit.together import EXPIRES, IMPATIENT
from tests.kit.workers import Cluster

MakeCluster = Callable[..., Cluster]

AT_BROKER = {"global_concurrency_wait_at_broker": True}


@pytest.fixture(params=["redis", "rabbitmq"])
def make(request: pytest.FixtureRequest, make_cluster: MakeCluster) -> MakeCluster:
    """Makes a cluster over each broker."""
    if request.param == "redis":
        return partial(make_cluster, **AT_BROKER)
    return partial(make_cluster, request.getfixturevalue("rabbitmq_url"), **AT_BROKER)


def all_wait(cluster: Cluster, count: int, queue: str = "emails") -> None:
    """Wait until so many messages are in the broker's queue, and stay there."""
    wait_until(lambda: cluster.waiting_in(queue) == count, what=f"{count} messages wait at the broker")


def fill(cluster: Cluster, count: int, *, running: int) -> None:
    """Send so many tasks that end when they are let go; wait until so many run, and the others wait at the broker."""
    cluster.send("held", count)
    wait_until(lambda: cluster.oracle.count("s") == running, what=f"{running} run")
    all_wait(cluster, count - running)


def calls(cluster: Cluster) -> int:
    """How many scripts over the permits Redis has run. (Those over the broker's lists it is given as a whole.)"""
    with cluster.client as client:
        stats = client.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


def test_what_waits_for_a_full_queue_limit_waits_at_the_broker_and_starts_in_its_order(make: MakeCluster):
    cluster = make(global_concurrency_limits={"emails": 2})
    cluster.start("w1", "w2", concurrency=4)
    fill(cluster, 20, running=2)
    cluster.oracle.let_go()
    cluster.done(20)
    wait_until(lambda: cluster.permits() == 0, what="no unit is kept for a queue that is empty")
    assert cluster.oracle.peak() == 2
    order = cluster.oracle.starts()
    # What two workers had prefetched when the limit was full went back to the head, one worker's behind the other's.
    assert max(abs(number - place) for place, number in enumerate(order)) <= 16, order


def test_an_urgent_message_starts_before_all_that_wait(make_cluster: MakeCluster):
    cluster = make_cluster(
        **AT_BROKER,
        global_concurrency_limits={"emails": 1},
        broker_transport_options={"queue_order_strategy": "priority"},
    )
    cluster.start("w1", "w2", concurrency=2)
    cluster.send("held", 1, priority=9)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="it runs")
    cluster.send("nap", 300, 0.001, first=100, priority=9)
    wait_until(lambda: all(not worker_has(cluster, name) for name in ("w1", "w2")), what="no worker has any")
    cluster.send("nap", 1, 0.001, first=1, priority=0)
    cluster.oracle.let_go()
    cluster.done(302)
    assert cluster.oracle.starts().index(1) <= 2, "at most one was read ahead of it"


def worker_has(cluster: Cluster, name: str) -> bool:
    """Whether a worker has requests that it has not started."""
    app = cluster.app()
    try:
        reserved = app.control.inspect(destination=[f"{name}@test"], timeout=2, limit=1).reserved()
    finally:
        app.close()
    return bool(reserved and reserved[f"{name}@test"])


def test_a_full_queue_limit_costs_no_call_and_each_worker_has_its_share(make: MakeCluster):
    cluster = make(global_concurrency_limits={"emails": 4}, global_concurrency_heartbeat_interval=5)
    before = calls(cluster)
    cluster.send("nap", 400, 0.05)  # before there are workers: while it is sent to, a queue may be empty at times
    cluster.start("w1", "w2", concurrency=4)
    cluster.done(400)
    assert calls(cluster) - before <= 0.25 * 400, "starts, heartbeats, and until the limit is full; else one for a task"
    assert cluster.oracle.peak() == 4


def test_a_worker_that_joins_late_has_its_share_soon(make: MakeCluster):
    cluster = make(global_concurrency_limits={"emails": 4}, global_concurrency_heartbeat_interval=1)
    cluster.start("w1", concurrency=4)
    cluster.send("nap", 3000, 0.02)
    wait_until(lambda: cluster.oracle.count("s") >= 50, what="one worker has all units")
    (late,) = cluster.start("w2", concurrency=4)
    joined = cluster.oracle.now()
    children: Counter[str] = Counter()

    def has_its_share() -> bool:
        nonlocal children
        since = [event for event in cluster.oracle.events() if event.kind == "s" and event.time > joined]
        children = Counter(str(event.pid) for event in since[-40:])
        return len(children) >= 4 and "Traceback" not in late.output()

    wait_until(has_its_share, seconds=patience(10), what=lambda: f"the late one runs some: {children}")
    assert cluster.oracle.peak() == 4


@pytest.mark.parametrize("change", ["raised", "paused and resumed", "taken away"])
def test_a_changed_limit_reaches_what_waits_at_the_broker(make: MakeCluster, change: str):
    cluster = make(global_concurrency_limits={"emails": 1})
    cluster.start("w1", "w2", concurrency=4)
    fill(cluster, 8, running=1)
    if change == "raised":
        assert cluster.celery("gconc", "set", "emails", "4").returncode == 0
        wait_until(lambda: cluster.oracle.count("s") == 4, what="four run")
        all_wait(cluster, 4)
        highest = 4
    elif change == "taken away":
        assert cluster.celery("gconc", "set", "emails", "unlimited").returncode == 0
        all_wait(cluster, 0)  # they are read as by plain Celery: one of the workers may have more of them than slots
        wait_until(lambda: cluster.oracle.count("s") >= 4, what="as many run as one of them has slots")
        highest = None
    else:
        assert cluster.celery("gconc", "pause", "emails").returncode == 0
        cluster.oracle.let_go()
        cluster.done(1)
        wait_until(lambda: cluster.permits() == 0, what="nobody holds a unit")
        assert cluster.waiting_in("emails") == 7
        assert cluster.celery("gconc", "resume", "emails").returncode == 0
        highest = 1
    cluster.oracle.let_go()
    cluster.done(8)
    assert highest is None or cluster.oracle.peak() == highest


def test_a_queue_of_other_work_is_not_held_up(make: MakeCluster):
    cluster = make(global_concurrency_limits={"emails": 1})
    cluster.start("w1", concurrency=2)
    fill(cluster, 50, running=1)
    cluster.send("nap", 20, 0.01, queue="celery", first=100)
    cluster.done(20, name="nap")
    cluster.oracle.let_go()
    cluster.done(70)
    assert cluster.oracle.peak("held") == 1


def test_messages_with_an_eta_are_read_in_their_turn_and_run(make: MakeCluster):
    cluster = make(global_concurrency_limits={"emails": 1})
    cluster.start("w1", "w2", concurrency=2)
    fill(cluster, 20, running=1)
    cluster.send("nap", 10, 0.01, first=100, countdown=0.5)  # as retries are sent
    all_wait(cluster, 29)
    cluster.oracle.let_go()
    cluster.done(30)
    assert cluster.oracle.peak() == 1


def test_a_worker_full_of_other_work_takes_its_turn(make: MakeCluster):
    cluster = make(global_concurrency_limits={"emails": 1})
    cluster.start("w1", concurrency=1)
    cluster.send("nap", 200, 0.02, queue="celery", first=1000)
    cluster.send("nap", 10, 0.02)
    cluster.done(210)
    starts = cluster.oracle.starts()
    assert starts.index(9) < len(starts) - 1, "the queues had their turns"


def test_units_of_a_killed_worker_read_on_elsewhere(make: MakeCluster):
    cluster = make(
        global_concurrency_limits={"emails": 2},
        global_concurrency_heartbeat_interval=0.5,
        global_concurrency_heartbeat_timeout=2,
    )
    if cluster.broker.startswith("redis"):  # RabbitMQ needs no time to see that a worker is gone
        cluster.conf["broker_transport_options"] = {"visibility_timeout": 3, "unacked_restore_interval": 1}
    first, _other = cluster.start("w1", "w2", concurrency=2)
    cluster.send("nap", 200, 0.05)
    wait_until(lambda: cluster.oracle.count("s") >= 20, what="both work")
    first.kill()
    cluster.done(200 - 4)
    wait_until(lambda: cluster.waiting_in("emails") == 0, what="nothing is left")


def test_a_cancelled_consumer_gives_its_units_up_and_a_new_one_reads_on(make: MakeCluster):
    cluster = make(global_concurrency_limits={"emails": 2})
    cluster.start("w1", concurrency=4)
    app = cluster.app()
    cluster.send("nap", 200, 0.05)
    wait_until(lambda: cluster.oracle.count("s") >= 20, what="it works")
    app.control.cancel_consumer("emails", reply=True)
    wait_until(lambda: cluster.permits() == 0, what="nothing is held for a queue that is not read")
    left = cluster.waiting_in("emails")
    assert left > 0
    app.control.add_consumer("emails", reply=True)
    app.close()
    cluster.done(200)
    assert cluster.oracle.peak() == 2


def test_people_see_how_many_wait_at_the_broker(make: MakeCluster):
    cluster = make(global_concurrency_limits={"emails": 1}, global_concurrency_heartbeat_interval=1)
    cluster.start("w1", "w2", concurrency=2)
    cluster.send("held", 30)
    all_wait(cluster, 29)

    def shown() -> tuple[int, int, int]:
        (limit,) = json.loads(cluster.celery("gconc", "status", "emails", "--json").stdout)["limits"]
        return limit["running"], limit["parked"], limit["at_broker"]

    wait_until(lambda: shown() == (1, 29, 29), what=lambda: f"one runs, 29 wait: {shown()}")
    cluster.oracle.let_go()
    cluster.done(30)
    wait_until(lambda: shown() == (0, 0, 0), what=lambda: f"nothing is left: {shown()}")


# -- RabbitMQ ------------------------------------------------------------------------------------------------


@needs_quorum_queues
def test_of_a_quorum_queue_whoever_runs_some_has_one_more_and_the_others_wait_at_the_broker(
    make_cluster: MakeCluster, rabbitmq_url: str
):
    delete(rabbitmq_url, "quorum")
    cluster = make_cluster(rabbitmq_url, **AT_BROKER, global_concurrency_limits={"quorum": 2})
    cluster.special = ("quorum",)
    cluster.start("w1", "w2", concurrency=4, queues="quorum")
    cluster.send("held", 60, queue="quorum")
    wait_until(lambda: cluster.oracle.count("s") == 2, what="two run")
    wait_until(lambda: cluster.waiting_in("quorum") in (56, 57), what="all but one or two others wait at the broker")
    cluster.oracle.let_go()
    cluster.done(60)
    assert cluster.oracle.peak() == 2
    wait_until(lambda: cluster.permits() == 0, what="no unit is kept for a queue that is empty")


@needs_quorum_queues
def test_a_quorum_queue_that_a_policy_expires_lives_on_while_its_limit_is_full_and_while_it_is_paused(
    make_cluster: MakeCluster, rabbitmq_process: RabbitMQServer
):
    url = f"pyamqp://guest:guest@127.0.0.1:{rabbitmq_process.port}/{IMPATIENT}"
    delete(url, "fading")
    cluster = make_cluster(url, **AT_BROKER, global_concurrency_limits={"fading": 1})
    cluster.special = ("fading",)
    workers = cluster.start("fading1", "fading2", concurrency=2, queues="fading")  # as none there
    cluster.send("nap", 1, 1.5 * EXPIRES / 1000, queue="fading")
    cluster.send("nap", 30, 0.001, queue="fading", first=1)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one runs, for longer than the queue lives unused")
    wait_until(lambda: cluster.waiting_in("fading") == 29, what="all but one wait at the broker")
    assert cluster.celery("gconc", "pause", "fading").returncode == 0
    cluster.done(1)
    paused = time.monotonic()
    wait_until(lambda: time.monotonic() > paused + 1.5 * EXPIRES / 1000, what="nobody had a unit for as long")
    assert cluster.waiting_in("fading") >= 28, "each worker has one"
    assert cluster.celery("gconc", "resume", "fading").returncode == 0
    cluster.done(31)
    assert not [worker.output() for worker in workers if "was deleted or expired" in worker.output()]


def test_where_tasks_that_wait_for_their_eta_are_limited_queues_are_consumed_as_ever(
    make_cluster: MakeCluster, rabbitmq_url: str
):
    cluster = make_cluster(rabbitmq_url, **AT_BROKER, global_concurrency_limits={"emails": 1}, worker_eta_task_limit=5)
    cluster.start("w1", concurrency=2)
    cluster.send("held", 20)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one runs")
    wait_until(lambda: worker_has(cluster, "w1"), what="some wait here")
    cluster.oracle.let_go()
    cluster.done(20)


def test_a_deleted_queue_is_declared_anew_and_read_without_a_restart(make_cluster: MakeCluster, rabbitmq_url: str):
    cluster = make_cluster(rabbitmq_url, **AT_BROKER, global_concurrency_limits={"emails": 1})
    (worker,) = cluster.start("w1", concurrency=2)
    cluster.send("held", 30)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one runs")
    wait_until(lambda: cluster.waiting_in("emails") >= 28, what="what waits does so at the broker")
    delete(rabbitmq_url, "emails")
    cluster.oracle.let_go()  # the next message is asked for: there is no such queue
    wait_until(lambda: is_there(rabbitmq_url, "emails"), what="it is declared")

    def runs_what_comes() -> bool:
        cluster.send("nap", 1, 0.01, first=1000)  # between its declaration and its binding, what is sent is lost
        return cluster.oracle.count("s", "nap") > 0

    wait_until(runs_what_comes, what="it is read")
    assert "Unrecoverable error" not in worker.output()


def delete(url: str, queue: str) -> None:
    """Delete a queue of a RabbitMQ, as an operator might."""
    with Connection(url) as connection, connection.channel() as channel:
        channel.queue_delete(queue)


def is_there(url: str, queue: str) -> bool:
    """Whether a RabbitMQ has a queue."""
    with Connection(url) as connection, connection.channel() as channel:
        try:
            channel.queue_declare(queue, passive=True)
        except NotFound:
            return False
    return True
