"""Redis as the broker: the suite, and what only its lists and its visibility time-out have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest
import redis

from tests.brokers.exercise import (
    FOR_EVER,
    HELD,
    NAP,
    Broker,
    Exercise,
    LongWait,
    beside,
    started,
    starts_by,
    starts_of_a_hung_workers_surplus,
    wait_for_long,
    wait_for_parked,
    watch,
)
from tests.kit.keys import key
from tests.kit.namespace import begin_namespace
from tests.kit.servers import RedisServer, redis_server, wait_until
from tests.kit.tiers import starts
from tests.kit.workers import SHORT_POLLS, Cluster, cluster

#: Transport options with which the broker delivers again what was not acknowledged within three seconds. The other
#: two have kombu look for such messages every second (celery 5.7; before, every hundred).
IMPATIENT: Mapping[str, object] = {
    "visibility_timeout": 3,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}

#: How such a broker is used: transport options, settings, how many tasks are parked, and by which workers.
USES: dict[str, tuple[Mapping[str, object], Mapping[str, object], int, tuple[str, ...]]] = {
    "one-task-and-two-workers": ({}, {}, 1, ("w1", "w2")),
    "key-prefix": ({"global_keyprefix": "mine:"}, {"worker_disable_prefetch": True}, 20, ("w1",)),
    "priorities": (
        {"queue_order_strategy": "priority", "priority_steps": [0, 5, 9]},
        {"worker_disable_prefetch": True},
        20,
        ("w1",),
    ),
}


def wait_with(use: str, folder: Path) -> LongWait:
    """What was seen of tasks that were parked for longer than the visibility time-out, on servers of their own."""
    options, conf, count, workers = USES[use]
    settings = {
        **conf,
        "global_concurrency_limits": {"emails": 1},
        "broker_transport_options": {**IMPATIENT, **options},
    }
    prefix = options.get("global_keyprefix", "")
    with (
        redis_server() as server,
        redis_server() as oracle,
        cluster(server.url, server.url, oracle.url, folder, **settings) as made,
        redis.Redis.from_url(server.url) as client,
    ):
        begin_namespace(server.url)
        looks = {
            "unacknowledged": lambda: client.hlen(f"{prefix}unacked"),
            "in the queue": lambda: client.llen(f"{prefix}emails"),
        }
        return wait_for_long(made, 3.0, ["emails"], count, looks, *workers, priority=5)


@pytest.fixture(scope="module", autouse=True)
@starts("process")
def long_waits(
    request: pytest.FixtureRequest, redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[LongWait]]]:
    """The long waits with all uses."""
    with beside(request, {use: partial(wait_with, use, tmp_path_factory.mktemp(use)) for use in USES}) as waits:
        yield waits


@pytest.fixture(params=USES)
def impatient(request: pytest.FixtureRequest, long_waits: dict[str, Future[LongWait]]) -> LongWait:
    """What was seen with one use."""
    return long_waits[request.param].result(300)


class TestRedis(Exercise):
    """The suite."""

    @pytest.fixture
    def broker(self, redis_url: str) -> Broker:
        return Broker(redis_url, priorities=(0, 5, 9))

    @pytest.fixture
    def long_wait(self, impatient: LongWait) -> LongWait:
        return impatient

    def test_parked_tasks_start_in_their_order_and_leave_no_message(self, long_wait):
        (numbers,) = long_wait.parked.values()
        assert [number for number in long_wait.starts if number in numbers] == list(numbers)
        assert long_wait.left == {"unacknowledged": 0, "in the queue": 0}
        if len(numbers) == 1:
            assert long_wait.seen == {"unacknowledged": {1}, "in the queue": {0}}, "it was never delivered again"


# -- What waits blocks nothing else -----------------------------------------------------------------------


def test_with_prefetch_disabled_parked_tasks_do_not_stop_other_queues(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"emails": 1}, worker_disable_prefetch=True)
    cluster.send("held", 50)
    cluster.start("w1", queues="emails,other", concurrency=3)
    started(cluster, 1)
    cluster.send("pooled", 30, 0.01, queue="other", first=1000)
    cluster.done(30, seconds=10)
    # Nor does it take more of those that no limit covers than it can run.
    cluster.send("held", 50, queue="other", first=2000)
    started(cluster, 33)
    with cluster.client as client:
        assert min(watch(1.5, lambda: client.llen("other"))) >= 50 - 2 - 1
    assert cluster.oracle.peak() == 3


def test_a_task_that_no_limit_covers_is_found_behind_hundreds_that_wait_which_keep_their_order(make_cluster):
    cluster = make_cluster(global_concurrency_limits={HELD: 1})
    cluster.send("held", 1)
    for first in (1, 101, 201):
        cluster.send("held", 100, first=first)
        cluster.send("pooled", 2, 0.01, first=1000 + first)
    cluster.start("w1", concurrency=4)
    cluster.done(6, name="pooled", seconds=10)
    assert sorted(cluster.oracle.starts("pooled")) == [1001, 1002, 1101, 1102, 1201, 1202]
    assert cluster.oracle.starts("held") == [0]
    cluster.oracle.let_go()
    cluster.done(301, name="held")
    assert cluster.oracle.starts("held") == list(range(301))


def test_many_tasks_behind_those_of_a_full_limit_keep_the_free_slots_busy(make_cluster):
    cluster = make_cluster(global_concurrency_limits={NAP: 1})
    cluster.send("nap", 600, FOR_EVER)  # more than it looks at in one go
    cluster.send("pooled", 150, 0.01, first=1000)
    cluster.start("w1", concurrency=4)
    cluster.done(150, name="pooled", seconds=25)
    with cluster.client as client:
        assert client.hlen("unacked") <= 40, "it holds what it has parked, and no more"


# -- Handing back -------------------------------------------------------------------------------------------


def test_what_a_hung_worker_without_an_event_loop_has_read_starts_in_another(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"emails": 4}, worker_prefetch_multiplier=2)
    starts_of_a_hung_workers_surplus(cluster, "gevent")


def told(cluster: Cluster, what: bytes) -> list[int]:
    """What Redis was told by each session: room, or how many syncs there were."""
    with cluster.client as client:
        fields = client.hgetall(key("session"))
    return [int(value) for field, value in fields.items() if field.endswith(b":" + what)]


@pytest.mark.wild("workers", "a message waits in a full worker, and all others are full", result="starts where it is")
def test_where_all_are_full_a_message_stays_where_it_is_and_gets_the_next_slot(make_cluster):
    cluster = make_cluster(
        global_concurrency_limits={"emails": 4},
        global_concurrency_heartbeat_interval=0.5,
        global_concurrency_heartbeat_timeout=5,
    )
    cluster.send("late", 1, FOR_EVER, queue="custom", routing_key="some.key")
    (b,) = cluster.start("b", concurrency=1, queues="custom")
    cluster.send("pooled", 1, FOR_EVER, queue="other", task_id="before")
    (a,) = cluster.start("a", concurrency=1, queues="emails,other")
    cluster.send("nap", 1, 0.1, first=7)
    wait_for_parked(cluster, a, 1)
    wait_until(lambda: told(cluster, b"room") == [0, 0], what="Redis knows that both are full")
    control = cluster.app().control
    control.add_consumer("emails", destination=[b.node], reply=True)
    begun = sum(told(cluster, b"sync"))
    wait_until(lambda: sum(told(cluster, b"sync")) > begun + 8, what="a has asked several times")
    control.revoke("before", terminate=True)
    cluster.done(1, name="nap")
    assert starts_by(cluster, a, "nap") == {7}
    wait_until(lambda: "nap[" in a.output() and "] succeeded" in a.output(), what="its log tells of the end")
    assert a.output().count("cluster.app.nap[") == 2, "received and succeeded: it never left"
    assert "cluster.app.nap[" not in b.output()


def test_a_message_of_a_topic_exchange_is_neither_doubled_nor_lost_when_it_is_handed_back(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"topics": 0, "sports": 0}, broker_transport_options=SHORT_POLLS)
    cluster.special = ("sports",)
    first, second = cluster.spawn("w1", queues="topics"), cluster.spawn("w2", queues="sports")
    cluster.ready()
    cluster.send("nap", 3, 0.01, queue="topics", routing_key="news.sports")
    for worker in (first, second):
        wait_until(lambda worker=worker: worker.output().count("received") == 3, what="each queue has had its copy")
    with cluster.client as client:
        assert first.stop() == 0
        assert (client.llen("topics"), client.llen("sports")) == (3, 0), "the other worker has its copies still"
        assert second.output().count("received") == 3
        assert second.stop() == 0
        assert (client.llen("topics"), client.llen("sports")) == (3, 3)
        assert client.hlen("unacked") == 0


def test_a_fanout_queue_which_is_a_subscription_is_never_cancelled_and_loses_nothing(make_cluster):
    cluster = make_cluster(global_concurrency_limits={NAP: 1})
    cluster.special = ("fan",)
    (worker,) = cluster.start("w1", queues="fan,other", concurrency=4)
    with cluster.client as client:  # what is published before that, nobody gets: its queue, and remote control
        wait_until(lambda: client.pubsub_numpat() >= 2, what="the worker has subscribed")
    cluster.send("nap", 60, 0.02, queue="fan")
    cluster.done(60)
    assert cluster.oracle.peak() == 1
    assert cluster.oracle.count("s") == 60
    assert "lost" not in worker.output()
