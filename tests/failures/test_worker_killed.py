"""A worker, a child of it or one of its connections to Redis is killed."""

from __future__ import annotations

import os
import signal
import sys
import time

import psutil
import pytest

from tests.failures.worker_kit import INTERVAL, OWN_APP, TIMEOUT, heard, no_leak, received, runs, sessions
from tests.kit.servers import patience, wait_until


def test_a_killed_workers_permits_are_others_when_its_lease_ends(pair, took):
    cluster, victim, other = pair(global_concurrency_limits={"pool:db": 2})
    cluster.send("pooled", 2, 60)
    heard(cluster, "s", 0, 1)
    cluster.send("pooled", 3, 0.1, first=10)
    cluster.send("pooled", 4, 0.1, queue="other", first=20)
    received(victim, 5)
    received(other, 4)
    wait_until(lambda: cluster.permits() == 2 + 3 + 4, what="all of them wait in Redis' line")

    lost = frozenset(victim.children())
    killed = cluster.oracle.now()
    victim.kill()
    recovered = heard(cluster, "s", 20, 21) - killed
    took(recovered)
    assert recovered <= patience(TIMEOUT + INTERVAL)
    heard(cluster, "e", 20, 21, 22, 23)
    no_leak(cluster)
    assert cluster.oracle.peak(lost=lost) == 2
    assert len(sessions(cluster)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_the_children_of_a_killed_parent_die_at_once_but_not_what_their_tasks_have_started(pair, took):
    cluster, victim, _ = pair(concurrency=2, app=OWN_APP, global_concurrency_limits={"emails": 1, "other": 1})
    cluster.send("fork", 1, "subprocess", 60)
    heard(cluster, "s", 0)
    children = [psutil.Process(pid) for pid in victim.children()]
    busy = psutil.Process(next(e.pid for e in cluster.oracle.events()))
    assert busy in children
    (started,) = wait_until(busy.children, what="the task has started a process")
    os.kill(victim.process.pid, signal.SIGKILL)
    killed = time.monotonic()
    try:
        wait_until(lambda: not any(map(runs, children)), seconds=patience(1), what="the children are gone")
        assert runs(started), "the listed exception"
        cluster.send("nap", 1, 0.1, first=10)
        wait_until(lambda: cluster.permits() == 0, seconds=patience(TIMEOUT + INTERVAL), what="the permit is back")
        took(time.monotonic() - killed)
    finally:
        started.kill()
        victim.kill()


@pytest.mark.parametrize("waits_on", ["the same worker", "another worker"])
def test_a_killed_childs_permit_is_free_within_a_second(apart, took, waits_on):
    cluster = apart(global_concurrency_limits={"pool:db": 2})
    cluster.spawn("w1", queues="emails", concurrency=3)
    if waits_on == "another worker":
        cluster.spawn("w2", queues="other", concurrency=3)
    cluster.ready()
    cluster.send("pooled", 2, 30)
    heard(cluster, "s", 0, 1)
    cluster.send("pooled", 2, 0.1, queue="emails" if waits_on == "the same worker" else "other", first=10)
    wait_until(lambda: cluster.permits() >= 3, what="they wait")
    victim = next(e.pid for e in cluster.oracle.events() if e.number == 0)
    killed = cluster.oracle.now()
    os.kill(victim, signal.SIGKILL)
    recovered = heard(cluster, "s", 10) - killed
    took(recovered)
    assert recovered <= patience(1.0)
    heard(cluster, "e", 10, 11)
    assert cluster.oracle.peak(lost=frozenset([victim])) == 2
    wait_until(lambda: cluster.permits() == 1, what="only the long one that was let live holds a permit")


def test_killed_connections_of_the_link_cost_a_moment_and_no_session(apart, coordination, took):
    cluster = apart(global_concurrency_limits={"pool:db": 3})
    cluster.spawn("w1", queues="emails")
    cluster.spawn("w2", queues="emails")
    cluster.ready()
    known = sessions(cluster)
    assert len(known) == 2
    cluster.send("pooled", 60, 0.1)
    with coordination.client() as client:
        for kinds in 3 * [("pubsub",), ("normal", "pubsub")]:
            wait_until(
                lambda kinds=kinds: all(len(client.client_list(_type=kind)) >= 2 for kind in kinds),
                what="both are connected",
            )
            begun = cluster.oracle.count("s")
            wait_until(lambda begun=begun: cluster.oracle.count("s") > begun, what="tasks start")
            killed = sum(client.client_kill_filter(_type=kind, skipme=True) for kind in kinds)
            moment = cluster.oracle.now()
            following = wait_until(
                lambda moment=moment: [e.time for e in cluster.oracle.events() if e.kind == "s" and e.time > moment],
                what="tasks start again",
            )
            assert killed >= len(kinds)
            took(following[0] - moment)
            assert following[0] - moment <= patience(1.0), kinds
    cluster.done(60)
    no_leak(cluster)
    assert cluster.oracle.peak() == 3
    assert sorted(cluster.oracle.starts()) == list(range(60)), "each ran once"
    assert sessions(cluster) == known
