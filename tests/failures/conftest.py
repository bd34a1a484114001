"""Fixtures: those of the cluster tests, a coordination Redis to be broken, and a note of times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.cluster.conftest import make_cluster, oracle_url, rabbitmq_url
from tests.conftest import unavailable
from tests.failures.ills import SECRET, Ill, Patient
from tests.failures.kit import ApartCluster, Coordination
from tests.failures.report import HEARTBEAT, name_of, record
from tests.kit.oracle import Oracle
from tests.kit.proxy import proxy
from tests.kit.tiers import starts
from tests.kit.workers import Worker

__all__ = ["apart", "coordination", "make_cluster", "make_patient", "oracle_url", "pair", "rabbitmq_url", "took"]


@pytest.fixture
def took(request: pytest.FixtureRequest) -> Callable[[float], None]:
    """Keeps a measured time, in seconds, for the page of failure modes."""
    return lambda seconds: record(name_of(request.node), seconds)


@pytest.fixture
@starts("redis")
def coordination(tmp_path: Path) -> Iterator[Coordination]:
    """A Redis of its own for permits, started and empty."""
    folder = tmp_path / "coordination"
    folder.mkdir()
    made = Coordination(folder)
    made.start()
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
@starts("process")
def apart(
    coordination: Coordination, redis_url: str, oracle_url: str, tmp_path: Path
) -> Iterator[Callable[..., ApartCluster]]:
    """Makes a cluster with the given settings, whose permits are in ``coordination`` and whose messages are not.

    Settings given win over the heartbeat settings of these tests; *url* is where its workers find the coordination
    Redis (through a proxy, say). That one has begun its namespace, unless it *is_empty*: then none is granted a permit
    for an interval and a second.
    """
    clusters: list[ApartCluster] = []

    def make(broker: str = redis_url, url: str = "", *, is_empty: bool = False, **conf: object) -> ApartCluster:
        if not is_empty:
            coordination.begin()
        oracle = Oracle(oracle_url)
        oracle.client.flushdb()
        settings = {**HEARTBEAT, "global_concurrency_redis_url": url or coordination.url, **conf}
        made = ApartCluster(broker, redis_url, oracle, tmp_path, settings, coordination=coordination)
        clusters.append(made)
        return made

    try:
        yield make
    finally:
        for made in clusters:
            made.stop()
            made.oracle.client.close()


@pytest.fixture
def pair(apart: Callable[..., ApartCluster]) -> Callable[..., tuple[ApartCluster, Worker, Worker]]:
    """Makes a cluster of two workers: things are done to the first, which consumes ``emails``; the other, ``other``."""

    def make(*, pool: str = "prefork", concurrency: int = 4, app: str = "tests.cluster.app", **conf: object):
        cluster = apart(**conf)
        cluster.module = app
        first = cluster.spawn("w1", pool=pool, queues="emails", concurrency=concurrency)
        other = cluster.spawn("w2", queues="other", concurrency=concurrency)
        cluster.ready()
        return cluster, first, other

    return make


@pytest.fixture
def make_patient(coordination: Coordination) -> Iterator[Callable[[Ill], Patient]]:
    """Makes ``coordination`` ready to fall ill in that way, behind a proxy."""
    with ExitStack() as stack:

        def make(ill: Ill) -> Patient:
            if ill.server or ill.has_tls:
                if ill.has_tls and not coordination.do("CONFIG", "GET", "tls-port"):
                    unavailable("this redis-server can't do TLS")
                coordination.kill()
                coordination.start(*ill.server, *(coordination.tls_options if ill.has_tls else ()))
            front = stack.enter_context(proxy(coordination.tls_port if ill.has_tls else coordination.port))
            again = Retry(NoBackoff(), 1)  # the operator's connection is made anew where Redis was restarted
            operator = stack.enter_context(coordination.client(single_connection_client=True, retry=again))
            patient = Patient(coordination, front, operator)
            ill.prepare(patient)
            coordination.password = SECRET if ill.has_password else ""
            return patient

        yield make
