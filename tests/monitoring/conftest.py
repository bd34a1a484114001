"""Fixtures: those of the cluster tests, and a cluster of their own for the tests with a Prometheus."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from celery import Celery

from celery_gconc import Operations
from tests.cluster.conftest import make_cluster, oracle_url, rabbitmq_url
from tests.conftest import unavailable
from tests.kit.namespace import empty_namespace
from tests.kit.servers import RedisServer, free_port, redis_server, wait_until
from tests.kit.tiers import starts
from tests.kit.workers import Cluster, cluster
from tests.monitoring.kit import NoPrometheus, Prometheus, answer, exporter, prometheus, promtool

__all__ = ["make_cluster", "oracle_url", "rabbitmq_url"]


@pytest.fixture(scope="session", autouse=True)
@starts("process")
def _tools() -> None:
    """Prometheus is on this machine."""
    try:
        promtool("--version")
    except NoPrometheus as exc:
        unavailable(str(exc))


@pytest.fixture
@starts("redis")
def coordination() -> Iterator[RedisServer]:
    """A coordination Redis that may die; the broker is another."""
    with redis_server() as server:
        empty_namespace(server.url)
        yield server


@pytest.fixture(scope="module")
@starts("process")
def prometheuses(_tools: None) -> Iterator[list[Prometheus]]:
    """One for each test of the module that has a Prometheus, all started at once; the last scrapes slowly."""
    with ExitStack() as stack:
        started = [
            stack.enter_context(prometheus(*(free_port() for _ in range(targets)), interval=interval))
            for targets, interval in ((1, 0.5), (2, 0.5), (1, 0.5), (1, 2.5))
        ]
        for each in started:
            wait_until(lambda each=each: answer(f"{each.url}/-/ready"), 30, "Prometheus answers")
        yield started


@pytest.fixture
@starts("process")
def make_watched(
    coordination: RedisServer, redis_url: str, oracle_url: str, tmp_path: Path
) -> Iterator[Callable[..., tuple[Cluster, Operations, subprocess.Popen[bytes]]]]:
    """Makes a cluster, and starts an exporter where a Prometheus looks for it."""
    with ExitStack() as stack:

        def make(prom: Prometheus, **conf: object) -> tuple[Cluster, Operations, subprocess.Popen[bytes]]:
            made = stack.enter_context(
                cluster(
                    redis_url, redis_url, oracle_url, tmp_path, global_concurrency_redis_url=coordination.url,
                    global_concurrency_heartbeat_interval=0.5, global_concurrency_heartbeat_timeout=2.5, **conf,
                )
            )  # fmt: skip
            app = Celery("watcher", broker=redis_url, set_as_current=False)
            app.conf.update(made.conf)
            asking = Operations(app)
            stack.callback(app.close)
            stack.callback(asking.close)
            return made, asking, stack.enter_context(exporter(made, *prom.ports))

        yield make
