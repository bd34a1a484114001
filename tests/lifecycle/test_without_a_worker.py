"""What needs no worker of its own: eager mode, direct calls, and several apps in one process."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker
from kombu.asynchronous import set_event_loop

from celery_gconc import GlobalConcurrency
from tests.kit.namespace import begin_namespace
from tests.kit.servers import RedisServer, redis_server, wait_until
from tests.kit.tiers import starts
from tests.lifecycle.bench import PATIENCE


@pytest.fixture
@starts("redis")
def quiet_redis() -> Iterator[RedisServer]:
    """A Redis that nobody else uses."""
    with redis_server() as server:
        yield server


@pytest.fixture
def eager_app(quiet_redis: RedisServer) -> Iterator[Celery]:
    """An app in eager mode with a limit of 0, whose broker and results are in memory and whose Redis is real."""
    before = connections(quiet_redis)
    app = Celery("eager", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.made_before = before
    app.conf.update(
        task_always_eager=True,
        global_concurrency_limits={"app": 0, "queue:celery": 0},
        global_concurrency_redis_url=quiet_redis.url,
    )
    app.gconc = GlobalConcurrency(app)
    yield app
    app.close()


def connections(server: RedisServer) -> int:
    """How many connections were ever made to a Redis, by its own count; this one's is one of them."""
    with redis.Redis.from_url(server.url) as client:
        return int(client.info("stats")["total_connections_received"])


@pytest.mark.feature("eager mode")
def test_in_eager_mode_tasks_run_at_once_whatever_their_limits_and_redis_hears_nothing(eager_app, quiet_redis):
    @eager_app.task(global_concurrency=0, max_retries=1, bind=True, shared=False)
    def task(self, number: int) -> int:
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return number

    assert task.delay(1).get() == 1
    assert (task.s(2) | task.si(3)).apply_async().get() == 3
    assert connections(quiet_redis) == eager_app.made_before + 1


@pytest.mark.feature("direct calls")
def test_a_direct_call_and_apply_run_here_whatever_their_limits_and_redis_hears_nothing(eager_app, quiet_redis):
    eager_app.conf.task_always_eager = False

    @eager_app.task(global_concurrency=0, shared=False)
    def task(number: int) -> int:
        return number

    assert task(1) == 1
    assert task.apply((2,)).get() == 2
    assert connections(quiet_redis) == eager_app.made_before + 1


@pytest.mark.process
@pytest.mark.feature("several apps in one process", "running")
def test_each_app_of_a_process_keeps_to_limits_of_its_own(two_apps):
    for app, limit in zip(two_apps, (1, 2), strict=True):
        with worker(app):
            sent = [app.tasks["hold"].delay() for _ in range(4)]
            wait_until(lambda app=app, limit=limit: app.running == limit, what=f"{limit} run in {app.main}")
            counts = [one.gconc.status() for one in two_apps]
            assert [len(status.sessions) for status in counts] == [int(one is app) for one in two_apps]
            assert counts[two_apps.index(app)]["task:hold"].running == limit
            app.go.set()
            assert [result.get(timeout=PATIENCE) for result in sent] == [app.main] * 4
            assert app.peak == limit


@pytest.mark.process
@pytest.mark.feature("several apps in one process", "parked")
def test_a_limit_that_one_app_sets_parks_nothing_of_another(two_apps):
    one, two = two_apps
    one.go.set()
    two.gconc.set("task:hold", 0)
    with worker(one):
        assert one.tasks["hold"].delay().get(timeout=PATIENCE) == "one"
        wait_until(lambda: one.gconc.status()["task:hold"].running == 0, what="the worker keeps no idle permit")
        one.gconc.set("task:hold", 0)
        parked = one.tasks["hold"].delay()
        wait_until(lambda: one.gconc.status()["task:hold"].waiting == 1, what="it is parked")
        two.gconc.reset("task:hold")
        assert one.gconc.get("task:hold") == 0
        assert one.gconc.status()["task:hold"].waiting == 1
        one.gconc.reset("task:hold")
        assert parked.get(timeout=PATIENCE) == "one"


@contextmanager
def worker(app: Celery) -> Iterator[None]:
    """A worker in this process. (Celery's have one task registry a process, so one at a time.)"""
    set_event_loop(None)  # kombu before 5.6 keeps the last worker's event loop for the next in the process
    with start_worker(
        app, pool="threads", concurrency=4, perform_ping_check=False, shutdown_timeout=30, loglevel="WARNING"
    ):
        yield


@pytest.fixture
def two_apps(lifecycle_redis: RedisServer) -> Iterator[list[Celery]]:
    """Two apps in this process, with a task of the same name, a limit and a namespace each."""
    url = f"redis://127.0.0.1:{lifecycle_redis.port}/15"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    for name in ("one", "two"):
        begin_namespace(url, f"gconc-{name}")
    apps = [_app(name, url, limit) for name, limit in (("one", 1), ("two", 2))]
    yield apps
    gc.collect()  # Celery's AsyncResult.__del__ talks to the result backend: now, while there is one
    for app in apps:
        app.gconc.close()
        app.close()


def _app(name: str, url: str, limit: int) -> Celery:
    app = Celery(name, broker=url, backend=url, set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        task_default_queue=f"queue-{name}",
        global_concurrency_key_prefix=f"gconc-{name}",
        global_concurrency_limits={"task:hold": limit},
    )
    app.gconc = GlobalConcurrency(app)
    app.go, app.lock, app.running, app.peak = threading.Event(), threading.Lock(), 0, 0

    @app.task(name="hold", shared=False)
    def hold() -> str:
        with app.lock:
            app.running += 1
            app.peak = max(app.peak, app.running)
        app.go.wait(PATIENCE)
        with app.lock:
            app.running -= 1
        return app.main

    return app
