"""Pools beside prefork, threads, gevent and solo. (Every feature on eventlet: tests/lifecycle.)"""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.cli.case import QUICK
from tests.cluster.conftest import oracle_url
from tests.failures.worker_kit import heard
from tests.kit.servers import wait_until
from tests.wild.elsewhere import ElsewhereCluster
from tests.wild.test_platforms import LONG_LEASES, elsewhere

__all__ = ["elsewhere", "oracle_url"]

OWN = "tests.wild.own_pools"


def with_pool(make, pool: str, **conf: object) -> ElsewhereCluster:
    """A cluster whose app knows the tasks of own_pools, and whose ``-P custom`` is this pool."""
    cluster = make("", env={"CELERY_CUSTOM_WORKER_POOL": pool}, **conf)
    cluster.module = f"{OWN}:app"
    return cluster


def pool_of(cluster: ElsewhereCluster) -> str:
    """The pool of the first worker, as ``gconc status`` shows it."""
    return json.loads(cluster.celery("gconc", "status", "--json").stdout)["sessions"][0]["pool"]


@pytest.mark.wild("pools", "eventlet")
def test_eventlet_workers_keep_to_a_limit_and_change_their_size(elsewhere):
    cluster = elsewhere("", global_concurrency_limits={"queue:emails": 1})
    cluster.start("one", "two", pool="eventlet", concurrency=2)
    cluster.send("nap", 8, 0.05)
    cluster.done(8)
    assert cluster.oracle.peak() == 1
    assert pool_of(cluster) == "eventlet"
    assert "pool size was 2, now 3" in cluster.celery("control", "set_local_concurrency", "3").stdout


@pytest.mark.wild("pools", "eventlet: `global_concurrency_on_lease_lost` is `terminate`")
def test_an_eventlet_worker_ends_what_ran_on_a_lost_lease(elsewhere):
    conf = {"global_concurrency_limits": {"pool:db": 1}, "global_concurrency_on_lease_lost": "terminate", **QUICK}
    cluster = elsewhere("", **conf)
    (worker,) = cluster.start("one", pool="eventlet", concurrency=2)
    cluster.start("two", queues="other", concurrency=1)
    cluster.send("pooled", 1, 300.0)
    heard(cluster, "s", 0)
    cluster.send("pooled", 1, 0.05, queue="other", first=1)
    worker.process.send_signal(signal.SIGSTOP)
    heard(cluster, "s", 1)
    worker.process.send_signal(signal.SIGCONT)
    heard(cluster, "e", 0)  # its finally clause runs
    assert "terminating tests.cluster.app.pooled[" in worker.output()


@pytest.mark.wild("pools", "celery-aio-pool (`-P custom`)")
def test_asyncio_workers_keep_to_a_limit(elsewhere):
    limits = {"task:tests.cluster.app.awaiting": 1, "task:tests.cluster.app.outcome": 1}
    cluster = with_pool(elsewhere, "celery_aio_pool.pool:AsyncIOPool", global_concurrency_limits=limits)
    one, _ = cluster.start("one", "two", pool="custom")
    cluster.send("awaiting", 6, 0.05)
    cluster.done(6, name="awaiting")
    assert cluster.oracle.peak() == 1
    ways = ["failure", "ignore", "reject", "retry", "success"]
    for number, how in enumerate(ways):
        cluster.send("outcome", 1, how, first=10 + number)
    heard(cluster, "e", *range(10, 10 + len(ways)))
    wait_until(lambda: cluster.oracle.count("e", "retry") == 2, what="it is tried again")
    assert one.stop() == 0
    assert pool_of(cluster) == "AsyncIOPool"
    wait_until(lambda: not cluster.permits(), what="no permit is left")


@pytest.mark.wild("pools", "a custom pool that follows BasePool")
def test_a_pool_made_from_scratch_keeps_to_a_limit_however_tasks_end(elsewhere):
    limits = {"queue:emails": 2, "task:tests.cluster.app.outcome": 1}
    cluster = with_pool(elsewhere, f"{OWN}:OwnPool", global_concurrency_limits=limits)
    (worker,) = cluster.start("one", pool="custom", concurrency=3)
    cluster.send("nap", 8, 0.05)
    ways = ["failure", "ignore", "reject", "retry", "success"]
    for number, how in enumerate(ways):
        cluster.send("outcome", 1, how, first=10 + number)
    heard(cluster, "e", *range(8), *range(10, 10 + len(ways)))
    wait_until(lambda: cluster.oracle.count("e", "retry") == 2, what="it is tried again")
    assert cluster.oracle.peak() == 2
    assert cluster.oracle.peak(*ways) == 1
    wait_until(lambda: not cluster.permits(), what="no permit is left")
    assert pool_of(cluster) == "OwnPool"
    assert worker.stop() == 0


@pytest.mark.wild("pools", "a pool derived from one of Celery's, by `worker_pool`")
def test_a_pool_derived_from_celerys_frees_the_permit_of_a_killed_child(elsewhere):
    conf = {"worker_pool": f"{OWN}:OwnPrefork", "global_concurrency_limits": {"pool:db": 1}, **LONG_LEASES}
    cluster = elsewhere("", **conf)
    cluster.start("one", concurrency=2)
    assert pool_of(cluster) == "OwnPrefork"
    cluster.send("pooled", 1, 300.0)
    heard(cluster, "s", 0)
    cluster.send("pooled", 1, 0.05, first=1)
    os.kill(cluster.oracle.events()[0].pid, signal.SIGKILL)
    heard(cluster, "e", 1)


@pytest.mark.parametrize(
    ("pool", "why"),
    [
        pytest.param(
            "Sizeless", "doesn't say how many tasks it runs at once (its 'limit' is None), so limits can't be enforced",
            marks=pytest.mark.wild("pools", "a pool without a size", result="refused at the start, with a line"),
        ),
        pytest.param(
            "Stranger", "is not a celery.concurrency.base.BasePool: there is no way to know when its tasks end, so "
            "limits can't be enforced",
            marks=pytest.mark.wild("pools", "a pool that is no BasePool", result="refused at the start, with a line"),
        ),
    ],
)  # fmt: skip
def test_a_pool_that_says_too_little_is_refused_at_the_start(elsewhere, pool: str, why: str):
    cluster = with_pool(elsewhere, f"{OWN}:{pool}", global_concurrency_limits={"queue:emails": 1})
    worker = cluster.spawn("one", pool="custom", concurrency=1)
    assert worker.process.wait(60) == 1
    (said,) = [line for line in worker.output().splitlines() if "celery-gconc" in line]
    assert said == (
        f"Error: celery-gconc: the pool {OWN}:{pool} {why}; use -P prefork, threads, gevent or solo (worker_pool)"
    )
    assert "Traceback" not in worker.output()
