"""Time limits: they count while a task runs, not while it is parked; and a permit is back when the task is over."""

from __future__ import annotations

import pytest
from celery.exceptions import TimeLimitExceeded

from tests.kit.servers import wait_until
from tests.lifecycle.bench import PATIENCE
from tests.lifecycle.matrix import NO_HARD_LIMIT, NO_SOFT_LIMIT


@pytest.mark.feature("soft time limit", "running", not_on=NO_SOFT_LIMIT)
def test_a_task_past_its_soft_time_limit_gives_its_permit_back_when_it_ends(bench):
    bench.limit(1)
    sent = bench.send("soft", 1, soft_time_limit=1)
    bench.started(1)
    waiting = bench.send("nap", 2)
    bench.parked(1)
    assert bench.result(sent) == "soft limit"
    assert bench.result(waiting) == 2


@pytest.mark.feature("soft time limit", "parked", not_on=NO_SOFT_LIMIT)
def test_the_time_parked_does_not_count_for_the_soft_time_limit(bench):
    sent = bench.send("soft", 1, soft_time_limit=1)
    bench.parked(1)
    passed = bench.oracle.now() + 1.2
    wait_until(lambda: bench.oracle.now() > passed, PATIENCE, "longer than the limit")
    bench.let_go(1)
    bench.limit(1)
    assert bench.result(sent) == "no limit"


@pytest.mark.feature("hard time limit", "running", not_on=NO_HARD_LIMIT)
def test_a_task_past_its_hard_time_limit_frees_its_permit_and_its_slot(bench):
    bench.limit(1)
    sent = bench.send("held", 1, time_limit=1)
    bench.started(1)
    waiting = [bench.send("nap", number) for number in (2, 3)]
    bench.parked(2)
    assert isinstance(bench.result(sent), TimeLimitExceeded)
    assert [bench.result(result) for result in waiting] == [2, 3]


@pytest.mark.feature("hard time limit", "parked", not_on=NO_HARD_LIMIT)
def test_the_time_parked_does_not_count_for_the_hard_time_limit(bench):
    sent = bench.send("held", 1, time_limit=1)
    bench.parked(1)
    passed = bench.oracle.now() + 1.2
    wait_until(lambda: bench.oracle.now() > passed, PATIENCE, "longer than the limit")
    bench.let_go(1)
    bench.limit(1)
    assert bench.result(sent) == 1
