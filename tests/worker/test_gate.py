"""What one worker does with requests under limits, on the pools that run inside a test."""

from __future__ import annotations

import threading
import time

import pytest
from celery.exceptions import Ignore, Reject
from celery.worker.strategy import default as default_strategy

from tests.kit.servers import wait_until

POOLS = ["threads", "solo"]


class Meter:
    """Counts what runs at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = self.peak = self.count = 0

    def __enter__(self) -> None:
        with self.lock:
            self.running += 1
            self.count += 1
            self.peak = max(self.peak, self.running)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.running -= 1


def status(app, limit="task:inside.work"):
    return app.gconc.status(limit)[limit]


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_option_limits_that_task(make_app, run_worker, pool):
    app, meter = make_app(), Meter()

    @app.task(shared=False, name="inside.work", global_concurrency=2)
    def work() -> None:
        with meter:
            time.sleep(0.02)

    results = [work.delay() for _ in range(20)]
    run_worker(app, pool)
    for result in results:
        result.get(timeout=30)
    assert meter.count == 20
    assert meter.peak == (2 if pool == "threads" else 1)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("conf", [{}, {"broker_url": "memory://"}], ids=["with an event loop", "without one"])
def test_parked_tasks_start_though_no_message_comes_when_their_limit_is_raised(make_app, run_worker, pool, conf):
    app, meter = make_app(global_concurrency_limits={"task:inside.work": 0}, **conf), Meter()

    @app.task(shared=False, name="inside.work")
    def work() -> None:
        with meter:
            time.sleep(0.02)

    results = [work.delay() for _ in range(3)]
    run_worker(app, pool)
    wait_until(lambda: status(app).waiting + status(app).parked, what="they wait")
    app.gconc.set("task:inside.work", 1)
    for result in results:
        result.get(timeout=10)
    assert meter.peak == 1


@pytest.mark.parametrize("way", ["success", "failure", "ignore", "reject", "retry"])
def test_the_permit_is_free_again_however_the_task_ends(make_app, run_worker, way):
    app, ended = make_app(), []

    @app.task(shared=False, name="inside.work", bind=True, global_concurrency=1, max_retries=2)
    def work(self) -> None:
        ended.append(way)
        if way == "failure":
            raise ValueError(way)
        if way == "ignore":
            raise Ignore
        if way == "reject":
            raise Reject(way, requeue=False)
        if way == "retry":
            raise self.retry(countdown=0)

    run_worker(app)
    for _ in range(3):
        work.delay()
    wait_until(lambda: len(ended) == (9 if way == "retry" else 3), what="all ran")
    wait_until(lambda: status(app).running == 0, seconds=5, what="no permit is held")


def test_a_result_backend_that_fails_costs_no_permit(make_app, run_worker):
    app, ran = make_app(), []
    app.conf.result_backend = "redis://127.0.0.1:1/0"
    app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 0, "timeout": 0.1}}

    @app.task(shared=False, name="inside.work", global_concurrency=1, ignore_result=False)
    def work() -> None:
        ran.append(1)

    run_worker(app)
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        for number in range(3):
            message = app.amqp.as_task_v2(f"id-{number}", "inside.work")
            app.amqp.send_task_message(producer, "inside.work", message)
    wait_until(lambda: len(ran) == 3, what="all ran")
    wait_until(lambda: status(app).running == 0, seconds=5, what="no permit is held")


def test_rate_limited_and_eta_tasks_pass_the_gate_too(make_app, run_worker):
    app, meter = make_app(global_concurrency_limits={"app": 1}), Meter()

    @app.task(shared=False, name="inside.rated", rate_limit="50/s")
    def rated() -> None:
        with meter:
            time.sleep(0.02)

    @app.task(shared=False, name="inside.later")
    def later() -> None:
        with meter:
            time.sleep(0.02)

    run_worker(app)
    results = [task.apply_async(countdown=wait) for task in (rated, later) for wait in (None, 0.1) for _ in range(4)]
    for result in results:
        result.get(timeout=30)
    assert meter.count == 16
    assert meter.peak == 1


def test_an_annotation_sets_a_tasks_limit_as_any_attribute(make_app, run_worker):
    app, meter = make_app(task_annotations={"inside.work": {"global_concurrency": 1}}), Meter()

    @app.task(shared=False, name="inside.work", global_concurrency=4)
    def work() -> None:
        with meter:
            time.sleep(0.02)

    results = [work.delay() for _ in range(8)]
    run_worker(app)
    for result in results:
        result.get(timeout=30)
    assert meter.peak == 1


def test_a_task_runs_only_under_all_of_its_limits_at_once(make_app, run_worker):
    app, meter = make_app(global_concurrency_limits={"pool:a": 3, "pool:b": 1}), Meter()

    @app.task(shared=False, name="inside.both", global_concurrency=["pool:a", "pool:b"])
    def both() -> None:
        with meter:
            time.sleep(0.02)

    results = [both.delay() for _ in range(10)]
    run_worker(app)
    for result in results:
        result.get(timeout=30)
    assert meter.peak == 1


def test_a_task_with_its_own_limit_is_not_held_up_by_another_that_is_full(make_app, run_worker):
    app, gate = make_app(), threading.Event()

    @app.task(shared=False, name="inside.stuck", global_concurrency=1)
    def stuck() -> None:
        gate.wait(20)

    @app.task(shared=False, name="inside.free", global_concurrency=2)
    def free() -> int:
        return 1

    run_worker(app)
    for _ in range(10):
        stuck.delay()
    results = [free.delay() for _ in range(10)]
    assert [result.get(timeout=20) for result in results] == [1] * 10
    app.control.purge()
    gate.set()


def test_an_expired_and_a_revoked_task_do_not_run_when_their_turn_comes(make_app, run_worker):
    app, ran, gate = make_app(), [], threading.Event()

    @app.task(shared=False, name="inside.work", global_concurrency=1)
    def work(name: str) -> None:
        ran.append(name)
        if name == "first":
            gate.wait(20)

    run_worker(app)
    work.delay("first")
    wait_until(lambda: ran == ["first"], what="the first runs")
    expired = work.apply_async(("expired",), expires=1)
    revoked = work.delay("revoked")
    last = work.delay("last")
    wait_until(lambda: status(app).waiting >= 1, what="they wait")
    app.control.revoke(revoked.id)
    wait_until(lambda: expired.state == revoked.state == "REVOKED", what="they are let go while they wait")
    gate.set()
    last.get(timeout=20)
    assert ran == ["first", "last"]


def test_the_python_api_says_what_was_and_what_is(make_app, run_worker):
    app = make_app(global_concurrency_limits={"emails": 3})
    gconc = app.gconc
    assert gconc.get("emails") == 3, "with no worker alive, the caller's own configuration counts"
    assert str(gconc.set("emails", 8)) == "queue:emails: was 3 (configured), now 8"
    assert gconc.get("emails") == 8
    run_worker(app)
    wait_until(lambda: gconc.status().sessions, what="the worker's session is open")
    assert gconc.get("emails") == 8, "it survives the start of workers"
    assert gconc.pause("emails").now.paused
    assert gconc.status()["queue:emails"].paused
    assert gconc.resume("emails").was.paused
    assert gconc.set("emails", "unlimited").now.max is None
    assert gconc.get("emails") is None
    assert gconc.reset("emails").now.max == 3
    assert gconc.get("never-heard-of") is None


def own_strategy(task, app, consumer, **options):
    """As celery-batches has one; this one does what Celery's does."""
    return default_strategy(task, app, consumer, **options)


def test_a_task_with_a_strategy_of_its_own_is_warned_of_by_name(make_app, run_worker, caplog):
    app = make_app()

    @app.task(name="batches", shared=False, Strategy=f"{__name__}:own_strategy")
    def batches() -> int:
        return 1

    run_worker(app)
    assert "limits don't apply to batches" in caplog.text
    assert batches.delay().get(timeout=10) == 1


def test_no_warning_names_tasks_that_go_through_the_gate(make_app, run_worker, caplog):
    app = make_app()

    @app.task(name="plain")
    def plain() -> int:
        return 1

    run_worker(app)
    assert plain.delay().get(timeout=10) == 1
    assert "limits don't apply" not in caplog.text
