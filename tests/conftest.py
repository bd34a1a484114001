"""A Redis and a RabbitMQ for every test that wants one. Without a binary such tests skip at home and fail in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import redis

from celery_gconc.store import Store
from tests.servers import (
    NoRabbitMQBinary,
    NoRedisBinary,
    RabbitMQServer,
    RedisServer,
    rabbitmq_binary,
    rabbitmq_server,
    redis_binary,
    redis_server,
)

#: pytest-xdist begins with the groups of most tests. What takes long must not come last, so it joins one of them.
LARGE_GROUP = "test_docs.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which tests stay together where several processes share the work (pytest-xdist): those of a file, or a column."""
    for item in items:
        column = getattr(item, "callspec", None) and item.callspec.params.get("column")  # tests/lifecycle
        group = LARGE_GROUP if item.get_closest_marker("takes_long") else item.path.name
        item.add_marker(pytest.mark.xdist_group(str(column or group)))


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisServer]:
    """One Redis for the whole run."""
    try:
        redis_binary()
    except NoRedisBinary as exc:
        _without(str(exc))
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_process() -> Iterator[RabbitMQServer]:
    """One RabbitMQ for the whole run. Each test makes queues with names of its own, or deletes what it made."""
    try:
        rabbitmq_binary()
    except NoRabbitMQBinary as exc:
        _without(str(exc))
    with rabbitmq_server() as server:
        yield server


def _without(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"this test needs a server: {what}")
    pytest.skip(what)


@pytest.fixture
def redis_url(redis_process: RedisServer) -> str:
    """The URL of a Redis with nothing in it but a namespace that has lived before."""
    empty_namespace(redis_process.url)
    return redis_process.url


def empty_namespace(url: str) -> None:
    """Delete everything, and begin a namespace in which nothing waits for those who may have lived before."""
    store = Store(url, "gconc")
    with redis.Redis.from_url(url) as client:
        client.flushall()
        info = {"node": "first", "pid": 1, "pool": "solo", "app": "", "broker": ""}
        store.open("first", interval=1.0, timeout=3.0, info=info, config={}, room=0)
        store.close_session("first")
        client.hdel(store.keys.key("meta"), "shut")
    store.close()
