"""A worker can't renew its lease: nothing starts on a lease that may have ended, and ``"terminate"`` ends what runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.failures.kit import Coordination
from tests.failures.worker_kit import (
    INTERVAL,
    OWN_APP,
    TIMEOUT,
    heard,
    holding,
    no_leak,
    passed,
    received,
    session_of,
    stats,
)
from tests.kit.proxy import Proxy, proxy
from tests.kit.servers import patience, wait_until

#: Tasks that a permit is used for, one after another: more than run within a lease.
MANY = 100


@pytest.fixture
def way(coordination: Coordination) -> Iterator[Proxy]:
    """The way of one worker to the coordination Redis."""
    with proxy(coordination.port) as made:
        yield made


@pytest.fixture
def two_workers(apart, coordination, way):
    """Makes a worker behind the proxy, and one that reaches the coordination Redis directly."""

    def make(pool: str = "prefork", **conf: object):
        cluster = apart(url=f"redis://127.0.0.1:{way.port}/0", **conf)
        cluster.module = OWN_APP
        cut_off = cluster.spawn("w1", pool=pool, queues="emails")
        cluster.conf["global_concurrency_redis_url"] = coordination.url
        reached = cluster.spawn("w2", queues="other")
        cluster.ready()
        return cluster, cut_off, reached

    return make


def test_nothing_starts_on_a_lease_that_may_have_ended(two_workers, way, took):
    cluster, _, other = two_workers(global_concurrency_limits={"pool:db": 2})
    cluster.send("pooled", 1, TIMEOUT + 2, first=1000)
    cluster.send("pooled", MANY, 0.05)  # one after another, on a permit that is used again
    wait_until(lambda: cluster.oracle.count("e") >= 5, what="they run")
    way.cut()  # before others wait: what it knew of them would keep it from passing its permit on
    cut = cluster.oracle.now()
    cluster.send("pooled", 3, 0.5, queue="other", first=2000)
    received(other, 3)
    passed(cluster, cut, TIMEOUT + INTERVAL)
    cluster.send("nap", 10, 0.01, first=3000)
    heard(cluster, "e", *range(3000, 3010))  # not limited, not delayed
    passed(cluster, cut, TIMEOUT + 2 * INTERVAL)
    back = cluster.oracle.now()
    way.restore()
    starts = [e.time for e in cluster.oracle.events() if e.kind == "s" and e.number < 2000 and cut < e.time < back]
    elsewhere = [e.time for e in cluster.oracle.events() if e.kind == "s" and e.number in range(2000, 2003)]
    assert all(start - cut <= TIMEOUT for start in starts)
    assert elsewhere
    took(max(elsewhere[0] - cut, 0.0))
    assert elsewhere[0] - cut <= patience(TIMEOUT + INTERVAL)
    assert not [s for s in starts if s > elsewhere[0]], "none where others may have the permit"
    ended = heard(cluster, "e", 2000, 2001, 2002)  # from here on only one runs that may be uncounted: number 1000
    cluster.done(MANY + 1 + 3 + 10)
    no_leak(cluster)
    assert cluster.oracle.peak("pooled", since=max(back, ended)) == 2


@pytest.mark.parametrize("how", ["cut off", "stopped"])
def test_a_grant_is_void_when_the_lease_has_ended_before_the_task_starts(two_workers, way, how):
    cluster, worker, other = two_workers(global_concurrency_limits={"pool:db": 1})
    cluster.send("pooled", 1, 30, queue="other")
    heard(cluster, "s", 0)
    (holder,) = {event.pid for event in cluster.oracle.events()}
    cluster.send("pooled", 1, 0.2, first=1)
    received(worker, 1)
    wait_until(lambda: cluster.permits() == 2, what="it waits")
    cluster.send("blocking", 1, first=2)
    heard(cluster, "s", 2)  # its consumer is blocked from here on, its link is not
    os.kill(holder, signal.SIGKILL)
    wait_until(lambda: holding(cluster) == {session_of(worker)}, what="its waiter is granted the permit")
    assert cluster.oracle.starts("pooled") == [0]
    if how == "cut off":
        way.cut()
    else:
        os.killpg(worker.process.pid, signal.SIGSTOP)
    cluster.send("pooled", 1, 2.0, queue="other", first=3)
    received(other, 2)
    try:
        heard(cluster, "s", 3, seconds=patience(TIMEOUT + INTERVAL))
        cluster.oracle.let_go()
    finally:
        os.killpg(worker.process.pid, signal.SIGCONT)
    heard(cluster, "e", 2)  # the consumer goes on, with a grant at hand that is void
    if how == "cut off":
        passed(cluster, cluster.oracle.now(), 0.5)
        way.restore()
    heard(cluster, "e", 1, 3)
    no_leak(cluster)
    assert cluster.oracle.peak("pooled", lost=frozenset([holder])) == 1


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_tasks_are_terminated_before_their_lease_ends_though_no_reply_says_so(two_workers, way, took, pool):
    cluster, worker, other = two_workers(
        pool=pool, global_concurrency_limits={"pool:db": 2}, global_concurrency_on_lease_lost="terminate"
    )
    cluster.send("pooled", 2, 60)
    cluster.send("held", 1, first=5)
    heard(cluster, "s", 0, 1, 5)
    cluster.send("pooled", 4, 0.3, queue="other", first=10)
    received(other, 4)
    way.cut()
    cut = cluster.oracle.now()
    recovered = heard(cluster, "s", 10, 11) - cut
    took(recovered)
    assert recovered <= patience(TIMEOUT + INTERVAL)
    heard(cluster, "e", 0, 1, 10, 11, 12, 13)
    cluster.oracle.let_go()
    heard(cluster, "e", 5)  # without a permit, so not terminated
    way.restore()
    cluster.send("pooled", 1, 0.1, first=20)
    heard(cluster, "e", 20)
    no_leak(cluster)
    assert cluster.oracle.peak("pooled") == 2
    assert worker.output().count("terminating tests.cluster.app.pooled[") == 1
    assert stats(cluster, worker)["terminated"] == 2
    assert sorted(cluster.oracle.starts("pooled")) == [0, 1, 10, 11, 12, 13, 20], "none of them runs again"
