"""Redis as the broker: parked messages aren't delivered twice, and what waits blocks nothing else."""

from __future__ import annotations

import time

import pytest

from tests.servers import wait_until

#: Transport options with which the broker delivers again what was not acknowledged within three seconds. The other
#: two have kombu look for such messages every second (celery 5.7; before, every hundred).
IMPATIENT = {"visibility_timeout": 3, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}


def watch(seconds: float, *looks) -> list[set]:
    """What each of *looks* gave over so many seconds."""
    seen: list[set] = [set() for _ in looks]
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for values, look in zip(seen, looks, strict=True):
            values.add(look())
        time.sleep(0.05)
    return seen


# -- Parked for longer than the visibility time-out ---------------------------------------------------------


def test_a_task_parked_for_thrice_the_visibility_time_out_is_never_delivered_again(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"emails": 1}, broker_transport_options=IMPATIENT)
    workers = cluster.start("w1", "w2", queues="emails,other", concurrency=2)
    cluster.send("nap", 1, 10)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="the long one runs")
    with cluster.client as client:
        wait_until(lambda: client.hlen("unacked") == 0, what="its message is acknowledged")
        cluster.send("nap", 1, 0.05, first=1)
        wait_until(lambda: client.hlen("unacked") == 1, what="the other one is parked")
        unacked, queued = watch(9, lambda: client.hlen("unacked"), lambda: client.llen("emails"))
        cluster.done(2)
        assert [worker.stop() for worker in workers] == [0, 0], "whatever they still had has run"
        assert cluster.oracle.starts() == [0, 1]
        assert unacked == {1}
        assert queued == {0}
        assert (client.hlen("unacked"), client.llen("emails")) == (0, 0)


@pytest.mark.parametrize(
    "options",
    [{"global_keyprefix": "mine:"}, {"queue_order_strategy": "priority", "priority_steps": [0, 5, 9]}],
    ids=["key-prefix", "priorities"],
)
def test_parked_tasks_run_once_and_in_order_with_these_transport_options(make_cluster, options):
    options = {**options, **IMPATIENT, "visibility_timeout": 2}
    cluster = make_cluster(
        global_concurrency_limits={"emails": 1}, broker_transport_options=options, worker_disable_prefetch=True
    )
    (worker,) = cluster.start("w1", queues="emails,other", concurrency=2)
    cluster.send("nap", 1, 6)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="the long one runs")
    cluster.send("nap", 20, 0.02, first=1, priority=5)
    cluster.send("pooled", 10, 0.01, queue="other", first=100)
    cluster.done(10, name="pooled", seconds=5)
    cluster.done(31)
    assert cluster.oracle.starts("nap") == list(range(21))
    assert cluster.oracle.peak("nap") == 1
    assert worker.stop() == 0
    assert len(cluster.oracle.starts()) == 31
    prefix = options.get("global_keyprefix", "")
    with cluster.client as client:
        assert client.hlen(f"{prefix}unacked") == 0, "no message is left"


# -- What waits blocks nothing else -----------------------------------------------------------------------


def test_a_worker_holds_no_more_messages_of_a_full_queue_than_is_stated(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"emails": 1})
    cluster.send("nap", 200, 60)
    cluster.start("w1", queues="emails,other", concurrency=4)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one saturated task runs")
    cluster.send("pooled", 60, 0.01, queue="other", first=1000)
    cluster.done(60, seconds=20)
    with cluster.client as client:
        wait_until(lambda: client.hlen("unacked") <= 3 * 1 + 4, what="no more are held")
        (held,) = watch(1.5, lambda: client.hlen("unacked"))
        assert max(held) <= 3 * 1 + 4
        assert min(held) >= 1
        assert client.llen("emails") == 200 - 1 - client.hlen("unacked")


def test_with_prefetch_disabled_parked_tasks_do_not_stop_other_queues(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"emails": 1}, worker_disable_prefetch=True)
    cluster.send("nap", 50, 60)
    cluster.start("w1", queues="emails,other", concurrency=2)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one saturated task runs")
    cluster.send("pooled", 30, 0.01, queue="other", first=1000)
    cluster.done(30, seconds=10)
    assert cluster.oracle.peak() == 2


def test_with_prefetch_disabled_a_worker_takes_no_more_uncovered_tasks_than_it_runs(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"emails": 1}, worker_disable_prefetch=True)
    cluster.send("nap", 50, 60)
    cluster.send("pooled", 50, 60, queue="other", first=1000)
    cluster.start("w1", queues="emails,other", concurrency=3)
    wait_until(lambda: cluster.oracle.count("s") == 3, what="one saturated task and two others run")
    with cluster.client as client:
        (left,) = watch(1.5, lambda: client.llen("other"))
    assert min(left) >= 50 - 3


def test_a_task_that_no_limit_covers_is_found_behind_three_hundred_that_wait(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"task:tests.cluster.app.nap": 1})
    cluster.send("nap", 300, 60)
    cluster.send("pooled", 5, 0.01, first=1000)
    cluster.start("w1", concurrency=4)
    cluster.done(5, name="pooled", seconds=10)
    assert cluster.oracle.starts("nap") == [0]


def test_looking_past_what_waits_keeps_its_order(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"task:tests.cluster.app.nap": 1})
    cluster.start("w1", concurrency=4)
    cluster.send("nap", 1, 4)
    for first in (1, 51, 101):
        cluster.send("nap", 50, 0.01, first=first)
        cluster.send("pooled", 2, 0.01, first=1000 + first)
    cluster.done(6, name="pooled", seconds=4)
    cluster.done(151, name="nap")
    assert cluster.oracle.starts("nap") == list(range(151))
    assert sorted(cluster.oracle.starts("pooled")) == [1001, 1002, 1051, 1052, 1101, 1102]


# -- Handing back -------------------------------------------------------------------------------------------


def test_a_message_of_a_topic_exchange_is_neither_doubled_nor_lost_when_it_is_handed_back(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"topics": 0, "sports": 0})
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
    cluster = make_cluster(global_concurrency_limits={"task:tests.cluster.app.nap": 1})
    cluster.special = ("fan",)
    (worker,) = cluster.start("w1", queues="fan,other", concurrency=4)
    with cluster.client as client:  # what is published before that, nobody gets: its queue, and remote control
        wait_until(lambda: client.pubsub_numpat() >= 2, what="the worker has subscribed")
    cluster.send("nap", 60, 0.02, queue="fan")
    cluster.done(60)
    assert cluster.oracle.peak() == 1
    assert cluster.oracle.count("s") == 60
    assert "lost" not in worker.output()


def test_many_tasks_behind_those_of_a_full_limit_keep_the_free_slots_busy(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"task:tests.cluster.app.nap": 1})
    cluster.send("nap", 60, 60)
    cluster.send("pooled", 300, 0.01, first=1000)
    cluster.start("w1", concurrency=4)
    cluster.done(300, name="pooled", seconds=25)
    with cluster.client as client:
        assert client.hlen("unacked") <= 40, "it holds what it has parked, and no more"
