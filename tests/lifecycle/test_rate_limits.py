"""Rate limits: first the worker's token bucket, then the gate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

TASK = "tests.lifecycle.app.paced"


@pytest.fixture
def rate(bench) -> Iterator:
    """Changes the rate limit of the task, as an operator would."""

    def change(limit: str) -> None:
        assert "ok" in bench.control("rate_limit", task_name=TASK, rate_limit=limit)

    yield change
    change("0")


@pytest.mark.feature("rate_limit", "running")
def test_a_task_that_waits_for_its_rate_limit_holds_no_permit(bench, rate):
    rate("1/s")
    bench.limit(1)
    sent = [bench.send("paced", number) for number in (1, 2)]
    bench.started(1)
    between = bench.passes(3)
    assert [bench.result(result) for result in sent] == [1, 2]
    assert bench.starts(1)[0] < between.time < bench.starts(2)[0]
    assert bench.starts(2)[0] - bench.starts(1)[0] >= 0.5, "the first was let through at once, and may have been late"


@pytest.mark.feature("rate_limit", "parked")
def test_rate_limited_tasks_park_while_the_limit_is_full_and_run_once_each(bench, rate):
    rate("50/s")
    sent = [bench.send("paced", number) for number in (1, 2, 3)]
    bench.parked(3)
    assert bench.order() == []
    bench.limit(1)
    assert [bench.result(result) for result in sent] == [1, 2, 3]
    assert bench.order() == [1, 2, 3]


@pytest.mark.feature("a changed rate limit", "parked")
def test_parked_tasks_and_new_ones_stay_under_the_limit_when_a_rate_limit_is_set_and_lifted(bench, rate):
    sent = [bench.send("paced", 1)]
    bench.parked(1)
    rate("100/s")
    sent.append(bench.send("paced", 2))
    bench.parked(2)
    rate("0")
    sent.append(bench.send("paced", 3))
    bench.parked(3)
    bench.limit(1)
    assert [bench.result(result) for result in sent] == [1, 2, 3]
    assert bench.order() == [1, 2, 3]


@pytest.mark.feature(
    "a changed rate limit", "running", not_on={"solo": "Celery's solo pool handles no commands while a task runs."}
)
def test_a_rate_limit_that_changes_while_a_task_runs_leaves_its_permit_alone(bench, rate):
    bench.limit(1)
    sent = [bench.send("held", 1)]
    bench.started(1)
    rate("100/s")
    sent.append(bench.send("paced", 2))
    bench.parked(1)
    assert bench.permits() == 1
    bench.let_go(1)
    assert [bench.result(result) for result in sent] == [1, 2]
