"""Kinds of tasks and messages: custom requests, classes, protocol 1, messages that are no task, direct calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from celery.exceptions import NotRegistered, TimeLimitExceeded
from kombu import Exchange

from tests.kit.servers import wait_until
from tests.lifecycle.bench import PATIENCE, Bench
from tests.lifecycle.matrix import NO_HARD_LIMIT, ONE_AT_A_TIME


def has_logged(bench: Bench, text: str) -> None:
    wait_until(lambda: text in bench.worker.output(), PATIENCE, f"the worker has logged {text!r}")


# -- Custom Task.Request ------------------------------------------------------------------------------------------


@pytest.mark.feature("custom Task.Request", "parked")
def test_a_custom_request_parks_and_sees_its_start_only_then(bench):
    sent = bench.send("watched", 1)
    bench.parked(1)
    assert f"watched: accepted {sent.id}" not in bench.worker.output()
    bench.limit(1)
    assert bench.result(sent) == 1
    has_logged(bench, f"watched: accepted {sent.id}")


@pytest.mark.feature("custom Task.Request", "running")
def test_a_custom_request_sees_a_failure_and_its_permit_comes_back(bench):
    bench.limit(1)
    sent = bench.send("watched", 1, "failure")
    assert isinstance(bench.result(sent), ValueError)
    has_logged(bench, f"watched: failure of {sent.id}")
    bench.passes(2)


@pytest.mark.feature("custom Task.Request", "running", not_on=NO_HARD_LIMIT)
def test_a_custom_request_sees_a_time_limit_and_its_permit_comes_back(bench):
    bench.limit(1)
    sent = bench.send("watched", 1, "timeout", time_limit=1)
    assert isinstance(bench.result(sent), TimeLimitExceeded)
    has_logged(bench, f"watched: timeout of {sent.id}")
    bench.passes(2)


@pytest.mark.feature(
    "custom Task.Request",
    "running",
    not_on={"solo": "A solo worker exits on an error in a request's own callback, with and without limits."},
)
def test_a_permit_comes_back_though_the_requests_own_callback_raises(bench):
    bench.limit(1)
    sent = bench.send("clumsy", 1)
    assert isinstance(bench.result(sent), ValueError)
    bench.passes(2)


# -- Bound and class-based tasks ----------------------------------------------------------------------------------


@pytest.fixture
def at_zero(bench) -> Iterator[Callable[[str], None]]:
    """Sets a limit other than the line's to 0; afterwards its configured value holds again."""
    names: list[str] = []

    def lower(name: str) -> None:
        names.append(name)
        bench.limit(0, name)

    yield lower
    for name in names:
        bench.gconc.reset(name)


@pytest.mark.feature("bound tasks", "running", not_on=ONE_AT_A_TIME)
def test_a_bound_task_runs_under_the_limit_that_its_decorator_names(bench):
    sent = [bench.send("bound", number, queue=bench.free) for number in (1, 2)]
    bench.started(1)
    bench.parked(1, "pool:bound")
    assert bench.permits("pool:bound") == 1
    bench.let_go(1, 2)
    assert [bench.result(result) for result in sent] == [result.id for result in sent]


@pytest.mark.feature("bound tasks", "parked")
def test_a_bound_task_that_was_parked_sees_its_own_request(bench, at_zero):
    at_zero("pool:bound")
    sent = bench.send("bound", 1, queue=bench.free)
    bench.parked(1, "pool:bound")
    bench.let_go(1)
    bench.gconc.reset("pool:bound")
    assert bench.result(sent) == sent.id


@pytest.mark.feature("class-based tasks", "running", not_on=ONE_AT_A_TIME)
def test_a_class_based_task_runs_under_the_limit_of_its_class(bench):
    limit = "task:tests.lifecycle.app.classic"
    sent = [bench.send("classic", number, queue=bench.free) for number in (1, 2)]
    bench.started(1)
    bench.parked(1, limit)
    assert bench.permits(limit) == 1
    bench.let_go(1, 2)
    assert [bench.result(result) for result in sent] == ["Classic", "Classic"]


@pytest.mark.feature("class-based tasks", "parked")
def test_a_class_based_task_parks_while_the_limit_of_its_class_is_full(bench, at_zero):
    limit = "task:tests.lifecycle.app.classic"
    at_zero(limit)
    sent = bench.send("classic", 1, queue=bench.free)
    bench.parked(1, limit)
    bench.let_go(1)
    bench.gconc.reset(limit)
    assert bench.result(sent) == "Classic"


# -- Messages -----------------------------------------------------------------------------------------------------


@pytest.fixture
def protocol_1(bench) -> Iterator[None]:
    """The client sends task messages of version 1."""
    bench.app.conf.task_protocol = 1
    bench.app.amqp.__dict__.pop("create_task_message", None)
    yield
    bench.app.conf.task_protocol = 2
    bench.app.amqp.__dict__.pop("create_task_message", None)


@pytest.mark.feature("task protocol 1", "parked")
def test_a_task_message_of_version_1_parks_and_runs(bench, protocol_1):
    sent = bench.send("nap", 1)
    bench.parked(1)
    bench.limit(1)
    assert bench.result(sent) == 1


@pytest.mark.feature("task protocol 1", "running")
def test_a_task_message_of_version_1_gives_its_permit_back(bench, protocol_1):
    bench.limit(1)
    sent = [bench.send("fails", 1), bench.send("nap", 2)]
    assert isinstance(bench.result(sent[0]), ValueError)
    assert bench.result(sent[1]) == 2


@pytest.mark.feature("unregistered tasks", "parked")
def test_a_message_of_an_unknown_task_is_refused_at_once_though_the_limit_is_full(bench):
    waiting = bench.send("nap", 1)
    bench.parked(1)
    sent = bench.send("nobody_wrote_this", 2)
    assert isinstance(bench.result(sent), NotRegistered)
    bench.parked(1)
    bench.limit(1)
    assert bench.result(waiting) == 1


@pytest.mark.feature("undecodable messages", "parked")
@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [(b"\xff{", "application/json", "Can't decode message body"), (b'{"a": 1}', "application/json", "unknown message")],
    ids=["undecodable", "no task"],
)
def test_a_message_that_is_no_task_is_thrown_away_though_the_limit_is_full(bench, body, kind, said):
    waiting = bench.send("nap", 1)
    bench.parked(1)
    with bench.app.connection_for_write() as connection, connection.Producer() as producer:
        producer.publish(
            body, content_type=kind, content_encoding="utf-8", routing_key=bench.line,
            exchange=Exchange(bench.line, type="direct"),
        )  # fmt: skip
    has_logged(bench, said)
    bench.limit(1)
    assert bench.result(waiting) == 1


# -- Direct calls -------------------------------------------------------------------------------------------------


@pytest.mark.feature("direct calls and apply in a task", "running")
def test_a_limited_task_that_is_called_by_another_runs_in_it_and_needs_no_permit(bench):
    bench.limit(1)
    sent = bench.send("calls", 1)
    assert bench.result(sent) == [2, 3]
    assert bench.waiters("pool:inner") == []
