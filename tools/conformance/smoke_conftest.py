"""Takes the place of ``t/smoke/conftest.py`` of Celery's suite: the same, on processes of this machine.

The suite's own conftest stands beside it as ``stock_conftest.py``. Tests that ask for more of a container engine than
these nodes offer are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import test_worker_starting
from pytest_celery import LOCALSTACK_CREDS, CeleryTestBroker, CeleryWorkerContainer
from t.smoke.stock_conftest import *  # noqa: F403
from t.smoke.workers.alt import AltSmokeWorkerContainer
from t.smoke.workers.latest import CeleryLatestWorkerContainer
from t.smoke.workers.other import OtherSmokeWorkerContainer

from tests.nodes.fixtures import *  # noqa: F403
from tests.nodes.processes import LocalRedis, local_redis, local_worker
from tools.conformance.modes import install

#: The broker of this run, and the one that it isn't about.
BROKER, OTHER = os.environ["CONFORMANCE_BROKERS"].split()

INSTALL = b"""
from tools.conformance.modes import install
install(app)
"""


def pytest_configure() -> None:
    """Some tests have their worker in the test's own process."""
    test_worker_starting.connect(lambda sender, **_: install(sender), weak=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that are about the other broker."""

    def asks_for(item: pytest.Item, broker: str) -> bool:
        return bool({f"celery_{broker}_broker", f"default_{broker}_broker"} & {*getattr(item, "fixturenames", ())})

    others = [item for item in items if asks_for(item, OTHER) and not asks_for(item, BROKER)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


@pytest.fixture(params=[f"celery_{BROKER}_broker"])
def celery_broker(request: pytest.FixtureRequest) -> Iterator[CeleryTestBroker]:
    """The broker of this run."""
    broker = request.getfixturevalue(request.param)
    yield broker
    broker.teardown()


@pytest.fixture
def redis_test_container(tmp_path: Path) -> Iterator[LocalRedis]:
    """The Redis that the suite's tasks talk to."""
    with local_redis(tmp_path) as container:
        yield container


@pytest.fixture
def default_worker_env(
    default_worker_container_cls: type[CeleryWorkerContainer],
    celery_worker_cluster_config: dict[str, Any],
    redis_test_container: LocalRedis,
) -> dict[str, Any]:
    """As the suite's own, with the port that the Redis has here."""
    return {
        **default_worker_container_cls.initial_env(celery_worker_cluster_config),
        "REDIS_HOST": redis_test_container.hostname,
        "REDIS_PORT": redis_test_container.port,
        **LOCALSTACK_CREDS,
    }


@pytest.fixture
def default_worker_app(default_worker_app: Celery) -> Celery:
    """Tests count on more pool processes than a small machine has processors."""
    default_worker_app.conf.worker_concurrency = 4
    return default_worker_app


@pytest.fixture
def default_worker_initial_content(default_worker_initial_content: dict[str, bytes]) -> dict[str, bytes]:
    """The workers' app, with celery-gconc installed if the mode says so."""
    content = dict(default_worker_initial_content)
    content["app.py"] += INSTALL
    return content


@pytest.fixture
def _worker_of(
    tmp_path: Path, default_worker_env: dict[str, Any], default_worker_initial_content: dict[str, bytes]
) -> Iterator[Callable[[type[CeleryWorkerContainer]], CeleryWorkerContainer]]:
    with ExitStack() as stack:
        yield lambda cls: stack.enter_context(
            local_worker(tmp_path, cls, cls.command(), default_worker_env, default_worker_initial_content)
        )


@pytest.fixture
def alt_dev_worker_container(_worker_of: Callable[..., CeleryWorkerContainer]) -> CeleryWorkerContainer:
    """A second worker on the same queue."""
    return _worker_of(AltSmokeWorkerContainer)


@pytest.fixture
def other_dev_worker_container(_worker_of: Callable[..., CeleryWorkerContainer]) -> CeleryWorkerContainer:
    """A second worker on a queue of its own."""
    return _worker_of(OtherSmokeWorkerContainer)


@pytest.fixture
def celery_latest_worker_container(_worker_of: Callable[..., CeleryWorkerContainer]) -> CeleryWorkerContainer:
    """The released Celery: the one that is installed."""
    return _worker_of(CeleryLatestWorkerContainer)
