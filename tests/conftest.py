"""A Redis and a RabbitMQ for every test that wants one. Without a binary such tests skip at home and fail in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import redis

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which tests stay together where several processes share the work (pytest-xdist): those of a file, or a column."""
    for item in items:
        column = getattr(item, "callspec", None) and item.callspec.params.get("column")  # tests/lifecycle
        item.add_marker(pytest.mark.xdist_group(str(column or item.path.name)))


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
    """The URL of a Redis with nothing in it."""
    with redis.Redis.from_url(redis_process.url) as client:
        client.flushall()
    return redis_process.url
