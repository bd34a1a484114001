"""A limit's line is emptied: at the broker and in workers; what runs goes on."""

from __future__ import annotations

import json

import pytest
from celery.exceptions import TaskRevokedError

from celery_gconc import GlobalConcurrency
from tests.kit.servers import wait_until
from tests.kit.workers import Cluster

NAP = "tests.cluster.app.nap"


def in_workers(cluster: Cluster) -> int:
    """How many requests wait in workers for a permit or a slot."""
    app = cluster.app()
    try:
        told = app.control.inspect([worker.node for worker in cluster.workers], timeout=5).stats() or {}
        return sum(one["global_concurrency"]["parked"] for one in told.values())
    finally:
        app.close()


def purge(cluster: Cluster, *arguments: str) -> dict:
    """What ``gconc purge`` says."""
    result = cluster.celery("gconc", "purge", "--force", "--json", "--timeout", "10", *arguments)
    assert result.returncode == 0, result.stderr + result.stdout
    return json.loads(result.stdout)


@pytest.mark.wild("workers", "`celery purge` with 500 waiting for a queue's limit, on Redis",
                  result="`gconc purge` empties the queue, in workers too")  # fmt: skip
def test_purge_of_a_queue_removes_what_waits_at_the_broker_and_in_workers_and_leaves_what_runs(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"emails": 1})
    cluster.start("w1", "w2", concurrency=2)
    app = cluster.app()
    cluster.send("nap", 1, 60)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one runs")
    waiting = [app.send_task(NAP, (number, 0), queue="emails") for number in range(1, 501)]
    app.send_task(NAP, (1000, 0), queue="celery")
    cluster.done(1)  # the one of the other queue
    held = wait_until(lambda: in_workers(cluster), what="workers hold some")

    purged = purge(cluster, "emails")

    assert purged["limit"] == "queue:emails"
    assert purged["at_broker"] + sum(purged["in_workers"].values()) == 500
    assert sum(purged["in_workers"].values()) >= held
    assert (cluster.oracle.starts(), cluster.oracle.count("e")) == ([0, 1000], 1), "the one that runs goes on"
    assert in_workers(cluster) == cluster.waiting_in("emails") == 0
    assert sum(one.state == "REVOKED" for one in waiting) == sum(purged["in_workers"].values())
    with pytest.raises(TaskRevokedError, match="purged"):
        next(one for one in waiting if one.state == "REVOKED").get(timeout=5)
    assert cluster.celery("gconc", "set", "emails", "2").returncode == 0
    cluster.send("nap", 20, 0, first=2000)
    cluster.done(21)
    wait_until(lambda: cluster.permits() == 1, what="no other permit is left")
    app.close()


@pytest.mark.wild("workers", "`celery purge` with 500 waiting for a task's limit, on Redis",
                  result="`gconc purge` removes those that it covers, in all queues")  # fmt: skip
def test_purge_of_a_tasks_limit_removes_its_messages_from_every_queue_and_no_others(make_cluster):
    cluster = make_cluster(global_concurrency_limits={f"task:{NAP}": 1, "other": 0})
    cluster.start("w1", concurrency=2, queues="emails,other")
    cluster.send("nap", 1, 60)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one runs")
    cluster.send("nap", 250, 0, first=1)
    cluster.send("nap", 250, 0, queue="other", first=1)
    cluster.send("pooled", 100, 0, queue="other", first=1000)

    purged = purge(cluster, f"task:{NAP}")

    assert purged["at_broker"] + sum(purged["in_workers"].values()) == 500
    assert cluster.celery("gconc", "set", "other", "5").returncode == 0
    cluster.done(100)
    assert sorted(cluster.oracle.starts()) == [0, *range(1000, 1100)]


@pytest.mark.wild("workers", "`celery purge` with 500 waiting, on RabbitMQ",
                  result="`gconc purge` empties the line, in workers too")  # fmt: skip
@pytest.mark.parametrize("limit", ["queue:emails", f"task:{NAP}"])
def test_purge_over_rabbitmq_removes_what_waits_for_a_limit_of_a_queue_or_a_task(make_cluster, rabbitmq_url, limit):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={limit: 1})
    cluster.send("nap", 1, 60)
    cluster.start("w1", "w2", concurrency=2, queues="emails,other")
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one runs")
    cluster.send("nap", 500, 0, first=1)
    cluster.send("pooled", 5, 0, queue="other", first=1000)
    cluster.done(5)
    if limit.startswith("task:"):  # RabbitMQ doesn't tell which messages a queue holds: what workers have, goes
        wait_until(lambda: in_workers(cluster) == 500, what="workers hold all")

    purged = purge(cluster, limit)

    assert purged["at_broker"] + sum(purged["in_workers"].values()) == 500
    assert (sorted(cluster.oracle.starts()), cluster.oracle.count("e")) == ([0, *range(1000, 1005)], 5)
    assert in_workers(cluster) == cluster.waiting_in("emails") == 0


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_purge_reaches_what_waits_in_workers_of_other_pools(make_cluster, pool):
    cluster = make_cluster(global_concurrency_limits={"emails": 1})
    cluster.start("w1", pool=pool, concurrency=2)
    cluster.send("nap", 1, 60)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one runs")
    cluster.send("nap", 100, 0, first=1)
    wait_until(lambda: in_workers(cluster), what="the worker holds some")
    purged = purge(cluster, "emails")
    assert purged["at_broker"] + purged["in_workers"]["w1@test"] == 100
    wait_until(lambda: cluster.permits() == 1, what="none waits")
    cluster.send("pooled", 5, 0, queue="celery", first=1000)
    cluster.done(5)
    assert cluster.oracle.starts("nap") == [0]


def test_purge_asks_first_and_removes_nothing_where_nobody_says_yes(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"emails": 1})
    cluster.send("nap", 3, 0)
    result = cluster.celery("gconc", "purge", "emails")
    assert (result.returncode, result.stdout) == (1, "")
    assert "all messages waiting for queue:emails" in result.stderr
    assert cluster.waiting_in("emails") == 3
    result = cluster.celery("gconc", "purge", "-f", "emails")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip() == "queue:emails: removed 3 messages: 3 at the broker, 0 in workers"
    assert cluster.celery("gconc", "purge", "-f", "emails").stdout.strip() == "queue:emails: nothing was waiting"


def test_purge_by_the_python_api_tells_what_was_removed_where(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"emails": 1})
    cluster.send("nap", 3, 0)
    app = cluster.app()
    purged = GlobalConcurrency(app).purge("emails")
    assert (purged.limit, purged.at_broker, purged.in_workers, purged.total) == ("queue:emails", 3, {}, 3)
    assert purged.is_complete
    assert purged.silent == ()
    app.close()


def test_purge_of_app_leaves_celerys_own_tasks(make_cluster):
    cluster = make_cluster()
    cluster.send("nap", 3, 0)
    app = cluster.app()
    app.send_task("celery.backend_cleanup", queue="emails")
    app.close()
    assert purge(cluster, "app")["at_broker"] == 3
    assert cluster.waiting_in("emails") == 1
