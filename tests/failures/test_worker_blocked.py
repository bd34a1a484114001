"""The thread that starts tasks stands still while the process runs: the link renews the lease all the same."""

from __future__ import annotations

import signal
from urllib.parse import urlsplit

import pytest

from tests.failures.worker_kit import (
    INTERVAL,
    OWN_APP,
    TIMEOUT,
    heard,
    no_leak,
    passed,
    received,
    session_of,
    sessions,
    stats,
)
from tests.kit.proxy import proxy
from tests.kit.servers import patience, redis_server, wait_until

#: For how long it stands still: longer than the lease by more than an interval.
BLOCKED = TIMEOUT + 2 * INTERVAL


@pytest.fixture
def two_workers(pair):
    """Makes a worker of some pool, to be blocked, and another; under a limit of one."""
    limits = {"pool:db": 1, "task:tests.cluster.app.hold_gil": 1}
    return lambda pool: pair(pool=pool, concurrency=2, app=OWN_APP, global_concurrency_limits=limits)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_blocked_consumer_keeps_its_session_and_gives_permits_back(two_workers, took, pool):
    cluster, worker, _ = two_workers(pool)
    known = sessions(cluster)
    cluster.send("pooled", 1, BLOCKED)
    heard(cluster, "s", 0)
    cluster.send("blocking", 1, BLOCKED + 3.0, first=1)
    begun = heard(cluster, "s", 1)
    cluster.send("pooled", 3, 0.1, queue="other", first=10)
    passed(cluster, begun, BLOCKED - INTERVAL)
    assert sessions(cluster) == known
    ended = heard(cluster, "e", 0)
    started = heard(cluster, "s", 10)
    took(started - ended)
    assert 0 <= started - ended <= patience(1.0)
    heard(cluster, "e", 10, 11, 12)
    assert cluster.oracle.count("e", "blocked loop") == 0, "it is blocked still"
    no_leak(cluster)
    heard(cluster, "e", 1)
    cluster.send("pooled", 2, 0.1, first=20)
    heard(cluster, "e", 20, 21)
    assert cluster.oracle.peak("pooled") == 1
    assert sessions(cluster) == known
    assert stats(cluster, worker)["lease_losses"] == 0


def test_solo_keeps_its_session_while_it_runs_a_long_task(two_workers):
    cluster, worker, _ = two_workers("solo")
    known = sessions(cluster)
    cluster.send("pooled", 1, BLOCKED)
    heard(cluster, "s", 0)
    cluster.send("pooled", 2, 0.1, queue="other", first=10)
    ended = heard(cluster, "e", 0)
    assert sessions(cluster) == known
    assert heard(cluster, "s", 10, 11) >= ended
    heard(cluster, "e", 10, 11)
    no_leak(cluster)
    assert cluster.oracle.peak("pooled") == 1
    assert stats(cluster, worker)["lease_losses"] == 0


def test_long_garbage_collections_lose_no_lease(two_workers):
    cluster, worker, _ = two_workers("threads")
    known = sessions(cluster)
    cluster.send("pooled", 1, BLOCKED + 2.5)
    heard(cluster, "s", 0)
    cluster.send("collect_garbage", 1, BLOCKED, first=1)
    cluster.send("pooled", 1, 0.1, queue="other", first=10)
    heard(cluster, "e", 1)
    assert sessions(cluster) == known
    heard(cluster, "e", 0, 10)
    no_leak(cluster)
    assert cluster.oracle.peak("pooled") == 1
    assert stats(cluster, worker)["lease_losses"] == 0


def test_native_code_that_keeps_the_interpreters_lock_loses_the_lease(two_workers, took):
    cluster, worker, _ = two_workers("threads")
    old = session_of(worker)
    cluster.send("hold_gil", 1, BLOCKED + 0.5)
    begun = heard(cluster, "s", 0)
    cluster.send("hold_gil", 1, 0.1, queue="other", first=10)
    recovered = heard(cluster, "s", 10) - begun
    took(recovered)
    assert recovered <= patience(TIMEOUT + 2 * INTERVAL)  # its last heartbeat may have been on its way
    heard(cluster, "e", 0, 10)
    assert cluster.oracle.peak() == 2, "one more than the limit, as listed"
    wait_until(lambda: old not in sessions(cluster) and len(sessions(cluster)) == 2, what="a new session")
    no_leak(cluster)
    assert stats(cluster, worker)["lease_losses"] == 1


@pytest.mark.parametrize("connections", ["old ones", "new ones"])
def test_a_silent_broker_loses_no_lease_and_keeps_no_permit(apart, took, connections):
    with redis_server() as frozen, proxy(urlsplit(frozen.url).port or 0) as way:
        cluster = apart(f"redis://127.0.0.1:{way.port}/0", global_concurrency_limits={"pool:db": 1})
        worker = cluster.spawn("w1", queues="emails", concurrency=2)
        cluster.broker, direct = cluster.redis, frozen.url  # the other worker has a broker of its own
        cluster.spawn("w2", queues="other", concurrency=2)
        cluster.ready()
        known = sessions(cluster)
        client = cluster.app()
        with client.connection_for_write(direct) as connection:
            for number in range(3):
                client.send_task(
                    "tests.cluster.app.pooled", (number, BLOCKED if number == 0 else 0.1), connection=connection,
                    queue="emails",
                )  # fmt: skip
        client.close()
        heard(cluster, "s", 0)
        received(worker, 3)
        frozen.process.send_signal(signal.SIGSTOP)
        since = cluster.oracle.now()
        if connections == "new ones":
            way.cut()
            way.restore()
        cluster.send("pooled", 2, 0.1, queue="other", first=10)
        passed(cluster, since, TIMEOUT + INTERVAL)
        assert sessions(cluster) == known
        started = heard(cluster, "s", 10, 11)
        ended = [e.time for e in cluster.oracle.events() if e.kind == "e" and e.number < 10]
        took(started - max(ended))
        assert 0 <= started - max(ended) <= patience(1.0)
        heard(cluster, "e", 10, 11)
        assert sessions(cluster) == known
        frozen.process.send_signal(signal.SIGCONT)
        heard(cluster, "e", 0, 1, 2, seconds=30)
        no_leak(cluster)
        assert cluster.oracle.peak() == 1
        assert sessions(cluster) == known
        cluster.stop()
