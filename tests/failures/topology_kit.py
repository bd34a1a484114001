"""Workers whose permits are in a coordination Redis of several nodes; broker and oracle are plain Redis servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest
import redis

from celery_gconc.errors import StoreUnavailable
from celery_gconc.protocol.store import Store
from tests.cluster.kit import Cluster, Oracle
from tests.failures.report import HEARTBEAT
from tests.servers import patience, wait_until
from tests.topologies import Node

INTERVAL, LEASE = (float(str(value)) for value in HEARTBEAT.values())

#: How many tasks of the load run at once, and how long, in seconds, each of them takes.
LIMIT, SECONDS = 3, 0.1

T = TypeVar("T")


@dataclass
class TopologyCluster(Cluster):
    """A cluster whose permits are in one node of several, not always the same."""

    keeper: Callable[[], Node] = field(kw_only=True)

    @property
    def client(self) -> redis.Redis:
        """A client of the node that keeps the permits just now."""
        return redis.Redis(port=self.keeper().port, socket_timeout=5)

    def pause_since(self, moment: float) -> float:
        """For how long, in seconds, no task was started, at most, since *moment* by the oracle's clock."""
        starts = [event.time for event in self.oracle.events() if event.kind == "s"]
        return max((later - max(earlier, moment) for earlier, later in pairwise(starts)), default=0.0)

    def sessions(self) -> int:
        """How many workers have a session where the permits are kept just now."""
        with self.client as client:
            return int(client.zcard("{gconc}:v1:sessions"))


@pytest.fixture
def over(redis_url: str, oracle_url: str, tmp_path: Path) -> Iterator[Callable[..., TopologyCluster]]:
    """Makes a cluster over the coordination Redis at a URL; *keeper* says which node has the permits."""
    clusters: list[TopologyCluster] = []

    def make(url: str, keeper: Callable[[], Node], **conf: object) -> TopologyCluster:
        oracle = Oracle(oracle_url)
        oracle.client.flushdb()
        settings = {**HEARTBEAT, "global_concurrency_redis_url": url, **conf}
        made = TopologyCluster(redis_url, redis_url, oracle, tmp_path, settings, keeper=keeper)
        clusters.append(made)
        return made

    try:
        yield make
    finally:
        for made in clusters:
            made.stop()
            made.oracle.client.close()


def keep(store: Store, function: Callable[[Store], T], seconds: float = 20.0) -> T:
    """Call until it is served, as a link does."""
    found: list[T] = []

    def is_served() -> bool:
        try:
            found.append(function(store))
        except StoreUnavailable:
            return False
        return True

    wait_until(is_served, seconds=seconds, what="the coordination Redis serves")
    return found[0]


def under_load(
    cluster: TopologyCluster,
    fault: Callable[[], float],
    took: Callable[[float], None],
    within: float = INTERVAL + 1,
) -> None:
    """Let a fault happen under load: the limit holds, all tasks end, and no permit is left.

    *fault* returns when the permits' keeper was there again, by the oracle's clock: from then on tasks start again
    *within* so many seconds.
    """
    cluster.start("w1", "w2", pool="threads", queues="emails")
    tasks = 120
    cluster.send("nap", tasks, SECONDS)
    cluster.done(10)
    served = fault()
    cluster.done(tasks)
    pause = cluster.pause_since(served)
    took(pause)
    assert pause <= patience(within)
    assert cluster.oracle.peak("nap") == LIMIT
    assert sorted(cluster.oracle.starts()) == list(range(tasks))
    wait_until(lambda: cluster.permits() == 0, what="no permit is left")
    assert cluster.sessions() == 2
