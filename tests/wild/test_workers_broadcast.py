"""Queues that have another name in each process: a limit on one goes by the name that its declaration gives it."""

from __future__ import annotations

import json

import pytest
import redis

from celery_gconc import Operations
from tests.cluster.queues import SPECIAL
from tests.kit.servers import wait_until

#: Where a copy goes to every worker. (celery 5.4-5.7 declares no Broadcast queue when it sends, and on Redis a process
#: that never declared the exchange doesn't know that it is a fanout.)
RELOAD = {"queue": "reload", "declare": [SPECIAL["reload"].exchange]}


@pytest.mark.wild("workers", "a limit on a Broadcast queue", result="one limit for all processes, by its name")
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_limit_on_a_broadcast_queue_holds_for_the_copies_of_all_workers(make_cluster, request, redis_url, broker):
    url = redis_url if broker == "redis" else request.getfixturevalue("rabbitmq_url")
    cluster = make_cluster(url, global_concurrency_limits={"reload": 1})
    cluster.special = ("reload",)
    cluster.start("w1", "w2", "w3", concurrency=2, queues="reload")
    if broker == "redis":  # what is published before a worker listens is lost: a worker is ready a moment before
        with cluster.client as client:
            wait_until(lambda: listening(client) == 3, what="all workers listen to the queue")
    cluster.send("nap", 4, 0.1, **RELOAD)
    cluster.done(12)
    assert cluster.oracle.peak() == 1
    status = json.loads(cluster.celery("gconc", "status", "--json").stdout)
    queues = {"queue:reload"}
    assert {limit["limit"] for limit in status["limits"] if limit["limit"].startswith("queue:")} == queues
    assert [set(one["configured"]) & queues for one in status["sessions"]] == [queues] * 3


def listening(client: redis.Redis) -> int:
    """How many clients listen to the queue, beside those that listen to remote control."""
    patterns = [int(one["psub"]) for one in client.client_list(_type="pubsub")]
    return sum(patterns) - 3


@pytest.mark.wild("workers", "`gconc purge` of a Broadcast queue", result="the copies of all workers")
def test_holders_and_purge_know_a_broadcast_queue_by_its_name(make_cluster, rabbitmq_url):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={"reload": 1})
    cluster.special = ("reload",)
    cluster.start("w1", "w2", concurrency=2, queues="reload")
    cluster.send("nap", 1, 60, **RELOAD)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one copy runs, and one waits")
    cluster.send("nap", 100, 0, **RELOAD, first=1)
    holders = json.loads(cluster.celery("gconc", "holders", "reload", "--json").stdout)
    assert [one["limits"] for one in holders] == [["queue:reload"]]
    purged = json.loads(cluster.celery("gconc", "purge", "reload", "-f", "--json", "--timeout", "10").stdout)
    assert purged["at_broker"] + sum(purged["in_workers"].values()) == 201
    wait_until(lambda: cluster.permits() == 1, what="one runs, and none waits")
    assert (cluster.oracle.count("s"), cluster.oracle.count("e")) == (1, 0)


@pytest.mark.wild("workers", "a limit on a queue that RabbitMQ names (`Queue(\"\", alias=...)`)",
                  result="one limit for all processes, by its alias")  # fmt: skip
def test_a_limit_on_a_queue_that_rabbitmq_names_holds_for_all_workers_by_its_alias(make_cluster, rabbitmq_url):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={"mine": 1})
    cluster.special = ("mine",)
    cluster.start("w1", "w2", concurrency=2, queues="mine")
    app = cluster.app()
    for number in range(5):
        app.send_task("tests.cluster.app.nap", (number, 0.1), exchange="mine", routing_key="mine")
    app.close()
    cluster.done(10)
    assert cluster.oracle.peak() == 1


@pytest.mark.wild("workers", "a limit on a worker's own queue (`worker_direct`)", result="applies to that worker only")
def test_a_limit_on_a_workers_direct_queue_holds(make_cluster):
    cluster = make_cluster(worker_direct=True, global_concurrency_limits={"queue:w1@test.dq2": 1})
    cluster.start("w1", concurrency=4, queues="emails")
    app = cluster.app()
    for number in range(10):
        app.send_task("tests.cluster.app.nap", (number, 0.05), exchange="C.dq2", routing_key="w1@test")
    app.close()
    cluster.done(10)
    assert cluster.oracle.peak() == 1


def test_every_process_names_a_limit_on_a_broadcast_queue_alike():
    from celery import Celery
    from kombu import Exchange, Queue
    from kombu.common import Broadcast

    app = Celery(set_as_current=False)
    app.conf.task_queues = [
        Broadcast("all", queue="all-of-host7"),
        Broadcast(exchange=Exchange("x", type="fanout")),
        Queue("", alias="mine", exclusive=True),
        Queue("mail.out", alias="mail"),
    ]
    names = [Operations(app).full_name(name) for name in ("all", "all-of-host7", "mine", "mail", "mail.out", "none")]
    assert names == ["queue:all", "queue:all", "queue:mine", "queue:mail.out", "queue:mail.out", "queue:none"]
    app.close()
