"""A worker inside the test's process, over a real Redis: for what one worker does with its requests."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from kombu import pools
from kombu.asynchronous import set_event_loop

from celery_gconc import GlobalConcurrency
from tests.kit.proxy import Proxy, proxy
from tests.kit.tiers import starts
from tests.store.namespace import Namespace

from .session_parts import Running


@contextmanager
def _worker(app: Celery, pool: str, concurrency: int) -> Iterator[Any]:
    # kombu before 5.6 keeps the last worker's event loop for the next one in the process, with that one's dead timers.
    set_event_loop(None)
    with start_worker(
        app, pool=pool, concurrency=concurrency, perform_ping_check=False, shutdown_timeout=30, loglevel="WARNING"
    ) as worker:
        yield worker


@pytest.fixture(autouse=True)
def no_connection_of_earlier_tests() -> Iterator[None]:
    """Whatever forks here shuts what kombu keeps connected for this process, for both sides of the fork.

    (kombu 5.4-5.7: a pool of connections is "collected" in the child, and py-amqp's sockets are shut down for that.)
    """
    yield
    pools.reset()


@pytest.fixture
def make_app(redis_url: str) -> Iterator[Callable[..., Celery]]:
    """Makes an app with celery-gconc installed and the given settings."""
    made: list[Celery] = []

    def make(**conf: Any) -> Celery:
        app = Celery("inside", broker=redis_url, backend=redis_url, set_as_current=False)
        app.conf.update(
            broker_connection_retry_on_startup=True,
            worker_cancel_long_running_tasks_on_connection_loss=False,
            worker_hijack_root_logger=False,
            **conf,
        )
        app.gconc = GlobalConcurrency(app)
        made.append(app)
        return app

    yield make
    gc.collect()  # Celery's AsyncResult.__del__ talks to the result backend: now, while there is one
    for app in made:
        app.gconc.close()
        app.close()


@pytest.fixture
@starts("process")
def run_worker() -> Iterator[Callable[..., Any]]:
    """Runs workers inside this process until the test ends."""
    with ExitStack() as stack:
        yield lambda app, pool="threads", concurrency=4: stack.enter_context(_worker(app, pool, concurrency))


# -- A session without a worker ----------------------------------------------------------------------------


@pytest.fixture
def namespace(redis_url: str) -> Iterator[Namespace]:
    """Redis as it really is."""
    namespace = Namespace(redis_url)
    yield namespace
    namespace.close()


@pytest.fixture
def make(redis_url: str) -> Iterator[Callable[..., Running]]:
    """Makes sessions that nobody has called yet."""
    with ExitStack() as stack:

        def make(url: str = redis_url, **how: Any) -> Running:
            running = Running(url, **how)
            stack.callback(running.close)
            return running

        yield make


@pytest.fixture
def running(make: Callable[..., Running]) -> Running:
    """A session that nobody has called yet."""
    return make()


@pytest.fixture
def way(redis_process: Any) -> Iterator[Proxy]:
    """The way to Redis."""
    with proxy(redis_process.port) as made:
        yield made
