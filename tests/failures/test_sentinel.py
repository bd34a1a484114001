"""Sentinel: the master dies, is demoted, or is followed by a replica that lacks the last writes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from celery_gconc.errors import StoreUnavailable
from celery_gconc.protocol.store import Store
from tests.failures.topology_kit import INTERVAL, LIMIT, keep, over, under_load
from tests.servers import patience, wait_until
from tests.topologies import MASTER, SentinelSetup, sentinel_setup

__all__ = ["over"]

LIMITS = {"emails": LIMIT}


@pytest.fixture
def sentinel() -> Iterator[SentinelSetup]:
    """A master, two replicas, three Sentinels."""
    with sentinel_setup() as made:
        yield made


def test_a_killed_master_is_replaced_under_load(sentinel, over, took):
    cluster = over(sentinel.url, lambda: sentinel.master, global_concurrency_limits=LIMITS)

    def fault() -> float:
        old = sentinel.master
        old.kill()
        sentinel.wait_for_another(old)
        return cluster.oracle.now()

    under_load(cluster, fault, took)


def test_a_planned_failover_under_load(sentinel, over, took):
    cluster = over(sentinel.url, lambda: sentinel.master, global_concurrency_limits=LIMITS)

    def fault() -> float:
        old = sentinel.master
        sentinel.failover()
        sentinel.wait_for_another(old)
        return cluster.oracle.now()

    under_load(cluster, fault, took)


def test_a_replica_that_lacks_the_last_grants_starts_nobody_too_early(sentinel, over, took):
    cluster = over(sentinel.url, lambda: sentinel.master, global_concurrency_limits={"emails": 2})
    cluster.start("w1", "w2", "w3", pool="threads", queues="emails")
    wait_until(lambda: cluster.sessions() == 3, what="every worker has a session")
    sentinel.wait_in_sync()
    old, replicas = sentinel.master, sentinel.replicas
    old.cut_replicas(*replicas)
    cluster.send("nap", 2, 6.0)  # granted by the master alone
    wait_until(lambda: cluster.oracle.count("s") == 2, what="both run")
    cluster.send("nap", 12, 0.05, first=2)
    old.kill()
    for replica in replicas:
        replica.thaw()
    sentinel.wait_for_another(old)
    assert cluster.oracle.count("e") == 0
    cluster.done(2, seconds=20)
    freed = max(event.time for event in cluster.oracle.events() if event.kind == "e")
    cluster.done(14)
    pause = cluster.pause_since(freed)
    took(pause)
    assert pause <= patience(INTERVAL + 1)
    assert cluster.oracle.peak("nap") == 2
    wait_until(lambda: cluster.permits() == 0, what="no permit is left")


def test_an_old_master_that_comes_back_is_not_used_though_it_takes_writes(sentinel):
    store = Store(sentinel.url, "gconc", call_timeout=60.0)  # and so long it doesn't ask the Sentinels again
    assert [store.ticket(), store.ticket()] == [1, 2]
    old = sentinel.master
    wait_until(
        lambda: all(r.do("HGET", "{gconc}:v1:meta", "ticket") == "2" for r in sentinel.replicas), what="replicas"
    )
    old.kill()
    sentinel.wait_for_another(old)
    old.start()
    assert old.info("replication")["role"] == "master"
    assert keep(store, Store.ticket) == 3
    assert old.do("EXISTS", "{gconc}:v1:meta") == 0
    store.close()


def test_a_master_that_is_cut_off_from_its_replicas_grants_nothing_where_it_is_told_to_need_one(sentinel):
    old, replicas = sentinel.master, sentinel.replicas
    old.do("CONFIG", "SET", "min-replicas-to-write", 1, "min-replicas-max-lag", 1)
    store = Store(f"redis://127.0.0.1:{old.port}", "gconc", call_timeout=2.0)
    assert keep(store, Store.ticket) == 1
    for each in sentinel.sentinels:  # nobody replaces it meanwhile
        each.freeze()
    old.cut_replicas(*replicas)
    with pytest.raises(StoreUnavailable, match=r"(?i)not enough good replicas"):
        wait_until(lambda: not store.ticket(), what="it refuses")
    store.close()


def test_a_connection_to_a_demoted_master_is_left_for_the_new_one(sentinel):
    store = Store(sentinel.url, "gconc", call_timeout=60.0)  # and so long it doesn't ask the Sentinels again
    old = sentinel.master
    sentinel.failover()
    assert store.ticket() == 1  # the old one knows of nothing
    new = sentinel.wait_for_another(old)
    old.do("REPLICAOF", "127.0.0.1", new.port)  # as its Sentinels will, in some ten seconds; they close its connections
    with pytest.raises(StoreUnavailable, match=r"(?i)read.?only"):
        store.ticket()
    first = store.ticket()
    assert int(new.do("HGET", "{gconc}:v1:meta", "ticket")) == first
    store.close()


def test_the_sentinels_are_asked_again_so_that_a_master_that_was_followed_is_left_though_it_takes_writes(sentinel):
    store = Store(sentinel.url, "gconc", call_timeout=0.5)
    pubsub = store.subscribe("one")
    old = sentinel.master
    sentinel.failover()
    new = sentinel.wait_for_another(old)

    def is_told() -> bool:
        try:
            store.ticket()
        except StoreUnavailable as exc:
            return f"our keys have moved to 127.0.0.1:{new.port}" in str(exc)
        return False

    wait_until(is_told, what="the store hears of the new master")
    assert old.info("replication")["role"] == "master"
    pubsub.close()
    written = store.ticket()
    assert int(new.do("HGET", "{gconc}:v1:meta", "ticket")) == written
    store.close()


def test_sentinels_that_do_not_answer_cost_a_second_each_and_are_asked_last_from_then_on(sentinel):
    first, second, third = sentinel.sentinels
    store = Store(sentinel.url, "gconc", call_timeout=2.0)
    first.freeze()
    second.freeze()
    try:
        began = time.monotonic()
        store.ticket()
        assert 1.5 <= time.monotonic() - began <= patience(6)
        store.close()
        began = time.monotonic()
        store.ticket()
        assert time.monotonic() - began <= patience(1.0)
        third.kill()
        store.close()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=f"no Sentinel names a master '{MASTER}'"):
            store.ticket()
        assert time.monotonic() - began <= patience(6)
    finally:
        first.thaw()
        second.thaw()
    store.close()
    assert keep(store, Store.ticket) == 3
    store.close()


def test_a_master_s_name_that_no_sentinel_knows_is_told(sentinel):
    store = Store(sentinel.url.replace(MASTER, "another"), "gconc", {"password": "hunter2"}, call_timeout=2.0)
    with pytest.raises(StoreUnavailable, match="knows no master 'another'") as failed:
        store.ticket()
    assert "hunter2" not in str(failed.value)
    store.close()
