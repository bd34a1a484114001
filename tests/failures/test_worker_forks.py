"""Processes that a worker starts share nothing with its link, whatever way they are started, and at whatever moment."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait

import psutil
import pytest
from celery import Celery

from tests.failures.kit import Coordination
from tests.failures.worker_kit import OWN_APP, gone, heard, no_leak, sessions, stats
from tests.kit.servers import patience, wait_until
from tests.kit.workers import Worker

#: How often the pool grows and shrinks, by how many, and how many tasks there are each time.
ROUNDS, CHILDREN, TASKS = 2, 4, 200


def connections(processes: Iterable[psutil.Process], coordination: Coordination) -> dict[int, int]:
    """How many connections to the coordination Redis each of these processes has open, where it has any."""
    found = {
        process.pid: sum(
            bool(socket.raddr) and socket.raddr.port == coordination.port for socket in process.net_connections("tcp")
        )
        for process in processes
    }
    return {pid: count for pid, count in found.items() if count}


def below(worker: Worker) -> list[psutil.Process]:
    """Every process that a worker's has started, and those that these have."""
    return psutil.Process(worker.process.pid).children(recursive=True)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_no_process_that_a_task_starts_has_a_connection_of_the_link(apart, coordination, pool):
    cluster = apart(global_concurrency_limits={"emails": 3})
    cluster.module = OWN_APP
    worker = cluster.spawn("w1", pool=pool, queues="emails", concurrency=3)
    cluster.ready()
    known = sessions(cluster)
    parent = psutil.Process(worker.process.pid)
    pooled = set(parent.children())
    assert connections([parent], coordination) == {parent.pid: 2}
    assert connections(pooled, coordination) == {}
    # (multiprocessing refuses to start a process in a child of the prefork pool)
    kinds = ["subprocess", "fork"] if pool == "prefork" else ["subprocess", "fork", "multiprocessing"]
    for number, kind in enumerate(kinds):
        cluster.send("fork", 1, kind, 1.5, first=number)
    started = wait_until(lambda: len(p := set(below(worker)) - pooled) == len(kinds) and p, what="processes")
    # (from the fork to the hook, or to the exec, it has them for an instant)
    wait_until(lambda: connections(started, coordination) == {}, seconds=patience(1.0), what="it has no connection")
    heard(cluster, "e", *range(len(kinds)))
    cluster.send("nap", 6, 0.01, first=10)
    heard(cluster, "e", *range(10, 16))
    assert connections([parent], coordination) == {parent.pid: 2}
    no_leak(cluster)
    assert sessions(cluster) == known
    assert "Traceback" not in worker.output()


def _grow(app: Celery) -> None:
    assert len(app.control.pool_grow(CHILDREN, reply=True, timeout=30, limit=2)) == 2
    assert len(app.control.broadcast("maintain_pool", reply=True, timeout=30, limit=2)) == 2


def test_a_pool_that_grows_under_load_neither_deadlocks_nor_shares_connections(apart, coordination):
    cluster = apart(global_concurrency_limits={"pool:db": 3})
    cluster.module = OWN_APP
    first = cluster.spawn("w1", queues="emails", concurrency=2)
    second = cluster.spawn("w2", queues="emails", concurrency=2)
    cluster.ready()
    known = sessions(cluster)
    app = cluster.app()
    sent = 0
    for _ in range(ROUNDS):
        with ThreadPoolExecutor(1) as grower:
            growing = grower.submit(_grow, app)
            while not growing.done():  # they grow under load, however long it takes
                if sent - cluster.oracle.count("e") < TASKS:
                    cluster.send("pooled", TASKS, 0.01, first=sent)
                    sent += TASKS
                wait([growing], timeout=0.01)
            growing.result()
        for worker in (first, second):
            wait_until(lambda worker=worker: len(below(worker)) >= 2 + CHILDREN, what="the pool grows")
            wait_until(
                lambda worker=worker: connections(below(worker), coordination) == {},
                seconds=patience(2.0),
                what="no child has connections of the link",
            )
        cluster.done(sent, seconds=60)
        # celery 5.7: under load, pool_shrink may kill a child to which a task has just been written
        assert app.control.pool_shrink(CHILDREN, reply=True, timeout=10, limit=2)
        wait_until(lambda: all(len(below(w)) <= 3 for w in (first, second)), what="the pools shrink")
    app.close()
    no_leak(cluster)
    assert cluster.oracle.peak(lost=gone(cluster)) <= 3
    assert sessions(cluster) == known
    assert [stats(cluster, worker)["lease_losses"] for worker in (first, second)] == [0, 0]
