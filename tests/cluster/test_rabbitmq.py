"""RabbitMQ as the broker: limits hold, saturated queues stay in the broker, nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from kombu import Connection

from tests.cluster.kit import Cluster, Worker, cluster
from tests.cluster.queues import SPECIAL
from tests.cluster.versions import needs_quorum_queues
from tests.proxy import proxy
from tests.servers import RedisServer, rabbitmq_server, wait_until

#: What a worker's log says when the broker has closed its channel or its connection.
CHANNEL_CLOSED = ("PRECONDITION_FAILED", "Unrecoverable", "Connection to broker lost", "Traceback")


@pytest.fixture
def rabbitmq_url(rabbitmq_url: str) -> str:
    """The URL of a RabbitMQ without the special queues either."""
    with Connection(rabbitmq_url) as connection, connection.channel() as channel:
        for queue in SPECIAL.values():
            if queue.name:
                channel.queue_delete(queue.name)
    return rabbitmq_url


def stats(cluster: Cluster, worker: Worker) -> dict:
    """What the worker says of its limits."""
    app = cluster.app()
    try:
        replies = app.control.inspect([worker.node], timeout=2).stats() or {}
        return replies.get(worker.node, {}).get("global_concurrency", {})
    finally:
        app.close()


def subscribed(cluster: Cluster, worker: Worker) -> set[str]:
    """The queues that ``inspect active_queues`` shows."""
    app = cluster.app()
    try:
        replies = wait_until(app.control.inspect([worker.node], timeout=2).active_queues, what="the worker answers")
        return {queue["name"] for queue in replies[worker.node]}
    finally:
        app.close()


# -- Limits hold, in order --------------------------------------------------------------------------------


def test_a_queue_limit_holds_over_workers_and_every_task_runs_once(make_cluster, rabbitmq_url):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={"queue:emails": 3})
    cluster.send("nap", 100, 0.05)
    cluster.start("w1", "w2", concurrency=4)
    cluster.done(100)
    assert cluster.oracle.peak() == 3
    assert sorted(cluster.oracle.starts()) == list(range(100))


@needs_quorum_queues
def test_limits_hold_over_quorum_queues_and_topic_exchanges_and_every_task_runs_once(make_cluster, rabbitmq_url):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={"emails": 2, "topics": 2, "quorum": 2})
    cluster.special = ("quorum",)
    cluster.send("nap", 40, 0.05)
    cluster.send("pooled", 40, 0.05, queue="topics", routing_key="news.today", first=100)
    cluster.send("delivery", 40, 0.05, queue="quorum", first=200)
    cluster.start("w1", "w2", concurrency=6, queues="emails,topics,quorum")
    cluster.done(120)
    oracle = cluster.oracle
    assert (oracle.peak("nap"), oracle.peak("pooled"), oracle.peak("delivery")) == (2, 2, 2)
    assert oracle.peak() > 2, "they don't limit each other"
    assert sorted(oracle.starts()) == [*range(40), *range(100, 140), *range(200, 240)]


@needs_quorum_queues
def test_tasks_of_every_kind_of_queue_start_in_the_order_in_which_they_were_sent(make_cluster, rabbitmq_url):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={"emails": 1, "topics": 1, "quorum": 1})
    cluster.special = ("quorum",)
    cluster.send("nap", 40, 0.02)
    cluster.send("pooled", 40, 0.02, queue="topics", routing_key="news.today")
    cluster.send("delivery", 40, 0.02, queue="quorum")
    cluster.start("w1", concurrency=4, queues="emails,topics,quorum")
    cluster.done(120)
    for name in ("nap", "pooled", "delivery"):
        assert cluster.oracle.starts(name) == list(range(40)), name
        assert cluster.oracle.peak(name) == 1


def test_priorities_of_a_queue_go_before_its_order(make_cluster, rabbitmq_url):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={"emails": 1}, task_queue_max_priority=10)
    cluster.send("nap", 30, 0.02, priority=1)
    cluster.send("nap", 30, 0.02, priority=5, first=100)
    cluster.start("w1", concurrency=4)
    cluster.done(60)
    assert cluster.oracle.starts() == [*range(100, 130), *range(30)]
    assert cluster.oracle.peak() == 1


def test_green_threaded_and_solo_workers_share_a_limit_and_all_take_part(make_cluster, rabbitmq_url):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={"emails": 2})
    workers = [cluster.spawn(pool, pool=pool, concurrency=2) for pool in ("gevent", "threads", "solo")]
    cluster.ready(*workers)
    cluster.send("nap", 60, 0.1)
    cluster.done(60)
    assert cluster.oracle.peak() == 2
    assert sorted(cluster.oracle.starts()) == list(range(60))
    assert {event.pid for event in cluster.oracle.events()} == {worker.process.pid for worker in workers}


# -- What waits, waits in the broker ----------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["emails", pytest.param("quorum", marks=needs_quorum_queues)])
def test_two_hundred_saturated_tasks_delay_no_other_queue_and_stay_in_the_broker(make_cluster, rabbitmq_url, queue):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={queue: 1})
    cluster.special = ("quorum",) if queue == "quorum" else ()
    cluster.send("nap", 200, 60, queue=queue)
    cluster.start("w1", queues=f"{queue},other", concurrency=4)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one saturated task runs")
    cluster.send("pooled", 60, 0.01, queue="other", first=1000)
    cluster.done(60, seconds=20)
    assert cluster.oracle.count("s", "nap") == 1
    # What the broker sends before it hears that the queue is stopped comes on top: as much as the prefetch count.
    prefetch = 4 * 4
    assert 1 <= 200 - 1 - cluster.waiting_in(queue) <= 3 * 1 + 4 + prefetch


def test_tasks_parked_for_their_own_limit_leave_the_prefetch_to_other_queues(make_cluster, rabbitmq_url):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={"task:tests.cluster.app.nap": 1})
    cluster.send("nap", 100, 60)
    cluster.start("w1", queues="emails,other", concurrency=4)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one saturated task runs")
    cluster.send("pooled", 60, 0.01, queue="other", first=1000)
    cluster.done(60, seconds=20)
    assert cluster.oracle.count("s", "nap") == 1


def test_an_operator_who_cancels_a_stopped_queue_is_obeyed_through_a_reconnect(
    make_cluster, rabbitmq_process, rabbitmq_url
):
    with proxy(rabbitmq_process.port) as link:
        cluster = make_cluster(
            rabbitmq_url.replace(str(rabbitmq_process.port), str(link.port)), global_concurrency_limits={"emails": 1}
        )
        (worker,) = cluster.start("w1", queues="emails,other")
        cluster.broker = rabbitmq_url
        cluster.send("nap", 1, 5)
        cluster.send("nap", 60, 0.02, first=1)
        wait_until(lambda: stats(cluster, worker).get("stopped_queues") == ["emails"], what="the queue is stopped")
        assert subscribed(cluster, worker) == {"emails", "other"}

        control = cluster.app().control
        control.cancel_consumer("emails", destination=[worker.node], reply=True)
        left = wait_until(lambda: cluster.waiting_in("emails"), what="some stayed in the broker")
        cluster.done(61 - left, seconds=30)
        cluster.send("pooled", 1, 0.01, queue="other", first=1000)
        cluster.done(1, name="pooled")
        assert subscribed(cluster, worker) == {"other"}
        assert cluster.waiting_in("emails") == left, "we resumed a queue that the operator had cancelled"

        link.cut()
        link.restore()
        cluster.send("pooled", 1, 0.01, queue="other", first=1001)
        cluster.done(2, name="pooled")
        assert subscribed(cluster, worker) == {"other"}
        assert cluster.waiting_in("emails") == left, "the reconnect resumed a queue that the operator had cancelled"

        control.add_consumer("emails", destination=[worker.node], reply=True)
        cluster.done(61, name="nap", seconds=30)
        assert cluster.oracle.starts("nap") == list(range(61))


def test_an_operator_who_cancels_and_adds_a_stopped_queue_gets_it_consumed(make_cluster, rabbitmq_url):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={"emails": 1})
    (worker,) = cluster.start("w1", queues="emails,other")
    cluster.send("nap", 1, 5)
    cluster.send("nap", 60, 0.02, first=1)
    wait_until(lambda: stats(cluster, worker).get("stopped_queues") == ["emails"], what="the queue is stopped")
    control = cluster.app().control
    control.cancel_consumer("emails", destination=[worker.node], reply=True)
    control.add_consumer("emails", destination=[worker.node], reply=True)
    assert subscribed(cluster, worker) == {"emails", "other"}
    cluster.done(61, seconds=30)
    assert cluster.oracle.starts() == list(range(61))
    assert cluster.oracle.peak() == 1


# -- A broker that bears no unacknowledged message for longer than four seconds -----------------------------

#: The broker's ``consumer_timeout``, and how long tasks are parked, in seconds.
CONSUMER_TIMEOUT, PARKED_FOR = 4.0, 13.0

#: Each queue, and the number of its first parked task; how many there are of each: more than a queue is stopped at.
IMPATIENT, PARKED = {"emails": 10, "quorum": 20, "strict": 30, "single": 40}, 9


@dataclass
class LongWait:
    """What was seen while tasks of four queues were parked for thrice the broker's time-out."""

    starts: list[int]
    delivery_counts: dict[int, int]
    single_consumers: set[int]
    log: str


@pytest.fixture(scope="module")
def long_wait(redis_process: RedisServer, oracle_url: str, rabbitmq_process, tmp_path_factory) -> Iterator[LongWait]:
    """One worker, some tasks parked in each of four queues while another runs; then all of them run."""
    limits = {"global_concurrency_limits": dict.fromkeys(IMPATIENT, 1)}
    folder = tmp_path_factory.mktemp("impatient")
    with (
        rabbitmq_server(consumer_timeout=int(CONSUMER_TIMEOUT * 1000)) as server,
        cluster(
            server.url, redis_process.url, oracle_url, folder,
            **limits, global_concurrency_consumer_timeout=CONSUMER_TIMEOUT,
        ) as made,
    ):  # fmt: skip
        made.client.flushall()
        made.special = ("quorum", "strict", "single")
        (worker,) = made.start("w1", queues=",".join(IMPATIENT), concurrency=8)
        for number, queue in enumerate(IMPATIENT):
            made.send("nap", 1, PARKED_FOR, queue=queue, first=number)
        wait_until(lambda: made.oracle.count("s") == len(IMPATIENT), what="the long ones run")
        for queue, first in IMPATIENT.items():
            made.send("delivery", PARKED, 0.01, queue=queue, first=first)
        single_consumers = set()
        ends = time.monotonic() + PARKED_FOR + 20
        with Connection(server.url) as connection, connection.channel() as channel:
            while made.oracle.count("e") < (1 + PARKED) * len(IMPATIENT) and time.monotonic() < ends:
                single_consumers.add(channel.queue_declare("single", passive=True).consumer_count)
                time.sleep(0.1)
        # Where the channel was closed, copies may come late.
        made.send("pooled", 1, 0.01, queue="emails", first=100)
        made.done(1, name="pooled", seconds=20)
        yield LongWait(made.oracle.starts(), made.oracle.delivery_counts(), single_consumers, worker.output())


@needs_quorum_queues
def test_the_brokers_time_out_never_closes_the_channel_of_a_worker_with_parked_tasks(long_wait):
    assert [sign for sign in CHANNEL_CLOSED if sign in long_wait.log] == []


@needs_quorum_queues
def test_tasks_parked_for_thrice_the_brokers_time_out_run_once(long_wait):
    parked = [number for first in IMPATIENT.values() for number in range(first, first + PARKED)]
    assert sorted(number for number in long_wait.starts if 10 <= number < 100) == parked
    assert sorted(number for number in long_wait.starts if number < 10) == list(range(len(IMPATIENT)))


@needs_quorum_queues
def test_a_parked_message_is_handed_back_once_in_each_half_of_the_brokers_time_out(long_wait):
    handed_back = [long_wait.delivery_counts[IMPATIENT["quorum"] + task] for task in range(PARKED)]
    assert max(handed_back) <= PARKED_FOR / (CONSUMER_TIMEOUT / 2) + 1


@needs_quorum_queues
def test_waiting_never_uses_up_the_delivery_limit_of_a_quorum_queue(long_wait):
    strict = [long_wait.delivery_counts.get(IMPATIENT["strict"] + task) for task in range(PARKED)]
    assert None not in strict, "the broker dropped it"
    assert max(strict) <= 4


@needs_quorum_queues
def test_a_queue_with_a_single_active_consumer_is_never_cancelled(long_wait):
    assert long_wait.single_consumers == {1}
