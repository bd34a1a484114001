"""Workers whose permits are in a coordination Redis of several nodes; broker and oracle are plain Redis servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import redis

from tests.failures.report import HEARTBEAT
from tests.kit.keys import key
from tests.kit.namespace import empty_namespace
from tests.kit.oracle import Oracle
from tests.kit.servers import wait_until
from tests.kit.topologies import Topology
from tests.kit.workers import Cluster

#: How many tasks run at once.
LIMIT = 3

#: The workers' queues: each worker has one of its own, and the limit covers both.
QUEUES = ("emails", "other")


@dataclass
class TopologyCluster(Cluster):
    """Two workers whose permits are in one node of several, not always the same."""

    topology: Topology = field(kw_only=True)

    @property
    def client(self) -> redis.Redis:
        """A client of the node that keeps the permits just now."""
        return redis.Redis(port=self.topology.keeper.port, socket_timeout=5)

    def pause_since(self, moment: float) -> float:
        """For how long, in seconds, no task was started, at most, since *moment* by the oracle's clock."""
        starts = [event.time for event in self.oracle.events() if event.kind == "s"]
        return max((later - max(earlier, moment) for earlier, later in pairwise(starts)), default=0.0)

    def sessions(self) -> int:
        """How many workers have a session where the permits are kept just now."""
        with self.client as client:
            return int(client.zcard(key("sessions")))

    def settle(self) -> None:
        """Be as it was at first: nothing waits or runs, and all nodes are well."""
        self.topology.settle()
        assert self.waiting_in(*QUEUES) == 0
        wait_until(lambda: (self.permits(), self.sessions()) == (0, len(QUEUES)), what="the workers are idle")
        self.oracle.client.flushdb()


@contextmanager
def over(
    make: Callable[[], AbstractContextManager[Topology]], redis_url: str, oracle_url: str, folder: Path
) -> Iterator[TopologyCluster]:
    """Two workers over the servers that *make* starts; all end with the block."""
    empty_namespace(redis_url)
    oracle = Oracle(oracle_url)
    oracle.client.flushdb()
    with make() as topology:
        settings = {
            **HEARTBEAT,
            "global_concurrency_redis_url": topology.url,
            "global_concurrency_limits": {"app": LIMIT},
        }
        made = TopologyCluster(redis_url, redis_url, oracle, folder, settings, topology=topology)
        try:
            for number, queue in enumerate(QUEUES, start=1):
                made.spawn(f"w{number}", pool="threads", queues=queue)
            made.ready()
            yield made
        finally:
            made.stop()
            oracle.client.close()
