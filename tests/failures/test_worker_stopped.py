"""A worker stands still (SIGSTOP, a frozen or suspended machine), and goes on."""

from __future__ import annotations

import os
import signal

import pytest
import redis

from tests.failures.worker_kit import (
    INTERVAL,
    TIMEOUT,
    gone,
    heard,
    no_leak,
    passed,
    received,
    session_of,
    sessions,
    stats,
    stopped,
)
from tests.kit.servers import patience, wait_until


def test_a_pause_shorter_than_the_lease_costs_nothing(pair):
    cluster, worker, other = pair(global_concurrency_limits={"pool:db": 2})
    known = sessions(cluster)
    cluster.send("pooled", 2, 2.0)
    heard(cluster, "s", 0, 1)
    cluster.send("pooled", 3, 0.1, queue="other", first=10)
    received(other, 3)
    with stopped(cluster, worker) as since:
        passed(cluster, since, TIMEOUT - 2 * INTERVAL)
    ended = heard(cluster, "e", 0, 1)
    assert heard(cluster, "s", 10) >= min(e.time for e in cluster.oracle.events() if e.kind == "e")
    assert ended > since
    heard(cluster, "e", 10, 11, 12)
    no_leak(cluster)
    assert cluster.oracle.peak() == 2
    assert sessions(cluster) == known
    assert stats(cluster, worker)["lease_losses"] == 0


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_tasks_that_outlast_their_lease_count_again_and_drain(pair, took, pool):
    cluster, worker, _ = pair(pool=pool, concurrency=2, global_concurrency_limits={"app": 1})
    first = session_of(worker)
    cluster.send("held", 1)
    heard(cluster, "s", 0)
    cluster.send("pooled", 4, 0.3, queue="other", first=10)
    with stopped(cluster, worker) as since:
        recovered = heard(cluster, "s", 10) - since
        took(recovered)
        assert recovered <= patience(TIMEOUT + INTERVAL)
        cluster.send("pooled", 1, 0.1, first=1)
    woke = cluster.oracle.now()
    wait_until(lambda: first not in sessions(cluster) and len(sessions(cluster)) == 2, what="it has a new session")
    restated = cluster.oracle.now()
    assert restated - woke <= patience(INTERVAL + 0.5)
    passed(cluster, restated, 0.6)  # others had time to start
    cluster.oracle.let_go()
    ended = heard(cluster, "e", 0)
    numbers = [0, 1, 10, 11, 12, 13]
    heard(cluster, "e", *numbers)
    no_leak(cluster)

    events = cluster.oracle.events()
    assert sorted(event.number for event in events if event.kind == "s") == numbers, "each ran once"
    begun = [event.number for event in events if event.kind == "s" and restated < event.time < ended]
    assert begun == [], "what was restated leaves no room"
    assert cluster.oracle.peak() == 2, "the one that went on, as listed"
    assert cluster.oracle.peak(since=ended) == 1
    assert worker.output().count("its lease ran out") == 1
    assert stats(cluster, worker)["lease_losses"] == 1


@pytest.mark.parametrize(("pool", "task"), [("prefork", "late"), ("gevent", "pooled")])
def test_what_ran_on_a_lost_lease_is_terminated(pair, took, pool, task):
    limits = {"pool:db": 1, "task:tests.cluster.app.late": 1}
    cluster, worker, _ = pair(
        pool=pool,
        concurrency=2,
        global_concurrency_limits=limits,
        global_concurrency_on_lease_lost="terminate",
    )
    app = cluster.app()
    result = app.send_task(f"tests.cluster.app.{task}", (0, 60), queue="emails")
    app.send_task("tests.cluster.app.held", (1,), queue="emails")
    heard(cluster, "s", 0, 1)
    cluster.send(task, 2, 0.5, queue="other", first=10)
    with stopped(cluster, worker) as since:
        assert heard(cluster, "s", 10) - since <= patience(TIMEOUT + INTERVAL)
    woke = cluster.oracle.now()
    ended = heard(cluster, "e", 0)  # its finally clause runs
    took(max(ended - woke, 0.0))
    assert ended - woke <= patience(1.0)
    wait_until(lambda: result.state == "REVOKED", what="the result says so")
    cluster.oracle.let_go()
    heard(cluster, "e", 1, 10, 11)
    no_leak(cluster)
    cluster.send(task, 1, 0.1, first=20)
    heard(cluster, "e", 20)
    assert cluster.oracle.starts(task) == [0, 10, 11, 20], "it doesn't run again"
    assert worker.output().count("terminating") == 1
    assert f"terminating tests.cluster.app.{task}[{result.id}]\n" in worker.output(), "the unlimited one goes on"
    told = stats(cluster, worker)
    assert (told["lease_losses"], told["terminated"]) == (1, 1)
    with redis.Redis.from_url(cluster.broker) as broker:
        wait_until(lambda: broker.hlen("unacked") == 0, what="every message is acknowledged, the terminated one too")
    app.close()


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_pool_that_cannot_terminate_is_refused_at_the_start(apart, pool):
    cluster = apart(global_concurrency_on_lease_lost="terminate")
    worker = cluster.spawn("w1", pool=pool)
    assert worker.process.wait(30) == 1
    (said,) = [line for line in worker.output().splitlines() if "celery-gconc" in line]
    assert said == (
        "Error: celery-gconc: global_concurrency_on_lease_lost='terminate': "
        f"the {pool} pool can't terminate a task; use 'continue', or the prefork, gevent or eventlet pool"
    )
    assert "Traceback" not in worker.output()


def test_children_of_a_stopped_parent_run_on_and_start_nothing_more(pair, took):
    cluster, worker, _ = pair(global_concurrency_limits={"pool:db": 2})
    cluster.send("pooled", 2, 3.5)
    heard(cluster, "s", 0, 1)
    cluster.send("pooled", 4, 0.1, first=2)
    received(worker, 6)
    cluster.send("pooled", 8, 0.4, queue="other", first=10)
    os.kill(worker.process.pid, signal.SIGSTOP)
    try:
        since = cluster.oracle.now()
        recovered = heard(cluster, "s", 10, 11) - since
        took(recovered)
        assert recovered <= patience(TIMEOUT + 2 * INTERVAL)
        drained = heard(cluster, "e", 0, 1)
        heard(cluster, "e", *range(10, 18))
        assert not set(cluster.oracle.starts()) & {2, 3, 4, 5}
    finally:
        os.kill(worker.process.pid, signal.SIGCONT)
    heard(cluster, "e", 2, 3, 4, 5)
    no_leak(cluster)
    assert cluster.oracle.peak() <= 4, "as listed: two that ran on"
    assert cluster.oracle.peak(since=drained) <= 2
    assert gone(cluster) == frozenset()
