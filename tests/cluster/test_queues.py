"""Which queue a task came from, and what waits where: saturated limits block nobody else."""

from __future__ import annotations

from tests.servers import wait_until


def test_a_queue_is_known_by_itself_and_not_by_its_routing_key(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"queue:custom": 1, "queue:topics": 1, "mail": 1})
    cluster.start("w1", "w2", queues="custom,topics,mail.out", concurrency=4)
    cluster.send("nap", 10, 0.05, queue="custom")
    cluster.send("two", 10, 0.05, queue="topics", routing_key="news.today", first=100)
    cluster.send("pooled", 10, 0.05, queue="mail", first=200)
    cluster.done(30)
    assert cluster.oracle.peak("nap") == 1, "custom routing key"
    assert cluster.oracle.peak("two") == 1, "topic exchange"
    assert cluster.oracle.peak("pooled") == 1, "alias"
    assert cluster.oracle.peak() > 1, "but they don't limit each other"


def test_two_hundred_saturated_tasks_delay_no_other_queue_and_stay_in_the_broker(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1})
    cluster.send("nap", 200, 30)
    cluster.start("w1", queues="emails,other", concurrency=4)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one saturated task runs")
    cluster.send("nap", 30, 0.01, queue="other", first=1000)
    cluster.done(30, seconds=20)
    client = cluster.client
    assert client.llen("emails") >= 150
    assert cluster.oracle.count("s") == 31
    client.close()


def test_a_limit_on_a_task_blocks_no_other_queue(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"task:tests.cluster.app.nap": 1})
    cluster.send("nap", 100, 30)
    cluster.start("w1", queues="emails,other", concurrency=4)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one saturated task runs")
    cluster.send("pooled", 30, 0.01, queue="other", first=1000)
    cluster.done(30, seconds=20)
    client = cluster.client
    assert client.llen("emails") >= 50
    client.close()


def test_the_subscription_shows_all_queues_while_one_is_stopped(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1})
    cluster.send("nap", 50, 30)
    cluster.start("w1", queues="emails,other")
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one saturated task runs")
    app = cluster.app()
    wait_until(
        lambda: (
            [told["global_concurrency"]["stopped_queues"] for told in (app.control.inspect().stats() or {}).values()]
            == [["emails"]]
        ),
        what="the worker tells which queue is stopped",
    )
    active = app.control.inspect().active_queues()
    assert {queue["name"] for queue in active["w1@test"]} == {"emails", "other"}
    app.close()


def test_a_limited_task_gets_its_turn_on_a_worker_flooded_with_others(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"task:tests.cluster.app.nap": 1})
    cluster.start("w1", queues="emails,other", concurrency=2)
    cluster.send("pooled", 400, 0.02, queue="other", first=1000)
    cluster.send("nap", 5, 0.02, queue="emails")
    cluster.done(5, name="nap", seconds=30)
    assert cluster.oracle.count("e", "pooled") < 400, "they had to wait for all the others"
    assert cluster.oracle.peak("nap") == 1


def test_tasks_that_share_a_limit_start_in_order_though_other_limits_cover_some_of_them(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"emails": 1, "task:tests.cluster.app.pooled": 5})
    for number in range(0, 24, 4):
        cluster.send("pooled", 1, 0.02, first=number)
        cluster.send("nap", 3, 0.02, first=number + 1)
    cluster.start("w1")
    cluster.done(24)
    assert cluster.oracle.starts() == list(range(24))
    assert cluster.oracle.peak() == 1
