"""Fixtures: one cluster, one Chromium and all Flowers for all of these tests. Each test ends what it has started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from celery import Celery

from celery_gconc.operations.operations import Operations
from tests.conftest import unavailable
from tests.flower.kit import VERSIONS, Bench, Browser, Flower, NoBrowser, NoFlower, browser, flower, flower_folder
from tests.kit.namespace import empty_namespace
from tests.kit.servers import RedisServer, redis_server, wait_until
from tests.kit.tiers import starts
from tests.kit.workers import Cluster, cluster

#: Leases of three seconds; one task at a time from the queue emails.
CONF = {
    "global_concurrency_limits": {"queue:emails": 1, "queue:other": 1, "pool:db": 2},
    "global_concurrency_heartbeat_interval": 0.5,
    "global_concurrency_heartbeat_timeout": 3.0,
}


@pytest.fixture(scope="session")
def versions() -> tuple[str, ...]:
    """The versions of Flower, here on disk."""
    try:
        for version in VERSIONS:
            flower_folder(version)
    except NoFlower as exc:
        unavailable(str(exc))
    return VERSIONS


@pytest.fixture(scope="session")
@starts("redis")
def flower_redis(redis_process: RedisServer) -> Iterator[RedisServer]:
    """A Redis that these tests have to themselves: others empty theirs."""
    with redis_server() as server:
        empty_namespace(server.url)
        yield server


@pytest.fixture(scope="session")
@starts("process")
def bare_cluster(flower_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster without a worker."""
    url = flower_redis.url
    with cluster(url, url, url.replace("/0", "/5"), tmp_path_factory.mktemp("flower"), **CONF) as made:
        yield made


@pytest.fixture(scope="session")
@starts("process")
def bench(bare_cluster: Cluster) -> Iterator[Bench]:
    """The cluster, with a worker that has room for four."""
    bare_cluster.start("w1", queues="emails,other,celery", options=("-E",))
    app: Celery = bare_cluster.app()
    app.conf.update(CONF)
    operations = Operations(app)
    yield Bench(bare_cluster, operations)
    operations.close()
    app.close()


@pytest.fixture
def tasks(bench: Bench) -> Iterator[Callable[..., list[str]]]:
    """Starts tasks that hold their permits until the test ends, and puts the limits back as they were."""
    sent: list[str] = []

    def start(count: int, task: str = "nap", queue: str = "emails") -> list[str]:
        ids = [bench.send(task, 600, queue=queue) for _ in range(count)]
        sent.extend(ids)
        return ids

    yield start
    bench.end(*sent)
    for limit in bench.operations.status():
        bench.operations.reset(limit.limit)
        bench.operations.resume(limit.limit)
    for limit in bench.operations.status():
        bench.wait_for(0, 0, limit.limit)


@pytest.fixture(scope="session")
@starts("process")
def flowers(bench: Bench, versions: tuple[str, ...]) -> Iterator[dict[str, Flower]]:
    """A Flower of each version, all beside the same cluster: with a login, and below /ops."""
    with ExitStack() as stack:
        made = {
            version: stack.enter_context(flower(bench.cluster, version, prefix="/ops", login=True))
            for version in versions
        }
        yield _ready(made)


@pytest.fixture(scope="session")
@starts("process")
def open_flowers(bench: Bench, versions: tuple[str, ...]) -> Iterator[dict[str, Flower]]:
    """The same, started with no option at all."""
    with ExitStack() as stack:
        yield _ready({version: stack.enter_context(flower(bench.cluster, version)) for version in versions})


@pytest.fixture(scope="session")
@starts("process")
def chromium() -> Iterator[Browser]:
    """One browser for all tests."""
    try:
        with browser() as made:
            yield made
    except NoBrowser as exc:
        unavailable(str(exc))


def _ready(flowers: dict[str, Flower]) -> dict[str, Flower]:
    for made in flowers.values():
        made.ready()
    for made in flowers.values():
        wait_until(lambda made=made: made.knows_worker("w1@test"), 30, f"Flower {made.version} hears the worker")
    return flowers
