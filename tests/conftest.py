"""A Redis and a RabbitMQ for every test that wants one. Without a binary such tests skip at home and fail in CI."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import lru_cache
from typing import NoReturn

import pytest
import redis.utils

from tests.kit import warm
from tests.kit.namespace import empty_namespace
from tests.kit.order import Order
from tests.kit.servers import (
    NoRabbitMQBinary,
    NoRedisBinary,
    RabbitMQServer,
    RedisServer,
    rabbitmq_binary,
    rabbitmq_server,
    redis_binary,
    redis_server,
)
from tests.kit.tiers import Tiers, Times, starts
from tests.kit.together import rabbitmq_of_all, write_definitions
from tests.kit.topologies import NoValkeyBinary, valkey_binary


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of these tests."""
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/cli/golden with what is printed now")


def pytest_configure(config: pytest.Config) -> None:
    """Tests have tiers, an order, and SIGINT, which a shell has ignored by all that it runs in the background."""
    # redis-py reads its version from its metadata for each connection, which takes 5 ms.
    redis.utils.get_lib_version = lru_cache(redis.utils.get_lib_version)
    for plugin in (Tiers(), Order(), Times()):
        config.pluginmanager.register(plugin, type(plugin).__name__)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    """All tests of this process have run."""
    if not config.option.collectonly:  # which a test may do within this process
        warm.close()


@pytest.fixture(scope="session")
@starts("redis")
def redis_process() -> Iterator[RedisServer]:
    """One Redis for the whole run."""
    try:
        redis_binary()
    except NoRedisBinary as exc:
        unavailable(str(exc))
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
@starts("redis")
def rabbitmq_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQServer]:
    """One RabbitMQ for the whole run. Each test makes queues with names of its own, or deletes what it made."""
    try:
        rabbitmq_binary()
    except NoRabbitMQBinary as exc:
        unavailable(str(exc))
    if process := os.environ.get("PYTEST_XDIST_WORKER"):
        count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        its = rabbitmq_of_all(tmp_path_factory.getbasetemp().parent, process, count)
    else:
        its = rabbitmq_server(load_definitions=write_definitions(tmp_path_factory.mktemp("rabbitmq"), ["/"]))
    with its as server:
        yield server


def valkey_or_skip() -> str:
    """The path of a valkey-server; where there is none, the test skips."""
    try:
        return valkey_binary()
    except NoValkeyBinary as exc:
        unavailable(str(exc))


def unavailable(what: str) -> NoReturn:
    """Something that a test needs is not on this machine: it skips at home and fails in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"this test needs what is missing here: {what}")
    pytest.skip(what)


@pytest.fixture
def redis_url(redis_process: RedisServer) -> str:
    """The URL of a Redis with nothing in it but a namespace that has lived before."""
    empty_namespace(redis_process.url)
    return redis_process.url
