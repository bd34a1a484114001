"""A Redis for every test that wants one. Without a binary such tests skip at home and fail in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import redis

from tests.servers import NoRedisBinary, RedisServer, redis_binary, redis_server


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisServer]:
    """One Redis for the whole run."""
    try:
        redis_binary()
    except NoRedisBinary as exc:
        if os.environ.get("CI"):
            pytest.fail(f"these tests need a Redis: {exc}")
        pytest.skip(str(exc))
    with redis_server() as server:
        yield server


@pytest.fixture
def redis_url(redis_process: RedisServer) -> str:
    """The URL of a Redis with nothing in it."""
    with redis.Redis.from_url(redis_process.url) as client:
        client.flushall()
    return redis_process.url
