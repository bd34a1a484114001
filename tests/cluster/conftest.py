"""Fixtures: two servers for the whole run, a fresh cluster for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from kombu import Connection

from tests.cluster.queues import QUEUES
from tests.kit.servers import RabbitMQServer, redis_server
from tests.kit.tiers import starts
from tests.kit.workers import Cluster, cluster


@pytest.fixture(scope="session")
@starts("redis")
def oracle_url() -> Iterator[str]:
    """The oracle's own Redis."""
    with redis_server() as server:
        yield server.url


@pytest.fixture
@starts("process")
def make_cluster(redis_url: str, oracle_url: str, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes a cluster with the given settings."""
    with ExitStack() as stack:
        yield lambda broker=redis_url, **conf: stack.enter_context(
            cluster(broker, redis_url, oracle_url, tmp_path, **conf)
        )


@pytest.fixture
def rabbitmq_url(rabbitmq_process: RabbitMQServer) -> str:
    """The URL of a RabbitMQ without any of the queues that the cluster's app uses."""
    with Connection(rabbitmq_process.url) as connection, connection.channel() as channel:
        for queue in QUEUES:
            channel.queue_delete(queue.name)
            channel.exchange_delete(queue.exchange.name)
    return rabbitmq_process.url
