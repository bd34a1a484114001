"""RabbitMQ as the broker: limits hold, saturated queues stay in the broker, nothing is lost."""

from __future__ import annotations


def test_a_queue_limit_holds_over_workers_and_every_task_runs_once(make_cluster, rabbitmq_url):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={"queue:emails": 3})
    cluster.send("nap", 100, 0.05)
    cluster.start("w1", "w2", concurrency=4)
    cluster.done(100)
    assert cluster.oracle.peak() == 3
    assert cluster.oracle.count("s") == 100
