"""The store over several servers: it follows its keys from one to another, over Sentinels and over a Redis Cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from functools import partial

import pytest

from celery_gconc.errors import StoreUnavailable
from celery_gconc.protocol.session_store import SessionStore
from tests.conftest import valkey_or_skip
from tests.kit.kept import Kept
from tests.kit.keys import key
from tests.kit.namespace import served
from tests.kit.servers import patience, wait_until
from tests.kit.tiers import starts
from tests.kit.topologies import (
    MASTER,
    RedisCluster,
    SentinelSetup,
    Topology,
    redis_cluster,
    replicated,
    sentinel_setup,
)

META = key("meta")

TOPOLOGIES: dict[str, Callable[[], AbstractContextManager[Topology]]] = {
    "sentinel": sentinel_setup,
    "cluster": redis_cluster,
    "valkey-sentinel": lambda: sentinel_setup(1, valkey_or_skip()),
    "valkey-cluster": lambda: redis_cluster(binary=valkey_or_skip()),
}


@pytest.fixture(scope="module")
@starts("redis")
def kept(request: pytest.FixtureRequest) -> Iterator[Kept[Topology]]:
    """The servers that tests share."""
    with closing(Kept(TOPOLOGIES[request.param], lambda made: (made.settle(), made.empty()))) as made:
        yield made


@pytest.fixture
def topology(kept: Kept[Topology]) -> Topology:
    """Servers with nothing in them."""
    return kept.get()


@pytest.fixture
def sentinel(topology: Topology) -> SentinelSetup:
    """A master, two replicas, three Sentinels."""
    assert isinstance(topology, SentinelSetup)
    return topology


@pytest.fixture
def cluster(topology: Topology) -> RedisCluster:
    """Three masters, and a replica of the one that has our keys."""
    assert isinstance(topology, RedisCluster)
    return topology


over = partial(pytest.mark.parametrize, "kept", indirect=True, scope="module")
over_each = over(argvalues=[*TOPOLOGIES])
over_sentinels = over(argvalues=["sentinel"])
over_a_cluster = over(argvalues=["cluster"])


def last_ticket(node: object) -> int:
    """The number of the last ticket that a node knows of."""
    return int(node.do("HGET", META, "ticket") or 0)  # type: ignore[attr-defined]


# -- Each of them -------------------------------------------------------------------------------------------


@over_each
def test_a_store_goes_on_at_the_node_that_takes_the_place_of_a_killed_one(topology):
    store = SessionStore(topology.url, "gconc", call_timeout=2.0)
    assert store.ticket() == 1
    standbys = topology.standbys
    wait_until(lambda: all(node.do("DBSIZE") for node in standbys), what="the replicas have it")
    assert topology.lose_keeper() in standbys
    assert served(store, SessionStore.ticket) == 2
    store.close()


@over(argvalues=["sentinel", "valkey-cluster"])  # each kind of topology, and each server
def test_a_subscription_moves_with_the_keys_though_the_old_node_takes_writes(topology):
    store = SessionStore(topology.url, "gconc", call_timeout=0.5)
    pubsub, channel = store.subscribe("one"), store.keys.channel("one")
    old = topology.keeper
    assert old.do("PUBSUB", "CHANNELS", channel) == [channel]
    new = topology.hand_over()

    def is_told() -> bool:
        try:
            store.ticket()
        except StoreUnavailable as exc:
            return f"our keys have moved to 127.0.0.1:{new.port}" in str(exc)
        return False

    wait_until(is_told, what="the store hears of the new one")
    assert old.do("ROLE")[0] == "master"
    pubsub.close()
    pubsub = store.subscribe("one")
    assert new.do("PUBSUB", "CHANNELS", channel) == [channel]
    assert store.ticket() == last_ticket(new)
    pubsub.close()
    store.close()


# -- A master and its replica --------------------------------------------------------------------------------


@pytest.mark.redis
def test_a_master_that_is_cut_off_from_its_replica_grants_nothing_where_it_is_told_to_need_one():
    with replicated() as pair:
        master, replica = pair.data
        master.do("CONFIG", "SET", "min-replicas-to-write", 1, "min-replicas-max-lag", 2)
        store = SessionStore(pair.url, "gconc", call_timeout=2.0)
        assert served(store, SessionStore.ticket) == 1
        master.cut_replicas(replica)
        with pytest.raises(StoreUnavailable, match=r"(?i)not enough good replicas"):
            wait_until(lambda: not store.ticket(), what="it refuses")
        store.close()


# -- Sentinels ----------------------------------------------------------------------------------------------


@over_sentinels
def test_an_old_master_that_comes_back_is_not_used_though_it_takes_writes(sentinel):
    store = SessionStore(sentinel.url, "gconc", call_timeout=60.0)  # and so long it doesn't ask the Sentinels again
    assert [store.ticket(), store.ticket()] == [1, 2]
    wait_until(lambda: all(last_ticket(node) == 2 for node in sentinel.standbys), what="the replicas have it")
    old = sentinel.keeper
    sentinel.lose_keeper()
    old.start()
    assert old.do("ROLE")[0] == "master"
    assert served(store, SessionStore.ticket) == 3
    is_written = old.do("EXISTS", META) == 1
    # The Sentinels may have made it a replica by now, and then it has what the new master has.
    assert not is_written or old.do("ROLE")[0] == "slave"
    store.close()


@over_sentinels
def test_a_connection_to_a_demoted_master_is_left_for_the_new_one(sentinel):
    store = SessionStore(sentinel.url, "gconc", call_timeout=60.0)  # and so long it doesn't ask the Sentinels again
    old = sentinel.keeper
    sentinel.begin_failover()
    assert store.ticket() == 1  # the old one knows of nothing
    new = sentinel.wait_for_another(old)
    old.do("REPLICAOF", "127.0.0.1", new.port)  # as its Sentinels will, in some ten seconds; they close its connections
    with pytest.raises(StoreUnavailable, match=r"(?i)read.?only"):
        store.ticket()
    assert store.ticket() == last_ticket(new)
    store.close()


@over_sentinels
def test_sentinels_that_do_not_answer_cost_a_second_each_and_are_asked_last_from_then_on(sentinel):
    first, second, third = sentinel.sentinels
    store = SessionStore(sentinel.url, "gconc", call_timeout=2.0)
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
    assert served(store, SessionStore.ticket) == 3
    store.close()


@over_sentinels
def test_a_master_s_name_that_no_sentinel_knows_is_told(sentinel):
    store = SessionStore(sentinel.url.replace(MASTER, "another"), "gconc", {"password": "hunter2"}, call_timeout=2.0)
    with pytest.raises(StoreUnavailable, match="knows no master 'another'") as failed:
        store.ticket()
    assert "hunter2" not in str(failed.value)
    store.close()


# -- Redis Cluster ------------------------------------------------------------------------------------------


@over(argvalues=["cluster", "valkey-cluster"])
def test_a_store_follows_its_slot_at_once_and_loads_its_scripts_there(cluster):
    store = SessionStore(cluster.url, "gconc", call_timeout=2.0)
    assert store.ticket() == 1
    cluster.hand_over()
    assert [store.ticket(), store.ticket()] == [2, 3]
    assert store.status().limits == ()
    store.close()


@over_a_cluster
def test_while_the_slot_is_on_its_way_a_call_waits_for_half_a_second_and_then_tells(cluster):
    store = SessionStore(cluster.url, "gconc", call_timeout=2.0)
    store.ticket()
    told: list[str] = []

    def pause() -> None:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.ticket()
        told.append("late" if time.monotonic() - began >= 0.5 else "at once")

    cluster.migrate(cluster.others[0], pause=pause)
    assert told == ["late"]
    assert served(store, SessionStore.ticket) == 2

    arrived = threading.Event()
    mover = threading.Thread(
        target=lambda: cluster.migrate(cluster.others[0], pause=lambda: (arrived.set(), time.sleep(0.1)))
    )
    mover.start()
    assert arrived.wait(10)
    assert store.ticket() == 3
    mover.join(10)
    store.close()


@over_a_cluster
def test_what_is_published_at_any_node_of_a_cluster_is_heard(cluster):
    store = SessionStore(cluster.url, "gconc", call_timeout=2.0)
    pubsub = store.subscribe("one")
    cluster.others[0].do("PUBLISH", store.keys.channel("one"), '{"version": 7}')
    wait_until(lambda: [notice.version for notice in store.notices(pubsub, "one")] == [7], what="the notice")
    pubsub.close()
    store.close()


@over_a_cluster
def test_the_node_of_the_url_may_be_gone_once_others_are_known(cluster):
    seed = cluster.others[0]
    store = SessionStore(f"rediscluster://127.0.0.1:{seed.port}", "gconc", call_timeout=2.0)
    assert store.ticket() == 1
    seed.kill()
    store.close()
    assert served(store, SessionStore.ticket) == 2
    store.close()


@over_a_cluster
def test_the_first_of_two_nodes_may_be_unreachable(cluster):
    seeds = cluster.others
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in seeds)
    seeds[0].freeze()
    store = SessionStore(f"rediscluster://{hosts}", "gconc", call_timeout=1.0)
    began = time.monotonic()
    served(store, SessionStore.ticket)
    assert time.monotonic() - began <= patience(10)
    seeds[0].thaw()
    store.close()


def test_a_server_that_is_no_cluster_is_told(redis_url):
    store = SessionStore(
        redis_url.replace("redis://", "rediscluster://"), "gconc", {"password": None}, call_timeout=1.0
    )
    with pytest.raises(StoreUnavailable, match="cluster support disabled"):
        store.ticket()
    store.close()
