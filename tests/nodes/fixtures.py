"""pytest-celery's fixtures with processes of this machine in the place of containers.

A conftest imports these and, of pytest-celery's own fixtures, those that it wants; nothing here needs pytest-celery's
pytest plugin, nor a container engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import CeleryWorkerContainer

from tests.nodes.processes import LocalRabbitMQ, LocalRedis, local_rabbitmq, local_redis, local_worker


@pytest.fixture(scope="session")
def docker_client() -> None:
    """Skips a test that asks for a container all the same."""
    pytest.skip("needs a container engine")


@pytest.fixture
def default_redis_broker(tmp_path: Path) -> Iterator[LocalRedis]:
    """A Redis of its own for each test."""
    with local_redis(tmp_path) as container:
        yield container


@pytest.fixture
def default_redis_backend(tmp_path: Path) -> Iterator[LocalRedis]:
    """A second one, for results."""
    with local_redis(tmp_path) as container:
        yield container


@pytest.fixture
def default_rabbitmq_broker(tmp_path: Path) -> Iterator[LocalRabbitMQ]:
    """A RabbitMQ of its own for each test."""
    with local_rabbitmq(tmp_path) as container:
        yield container


@pytest.fixture
def default_worker_container(
    tmp_path: Path,
    default_worker_container_cls: type[CeleryWorkerContainer],
    default_worker_command: Sequence[str],
    default_worker_env: Mapping[str, Any],
    default_worker_initial_content: Mapping[str, bytes],
) -> Iterator[CeleryWorkerContainer]:
    """A worker; pytest-celery's own fixtures say with which command, environment and files."""
    with local_worker(
        tmp_path,
        default_worker_container_cls,
        default_worker_command,
        default_worker_env,
        default_worker_initial_content,
    ) as container:
        yield container
