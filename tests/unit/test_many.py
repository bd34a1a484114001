"""With thousands of requests that wait, a step costs a worker no more than with hundreds: in lines run, counted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from benchmarks.many import STEPS, Worker
from celery_gconc.protocol.messages import Synced
from tests.kit.tables import leading

FEW, MANY = 400, 8000


@pytest.fixture(scope="module")
def workers() -> tuple[Worker, Worker]:
    return Worker(FEW), Worker(MANY)


def lines_run(call: Callable[[], Any]) -> int:
    """How many lines of celery_gconc were run in a call, each turn of a loop or comprehension counted."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        if "celery_gconc" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("step", STEPS)
def test_a_step_costs_no_more_with_twenty_times_as_many_that_wait(workers, step):
    few, many = workers
    STEPS[step](few), STEPS[step](many)
    small, large = (max(lines_run(lambda worker=worker: STEPS[step](worker)) for _ in range(4)) for worker in workers)
    assert large <= 1.5 * small + 100


def test_all_that_wait_come_round_in_the_sweeps(workers):
    _, many = workers
    seen = {run.task_id for _ in range(240) for run in many.gate.sweep(0.25)}
    assert {run.task_id for run in many.ledger.waiting()} <= seen


def test_what_no_limit_covers_any_more_is_free_in_one_go_in_order_of_arrival():
    worker = Worker(FEW)
    first = worker.ledger.waiting()
    changes = leading(worker.table, {}, worker.version, worker.version + 1)
    worker.ledger.apply(Synced("ok", version=changes.version, changes=changes), worker.ends, worker.ends)
    freed = worker.ledger.uncovered()
    assert len(freed) == len(first)
    assert [run.arrived for run in freed] == sorted(run.arrived for run in first)
