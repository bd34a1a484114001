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

#: For how long it stands still, at least: longer than the lease by an interval.
BLOCKED = TIMEOUT + INTERVAL


@pytest.fixture
def two_workers(pair):
    """Makes a worker of some pool, to be blocked, and another; under a limit of one."""
    limits = {"pool:db": 1, "task:tests.cluster.app.held": 1, "task:tests.cluster.app.hold_gil": 1}
    return lambda pool: pair(pool=pool, concurrency=2, app=OWN_APP, global_concurrency_limits=limits)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_blocked_consumer_keeps_its_session_and_gives_permits_back(two_workers, took, pool):
    cluster, worker, _ = two_workers(pool)
    known = sessions(cluster)
    cluster.send("pooled", 1, BLOCKED + 0.5)
    heard(cluster, "s", 0)
    cluster.send("blocking", 1, first=1)
    begun = heard(cluster, "s", 1)
    cluster.send("pooled", 3, 0.1, queue="other", first=10)
    passed(cluster, begun, BLOCKED)
    assert sessions(cluster) == known
    ended = heard(cluster, "e", 0)
    started = heard(cluster, "s", 10)
    took(started - ended)
    assert 0 <= started - ended <= patience(1.0)
    heard(cluster, "e", 10, 11, 12)
    assert cluster.oracle.count("e", "blocked loop") == 0, "it is blocked still"
    no_leak(cluster)
    cluster.oracle.let_go()
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
    cluster.send("held", 1)
    heard(cluster, "s", 0)
    cluster.send("collect_garbage", 1, BLOCKED, first=1)
    cluster.send("held", 1, queue="other", first=10)
    heard(cluster, "e", 1)
    assert sessions(cluster) == known
    assert cluster.oracle.starts("held") == [0]
    cluster.oracle.let_go()
    heard(cluster, "e", 0, 10)
    no_leak(cluster)
    assert cluster.oracle.peak("held") == 1
    assert stats(cluster, worker)["lease_losses"] == 0


def test_native_code_that_keeps_the_interpreters_lock_loses_the_lease(two_workers, took):
    cluster, worker, _ = two_workers("threads")
    old = session_of(worker)
    cluster.send("hold_gil", 1, BLOCKED + 2 * INTERVAL)
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


def test_a_silent_broker_loses_no_lease_and_keeps_no_permit(apart, took):
    with redis_server() as frozen, proxy(urlsplit(frozen.url).port or 0) as way:
        cluster = apart(frozen.url, global_concurrency_limits={"pool:db": 2})
        old = cluster.spawn("w1", queues="emails", concurrency=2)  # its connections stay as they are
        cluster.broker = f"redis://127.0.0.1:{way.port}/0"
        new = cluster.spawn("w2", queues="celery", concurrency=2)  # it has to make new ones
        cluster.broker = cluster.redis  # the last worker has a broker of its own
        cluster.spawn("w3", queues="other", concurrency=2)
        cluster.ready()
        known = sessions(cluster)
        client = cluster.app()
        with client.connection_for_write(frozen.url) as connection:
            for first, queue, worker in ((0, "emails", old), (10, "celery", new)):
                for number in range(first, first + 3):
                    client.send_task(
                        "tests.cluster.app.pooled", (number, BLOCKED if number == first else 0.1),
                        connection=connection, queue=queue,
                    )  # fmt: skip
                heard(cluster, "s", first)
                received(worker, 3)
        client.close()
        frozen.process.send_signal(signal.SIGSTOP)
        since = cluster.oracle.now()
        # A worker gives back what it holds on a new connection. Were that refused, kombu would try once, and leave the
        # messages to the visibility timeout.
        way.hang_up()
        cluster.send("pooled", 2, 0.1, queue="other", first=20)
        passed(cluster, since, BLOCKED)
        assert sessions(cluster) == known
        started = heard(cluster, "s", 20, 21)
        events = cluster.oracle.events()
        ended = max(e.time for e in events if e.kind == "e" and e.number < 20 and e.time <= started)
        took(started - ended)
        assert started - ended <= patience(1.0)
        heard(cluster, "e", 20, 21)
        assert sessions(cluster) == known
        frozen.process.send_signal(signal.SIGCONT)
        heard(cluster, "e", 0, 1, 2, 10, 11, 12, seconds=30)
        no_leak(cluster)
        assert cluster.oracle.peak() == 2
        assert sessions(cluster) == known
        cluster.stop()
