"""Fixtures: two servers for the whole run, a fresh cluster for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.kit import Cluster, cluster
from tests.servers import redis_server


@pytest.fixture(scope="session")
def oracle_url() -> Iterator[str]:
    """The oracle's own Redis."""
    with redis_server() as server:
        yield server.url


@pytest.fixture
def make_cluster(redis_url: str, oracle_url: str, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes a cluster with the given settings."""
    with ExitStack() as stack:
        yield lambda **conf: stack.enter_context(cluster(redis_url, oracle_url, tmp_path, **conf))
