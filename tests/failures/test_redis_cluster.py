"""Redis Cluster: our slot moves to another node, or its owner dies and a replica takes over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from celery_gconc.errors import StoreUnavailable
from celery_gconc.protocol.store import Store
from tests.failures.topology_kit import INTERVAL, LIMIT, keep, over, under_load
from tests.servers import patience, wait_until
from tests.topologies import RedisCluster, redis_cluster

__all__ = ["over"]

LIMITS = {"emails": LIMIT}


@pytest.fixture
def nodes() -> Iterator[RedisCluster]:
    """Three masters, and a replica of the one that has our keys."""
    with redis_cluster() as made:
        yield made


def another(nodes: RedisCluster):
    """A master that has none of our keys."""
    return next(node for node in nodes.data[:3] if node is not nodes.owner)


def test_our_slot_is_moved_under_load(nodes, over, took):
    cluster = over(nodes.url, lambda: nodes.owner, global_concurrency_limits=LIMITS)

    def fault() -> float:
        home = nodes.owner
        nodes.migrate(another(nodes))
        served = cluster.oracle.now()
        cluster.done(40)
        nodes.migrate(home)
        return served

    under_load(cluster, fault, took)


def test_the_owner_of_our_slot_is_killed_under_load(nodes, over, took):
    cluster = over(nodes.url, lambda: nodes.owner, global_concurrency_limits=LIMITS)

    def fault() -> float:
        nodes.owner.kill()
        wait_until(lambda: nodes.owner is nodes.spare, what="the replica takes over")
        return cluster.oracle.now()

    under_load(cluster, fault, took)


def test_a_replica_that_lacks_the_last_grants_starts_nobody_too_early(nodes, over, took):
    cluster = over(nodes.url, lambda: nodes.owner, global_concurrency_limits={"emails": 2})
    cluster.start("w1", "w2", "w3", pool="threads", queues="emails")
    wait_until(lambda: cluster.sessions() == 3, what="every worker has a session")
    old = nodes.owner
    old.cut_replicas(nodes.spare)
    cluster.send("nap", 2, 6.0)  # granted by the master alone
    wait_until(lambda: cluster.oracle.count("s") == 2, what="both run")
    cluster.send("nap", 12, 0.05, first=2)
    old.kill()
    nodes.spare.thaw()
    wait_until(lambda: nodes.owner is nodes.spare, what="the replica takes over")
    assert cluster.oracle.count("e") == 0
    cluster.done(2, seconds=20)
    freed = max(event.time for event in cluster.oracle.events() if event.kind == "e")
    cluster.done(14)
    pause = cluster.pause_since(freed)
    took(pause)
    assert pause <= patience(INTERVAL + 1)
    assert cluster.oracle.peak("nap") == 2
    wait_until(lambda: cluster.permits() == 0, what="no permit is left")


def test_a_store_follows_its_slot_and_loads_its_scripts_there(nodes):
    store = Store(nodes.url, "gconc", call_timeout=2.0)
    assert store.ticket() == 1
    nodes.migrate(another(nodes))
    assert [store.ticket(), store.ticket()] == [2, 3]
    assert store.status().limits == ()
    store.close()


def test_while_the_slot_is_on_its_way_a_call_waits_for_half_a_second_and_then_tells(nodes):
    store = Store(nodes.url, "gconc", call_timeout=2.0)
    store.ticket()
    told: list[str] = []

    def pause() -> None:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.ticket()
        told.append("late" if time.monotonic() - began >= 0.5 else "at once")

    nodes.migrate(another(nodes), pause=pause)
    assert told == ["late"]
    assert keep(store, Store.ticket) == 2

    arrived = threading.Event()
    mover = threading.Thread(
        target=lambda: nodes.migrate(another(nodes), pause=lambda: (arrived.set(), time.sleep(0.1)))
    )
    mover.start()
    assert arrived.wait(10)
    assert store.ticket() == 3
    mover.join(10)
    store.close()


def test_a_subscription_moves_with_the_slot(nodes):
    store = Store(nodes.url, "gconc", call_timeout=2.0)
    pubsub = store.subscribe("one")
    channel = store.keys.channel("one")
    home = nodes.owner
    assert home.do("PUBSUB", "CHANNELS", channel) == [channel]
    other = another(nodes)
    nodes.migrate(other)
    with pytest.raises(StoreUnavailable, match=f"our keys have moved to 127.0.0.1:{other.port}"):
        store.ticket()
    pubsub.close()
    pubsub = store.subscribe("one")
    assert other.do("PUBSUB", "CHANNELS", channel) == [channel]
    assert store.ticket() == 1
    # And meanwhile nothing is missed: every node hears what is published on any.
    home.do("PUBLISH", channel, '{"version": 7}')
    wait_until(lambda: [notice.version for notice in store.notices(pubsub, "one")] == [7], what="the notice")
    pubsub.close()
    store.close()


def test_the_node_of_the_url_may_be_gone_once_others_are_known(nodes):
    seed = another(nodes)
    store = Store(f"rediscluster://127.0.0.1:{seed.port}", "gconc", call_timeout=2.0)
    assert store.ticket() == 1
    seed.kill()
    store.close()
    assert keep(store, Store.ticket) == 2
    store.close()


def test_the_first_of_two_nodes_may_be_unreachable(nodes):
    seeds = [node for node in nodes.data[:3] if node is not nodes.owner]
    seeds[0].freeze()
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in seeds)
    store = Store(f"rediscluster://{hosts}", "gconc", call_timeout=1.0)
    began = time.monotonic()
    keep(store, Store.ticket)
    assert time.monotonic() - began <= patience(10)
    seeds[0].thaw()
    store.close()


def test_a_server_that_is_no_cluster_is_told(redis_url):
    store = Store(redis_url.replace("redis://", "rediscluster://"), "gconc", {"password": None}, call_timeout=1.0)
    with pytest.raises(StoreUnavailable, match="cluster support disabled"):
        store.ticket()
    store.close()
