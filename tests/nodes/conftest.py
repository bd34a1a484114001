"""A pytest-celery set-up of three worker nodes with one limit, on each broker, all of it local processes.

The project runs pytest without pytest-celery's plugin, because that shadows fixtures of Celery's own. So what is used
of it is imported here by name, and holds in this folder only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest
from celery import Celery
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
    CeleryWorkerContainer,
    RabbitMQTestBroker,
    RedisTestBackend,
    RedisTestBroker,
    celery_backend_cluster_config,
    celery_broker_cluster_config,
    celery_setup,
    celery_setup_app,
    celery_setup_cls,
    celery_setup_config,
    celery_setup_name,
    celery_worker_cluster_config,
    default_worker_env,
    default_worker_initial_content,
    default_worker_signals,
    default_worker_utils_module,
)
from pytest_celery.vendors.worker import tasks as pytest_celery_tasks

from tests.conftest import unavailable
from tests.kit.namespace import begin_namespace
from tests.kit.oracle import Oracle
from tests.kit.servers import NoRabbitMQBinary, rabbitmq_binary, redis_server
from tests.kit.tiers import starts
from tests.nodes import app as app_template
from tests.nodes import tasks
from tests.nodes.fixtures import default_redis_backend, default_redis_broker
from tests.nodes.processes import LocalRabbitMQ, LocalRedis, local_rabbitmq, local_worker

__all__ = [  # what pytest looks up by name in this module
    "celery_backend_cluster_config",
    "celery_broker_cluster_config",
    "celery_setup",
    "celery_setup_app",
    "celery_setup_cls",
    "celery_setup_config",
    "celery_setup_name",
    "celery_worker_cluster_config",
    "default_redis_backend",
    "default_redis_broker",
    "default_worker_env",
    "default_worker_initial_content",
    "default_worker_signals",
    "default_worker_utils_module",
]

#: How many worker nodes a set-up has.
NODES = 3


@pytest.fixture
@starts("process")
def oracle() -> Iterator[Oracle]:
    """The oracle, with a Redis that neither Celery nor celery-gconc knows."""
    with redis_server() as server:
        oracle = Oracle(server.url)
        yield oracle
        oracle.client.close()


@pytest.fixture(scope="module")
@starts("redis")
def default_rabbitmq_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRabbitMQ]:
    """One RabbitMQ for all tests, which leave its queue empty: it takes long to start."""
    try:
        rabbitmq_binary()
    except NoRabbitMQBinary as exc:
        unavailable(str(exc))
    with local_rabbitmq(tmp_path_factory.mktemp("broker")) as container:
        yield container


@pytest.fixture(params=["redis", "rabbitmq"])
def celery_broker_cluster(request: pytest.FixtureRequest) -> CeleryBrokerCluster:
    """One broker node; each test runs on Redis and on RabbitMQ."""
    node_cls = {"redis": RedisTestBroker, "rabbitmq": RabbitMQTestBroker}[request.param]
    return CeleryBrokerCluster(node_cls(request.getfixturevalue(f"default_{request.param}_broker")))


@pytest.fixture
def celery_backend_cluster(default_redis_backend: LocalRedis) -> Iterator[CeleryBackendCluster]:
    """Results, and with RabbitMQ the permits too, are in a Redis of their own."""
    backend = RedisTestBackend(default_redis_backend)
    yield CeleryBackendCluster(backend)
    backend.teardown()


@pytest.fixture
def default_worker_container_cls() -> type[CeleryWorkerContainer]:
    return CeleryWorkerContainer


@pytest.fixture
def default_worker_app_module() -> ModuleType:
    return app_template


@pytest.fixture
def default_worker_tasks() -> set[ModuleType]:
    return {tasks, pytest_celery_tasks}


@pytest.fixture
def default_worker_app(celery_setup_app: Celery, celery_backend_cluster: CeleryBackendCluster) -> Celery:
    """The workers get what is changed here: two tasks at once, over all nodes; a lost node's permits return in 2 s."""
    url = celery_backend_cluster.config()["urls"][0]
    begin_namespace(url)
    celery_setup_app.conf.update(
        global_concurrency_redis_url=url,
        global_concurrency_limits={"queue:celery": 2},
        global_concurrency_heartbeat_interval=0.5,
        global_concurrency_heartbeat_timeout=2.0,
        broker_connection_retry_on_startup=True,
        worker_concurrency=2,
        worker_prefetch_multiplier=1,
    )
    return celery_setup_app


@pytest.fixture
def celery_worker_cluster(
    tmp_path: Path,
    default_worker_container_cls: type[CeleryWorkerContainer],
    default_worker_env: dict[str, str],
    default_worker_initial_content: dict[str, bytes],
    default_worker_app: Celery,
    oracle: Oracle,
) -> Iterator[CeleryWorkerCluster]:
    """Worker nodes of one app, started side by side."""
    command = default_worker_container_cls.command("--without-mingle", "--without-gossip")
    env = {**default_worker_env, "TEST_ORACLE": oracle.url}
    with ExitStack() as stack:
        containers = [
            stack.enter_context(
                local_worker(tmp_path, default_worker_container_cls, command, env, default_worker_initial_content)
            )
            for _ in range(NODES)
        ]
        cluster = CeleryWorkerCluster(*(CeleryTestWorker(each, app=default_worker_app) for each in containers))
        for container in containers:
            container._container.wait_ready()  # fails at once where a worker ended; ready() would wait
        yield cluster


@pytest.fixture(autouse=True)
def _apps_are_closed(celery_setup: CeleryTestSetup) -> Iterator[None]:
    """Close the test's own connections before its servers end."""
    yield
    celery_setup.app.close()
