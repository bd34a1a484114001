"""Where a request stands on its way through the worker's gate, and what is left of it at its end."""

from __future__ import annotations

import os

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import Celery
from celery.worker.request import Request
from kombu import Message

from benchmarks.many import Worker
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.run import Run, RunState


@pytest.fixture
def worker() -> Worker:
    """A gate whose limit of two nobody uses yet."""
    return Worker(0)


def parked(worker: Worker) -> Run:
    """A request that waits for a permit."""
    worker.admit()
    (run,) = worker.ledger.waiting()
    return run


def test_a_request_is_parked_then_granted_then_started_then_ended(worker):
    run = parked(worker)
    assert (run.state, run.started_at) == (RunState.PARKED, 0.0)
    worker.sync()
    assert run.state is RunState.GRANTED
    assert run.started_at >= run.arrived > 0.0
    assert run.limits_at_start == ("queue:celery",)
    worker.runs.accepted(run, 1)
    assert run.state is RunState.STARTED
    worker.dispatcher.done(run)
    assert run.state is RunState.ENDED
    assert not worker.ledger.running()


def test_an_end_that_is_heard_of_twice_is_one(worker):
    run = parked(worker)
    worker.sync()
    assert worker.runs.ended(run)
    assert not worker.runs.ended(run)


def test_nothing_that_comes_late_undoes_an_end(worker):
    run = parked(worker)
    worker.sync()
    worker.dispatcher.done(run)
    worker.runs.accepted(run, 1)
    assert run.state is RunState.ENDED


def test_a_request_that_is_over_has_its_own_callbacks_back_and_leads_to_no_job(worker):
    run = parked(worker)
    assert Run.of(run.request) is run
    worker.sync()
    run.job = object()
    worker.dispatcher.done(run)
    assert run.job is None
    assert Run.of(run.request) is None


def test_limits_that_change_while_a_task_runs_are_not_those_it_started_under(worker):
    run = parked(worker)
    worker.sync()
    worker.change_table()
    assert "app" in run.limits
    assert run.limits_at_start == ("queue:celery",)


CHILD = os.getpid() + 1


def acknowledge(*args: object) -> None:
    """There is no broker to be told."""


@pytest.fixture
def app() -> Celery:
    """One with a task whose messages are acknowledged late, and no backend."""
    app = Celery("runs", broker="memory://", set_as_current=False)

    @app.task(name="runs.task", acks_late=True, shared=False)
    def nothing() -> None:
        """Do nothing."""

    return app


def admitted(worker: Worker, app: Celery) -> Run:
    """A request, made of a message as Celery does it, that was granted a permit."""
    message = Message(
        body="[[], {}, {}]", content_type="application/json", content_encoding="utf-8", delivery_tag="1",
        headers={"id": "1", "task": "runs.task"}, properties={}, delivery_info={},
    )  # fmt: skip
    worker.gate.admit(Request(message, app=app, task=app.tasks["runs.task"], on_ack=acknowledge, on_reject=acknowledge))
    (run,) = worker.ledger.waiting()
    worker.sync()
    return run


@pytest.fixture
def started_in_a_child(app, worker, monkeypatch) -> Run:
    """A request whose task has begun in a child of the pool."""
    monkeypatch.setattr(Pool, "size", 4)
    worker.pool.has_children = True
    run = admitted(worker, app)
    run.request.worker_pid = CHILD
    run.request.on_accepted(CHILD, 0.0)
    return run


def failed_with(error: BaseException) -> ExceptionInfo:
    """What the pool tells of a task that failed with an error."""
    try:
        raise error
    except BaseException:
        return ExceptionInfo()


@pytest.mark.parametrize("error", [TimeLimitExceeded(1.0), Terminated(15), WorkerLostError("gone")])
def test_a_task_whose_child_is_to_be_killed_keeps_its_permit_until_that_is_gone(worker, started_in_a_child, error):
    run = started_in_a_child
    run.request.on_timeout(False, 1.0)
    run.request.on_failure(failed_with(error))
    assert run.state is RunState.STARTED
    assert worker.ledger.covered() == [run]
    worker.runs.child_exited(CHILD)
    assert run.state is RunState.ENDED
    assert worker.ledger.covered() == []


def test_a_task_that_fails_by_itself_ends_at_once(worker, started_in_a_child):
    started_in_a_child.request.on_failure(failed_with(ValueError("no")))
    assert started_in_a_child.state is RunState.ENDED


def test_where_no_child_can_die_under_its_task_nobody_hears_of_the_start(app, worker):
    assert type(admitted(worker, app).request).on_accepted is Request.on_accepted


def test_a_request_that_comes_again_to_another_gate_is_that_one_s(app, worker):
    request, other = admitted(worker, app).request, Worker(0)
    other.gate.admit(request)
    assert request.gconc_dispatcher is other.dispatcher
    assert type(request).__mro__[1] is Request
