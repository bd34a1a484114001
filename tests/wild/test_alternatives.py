"""A URL with alternatives: all are at the first that serves, leave it when it is lost, and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from celery_gconc.protocol.store import Store
from tests.kit import warm
from tests.kit.keys import key
from tests.kit.namespace import served
from tests.kit.servers import wait_until
from tests.kit.tiers import starts
from tests.kit.topologies import PLAIN, Node
from tests.kit.workers import cluster

#: The heartbeat settings of workers here, in seconds.
QUICK = {"global_concurrency_heartbeat_interval": 0.5, "global_concurrency_heartbeat_timeout": 2.0}


@pytest.fixture
@starts("redis")
def pair(tmp_path: Path) -> Iterator[list[Node]]:
    """Two servers that know nothing of each other."""
    nodes = [Node(tmp_path, *PLAIN) for _ in range(2)]
    try:
        yield [node.start() for node in nodes]
    finally:
        for node in nodes:
            node.kill()


def url(nodes: list[Node]) -> str:
    return ";".join(f"redis://127.0.0.1:{node.port}/0" for node in nodes)


def has_keys(node: Node) -> bool:
    return bool(node.do("EXISTS", key("meta")))


def at(node: Node) -> set[str]:
    """The sessions that a server knows."""
    return set(node.do("ZRANGE", key("sessions"), 0, -1))


def test_the_first_that_answers_serves_and_again_when_it_is_back(pair: list[Node]):
    first, second = pair
    store = Store(url(pair), "gconc", call_timeout=0.2)
    store.ticket()
    assert (has_keys(first), has_keys(second)) == (True, False)
    first.kill()
    served(store, Store.ticket)
    assert has_keys(second)
    first.start()
    wait_until(lambda: served(store, Store.ticket) and has_keys(first), what="it is back at the first")
    store.close()


def test_a_replica_among_them_is_left_out(pair: list[Node]):
    first, second = pair
    first.do("REPLICAOF", "127.0.0.1", second.port)
    wait_until(lambda: first.is_in_sync_with(second))
    store = Store(url(pair), "gconc")
    assert store.ticket() == 1
    store.close()


def lost_and_back(
    redis_url: str,
    oracle_url: str,
    folder: Path,
    number: int,
    lose: Callable[[Node], None],
    back: Callable[..., object],
) -> None:
    """Two workers lose the first of two servers, and have it back. (*number* is of a database of their own.)"""
    first, second = nodes = [Node(folder, *PLAIN).start() for _ in range(2)]
    broker, oracle = (f"{base.removesuffix('/0')}/{number}" for base in (redis_url, oracle_url))
    conf = {"global_concurrency_redis_url": url(nodes), "global_concurrency_limits": {"emails": 2}, **QUICK}
    try:
        with cluster(broker, broker, oracle, folder, **conf) as made:
            made.start("a", "b", pool="threads", concurrency=3, queues="emails")
            made.send("nap", 100, 0.1)
            made.done(10)
            lost = at(first)
            lose(first)
            wait_until(lambda: len(at(second)) == 2, 20, "both are at the second")
            made.done(made.oracle.count("e") + 5)
            back(first)
            wait_until(lambda: len(at(first) - lost) == 2, 20, "both are back")
            made.done(made.oracle.count("e") + 5)
            assert made.oracle.peak() == 2
    finally:
        for node in nodes:
            node.kill()


@pytest.mark.process
@pytest.mark.wild("connections", "a URL with two servers, the first of which is lost and comes back, empty or not")
def test_workers_go_on_at_the_next_server_and_come_back_and_no_limit_is_exceeded(
    redis_url: str, oracle_url: str, tmp_path: Path
):
    ways = {"dead": (Node.kill, Node.start), "cut": (Node.freeze, Node.thaw)}
    warm.zygote()  # one for both threads
    with ThreadPoolExecutor(len(ways)) as threads:
        for way in ways:
            (tmp_path / way).mkdir()
        told = [
            threads.submit(lost_and_back, redis_url, oracle_url, tmp_path / way, number, *how)
            for number, (way, how) in enumerate(ways.items(), 1)
        ]
    for one in told:
        one.result()
