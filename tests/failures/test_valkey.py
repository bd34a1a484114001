"""Valkey as the coordination Redis: one server, with Sentinels, and as a Cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery_gconc.protocol.store import Store
from tests.conftest import _without
from tests.failures.topology_kit import INTERVAL, LEASE, LIMIT, keep, over, under_load
from tests.servers import wait_until
from tests.topologies import (
    NoValkeyBinary,
    Valkey,
    redis_cluster,
    sentinel_setup,
    valkey_binary,
    valkey_server,
)

__all__ = ["over"]


@pytest.fixture
def binary() -> str:
    """A valkey-server."""
    try:
        return valkey_binary()
    except NoValkeyBinary as exc:
        _without(str(exc))
        raise


@pytest.fixture
def valkey(binary: str) -> Iterator[Valkey]:
    """A Valkey with nothing in it."""
    with valkey_server() as made:
        yield made


def test_a_valkey_that_is_killed_and_comes_back_empty_under_load(valkey, over, took):
    assert valkey.node.info("server")["server_name"] == "valkey"
    cluster = over(valkey.url, lambda: valkey.node, global_concurrency_limits={"emails": LIMIT})

    def fault() -> float:
        valkey.node.kill()
        valkey.node.start()
        return cluster.oracle.now()

    under_load(cluster, fault, took, within=LEASE + INTERVAL + 1)


def test_sentinels_of_valkey_name_another_master(binary):
    with sentinel_setup(1, binary) as sentinel:
        store = Store(sentinel.url, "gconc", call_timeout=2.0)
        assert store.ticket() == 1
        old = sentinel.master
        wait_until(lambda: sentinel.replicas[0].do("EXISTS", "{gconc}:v1:meta"), what="the replica has it")
        old.kill()
        sentinel.wait_for_another(old)
        assert keep(store, Store.ticket) == 2
        store.close()


def test_a_cluster_of_valkey_moves_the_slot_and_replaces_its_owner(binary):
    with redis_cluster(binary=binary) as nodes:
        store = Store(nodes.url, "gconc", call_timeout=2.0)
        home = nodes.owner
        assert store.ticket() == 1
        nodes.migrate(next(node for node in nodes.data[:3] if node is not home))
        assert store.ticket() == 2
        nodes.migrate(home)
        assert store.ticket() == 3
        wait_until(lambda: nodes.spare.do("CLUSTER", "COUNTKEYSINSLOT", nodes.slot), what="the replica has it")
        home.kill()
        assert keep(store, Store.ticket) == 4
        assert nodes.owner is nodes.spare
        store.close()
