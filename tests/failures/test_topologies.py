"""The node that keeps the permits is lost or replaced under load, over Sentinels, a Redis Cluster and a Valkey."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from functools import partial

import pytest

from tests.conftest import valkey_or_skip
from tests.failures.report import HEARTBEAT
from tests.failures.topology_kit import LIMIT, QUEUES, TopologyCluster, over
from tests.failures.worker_kit import passed
from tests.kit.kept import Kept
from tests.kit.servers import RedisServer, patience, wait_until
from tests.kit.tiers import starts
from tests.kit.topologies import Topology, redis_cluster, sentinel_setup, valkey_server

INTERVAL, LEASE = (float(str(value)) for value in HEARTBEAT.values())

#: How many tasks of the load each queue has, and how long, in seconds, each of them takes.
TASKS, SECONDS = 40, 0.1


def valkey() -> AbstractContextManager[Topology]:
    """A Valkey, where there is one."""
    valkey_or_skip()
    return valkey_server()


TOPOLOGIES: dict[str, Callable[[], AbstractContextManager[Topology]]] = {
    "sentinel": sentinel_setup,
    "cluster": redis_cluster,
    "valkey": valkey,
}


@pytest.fixture(scope="module")
@starts("process")
def kept(
    request: pytest.FixtureRequest,
    redis_process: RedisServer,
    oracle_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kept[TopologyCluster]]:
    """The servers, and the workers over them, that tests share."""
    folder = tmp_path_factory.mktemp(request.param)
    make = partial(over, TOPOLOGIES[request.param], redis_process.url, oracle_url, folder)
    with closing(Kept(make, TopologyCluster.settle)) as made:
        yield made


@pytest.fixture
def cluster(kept: Kept[TopologyCluster]) -> TopologyCluster:
    """Two idle workers."""
    return kept.get()


def over_each(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kept", names, indirect=True, scope="module")


def under_load(
    cluster: TopologyCluster, fault: Callable[[], object], took: Callable[[float], None], within: float = INTERVAL + 1
) -> None:
    """Let a fault happen under load: the limit holds, all tasks end, and no permit is left.

    *fault* returns once the permits are kept again: from then on tasks start *within* so many seconds.
    """
    for number, queue in enumerate(QUEUES):
        cluster.send("nap", TASKS, SECONDS, queue=queue, first=number * TASKS)
    cluster.done(10)
    fault()
    served = cluster.oracle.now()
    cluster.done(30)
    cluster.topology.settle()  # under load still: in a Cluster, this moves the slot again
    everything = range(len(QUEUES) * TASKS)
    cluster.done(len(everything))
    pause = cluster.pause_since(served)
    took(pause)
    assert pause <= patience(within)
    assert cluster.oracle.peak() == LIMIT
    assert sorted(cluster.oracle.starts()) == list(everything)
    wait_until(lambda: cluster.permits() == 0, what="no permit is left")
    assert cluster.sessions() == len(QUEUES)


@over_each(*TOPOLOGIES)
def test_the_node_that_keeps_the_permits_is_killed_under_load(cluster, kept, took):
    nothing_is_left = not cluster.topology.standbys
    within = LEASE + INTERVAL + 1 if nothing_is_left else INTERVAL + 1
    under_load(cluster, cluster.topology.lose_keeper, took, within)


@over_each("sentinel", "cluster")
def test_another_node_is_made_to_keep_the_permits_under_load(cluster, kept, took):
    under_load(cluster, cluster.topology.hand_over, took)


@over_each("sentinel", "cluster")
def test_a_replica_that_lacks_the_last_grants_starts_nobody_too_early(cluster, kept, took):
    topology, (here, elsewhere) = cluster.topology, QUEUES
    standbys = topology.standbys
    topology.keeper.cut_replicas(*standbys)
    cluster.send("held", LIMIT, queue=here)  # granted by the master alone
    wait_until(lambda: cluster.oracle.count("s") == LIMIT, what="as many run as may")
    cluster.send("nap", 12, 0.05, queue=elsewhere, first=LIMIT)
    lost = topology.keeper
    lost.kill()
    for standby in standbys:
        standby.thaw()
    assert topology.wait_for_another(lost) in standbys
    wait_until(lambda: cluster.sessions() == len(QUEUES), what="both workers have stated what they run")
    passed(cluster, cluster.oracle.now(), 2 * INTERVAL)
    assert cluster.oracle.count("s") == LIMIT, "nobody is started in place of those that run"
    cluster.oracle.let_go()
    freed = cluster.oracle.now()
    cluster.done(LIMIT + 12)
    pause = cluster.pause_since(freed)
    took(pause)
    assert pause <= patience(INTERVAL + 1)
    assert cluster.oracle.peak() == LIMIT
    wait_until(lambda: cluster.permits() == 0, what="no permit is left")
