"""The pool under the gate: its children die, it grows, shrinks and restarts."""

from __future__ import annotations

import os
import signal

import pytest
from billiard.exceptions import WorkerLostError

from tests.kit.servers import wait_until
from tests.lifecycle.bench import PATIENCE
from tests.lifecycle.matrix import FIXED_SIZE, NO_CHILDREN, ONE_AT_A_TIME


def pid_of(bench, number: int) -> int:
    """The child that started a task."""
    return next(event.pid for event in bench.oracle.events() if event.number == number)


@pytest.mark.feature("OOM kill of a child", "running", not_on=NO_CHILDREN)
def test_a_killed_child_frees_the_permit_of_its_task_for_one_that_waits(bench):
    bench.limit(1)
    sent = bench.send("held", 1)
    bench.started(1)
    waiting = [bench.send("nap", number) for number in (2, 3)]
    bench.parked(2)
    os.kill(pid_of(bench, 1), signal.SIGKILL)
    assert [bench.result(result) for result in waiting] == [2, 3]
    assert isinstance(bench.result(sent), WorkerLostError)


@pytest.mark.feature("OOM kill of a child", "parked", not_on=NO_CHILDREN)
def test_a_child_that_is_killed_while_it_runs_nothing_loses_no_parked_task(bench):
    sent = [bench.send("held", number) for number in (1, 2)]
    bench.parked(2)
    before = bench.worker.children()
    os.kill(before[0], signal.SIGKILL)
    wait_until(
        lambda: before[0] not in bench.worker.children() and len(bench.worker.children()) == 2,
        PATIENCE, "another child is in its place",
    )  # fmt: skip
    bench.limit(2)
    bench.started(1)
    bench.started(2)
    bench.running(2)
    bench.let_go(1, 2)
    assert [bench.result(result) for result in sent] == [1, 2]


@pytest.mark.feature("pool_grow and pool_shrink", "running", not_on=FIXED_SIZE, brokers_are_alike=True)
def test_a_task_that_waits_for_a_slot_starts_in_a_pool_that_grows_and_never_too_many_in_one_that_shrinks(bench):
    bench.limit(3)
    sent = [bench.send("held", number) for number in (1, 2, 3)]
    bench.started(1)
    bench.started(2)
    bench.parked(1)
    assert "ok" in bench.control("pool_grow", n=1)
    bench.started(3)
    bench.running(3)
    bench.let_go(1, 2, 3)
    assert sorted(bench.result(result) for result in sent) == [1, 2, 3]
    wait_until(lambda: bench.permits() == 0, PATIENCE, "all permits are back")
    assert "ok" in bench.control("pool_shrink", n=1)
    again = [bench.send("held", number) for number in (4, 5, 6)]
    bench.started(4)
    bench.started(5)
    bench.parked(1)
    bench.let_go(4, 5, 6)
    assert [bench.result(result) for result in again] == [4, 5, 6]


@pytest.mark.feature("pool_grow and pool_shrink", "parked", not_on=FIXED_SIZE, brokers_are_alike=True)
def test_parked_tasks_stay_parked_in_a_pool_that_grows_and_shrinks(bench):
    sent = [bench.send("nap", number) for number in (1, 2)]
    bench.parked(2)
    assert "ok" in bench.control("pool_grow", n=1)
    bench.parked(2)
    assert "ok" in bench.control("pool_shrink", n=1)
    bench.parked(2)
    assert bench.order() == []
    bench.limit(1)
    assert [bench.result(result) for result in sent] == [1, 2]


@pytest.mark.feature("pool_restart", "parked", brokers_are_alike=True)
def test_parked_and_new_tasks_stay_under_the_limit_when_the_pool_restarts(bench):
    sent = [bench.send("nap", 1)]
    bench.parked(1)
    assert "ok" in bench.control("pool_restart")
    sent.append(bench.send("nap", 2))
    assert bench.result(bench.send("nap", 3, queue=bench.free)) == 3, "the pool is there again"
    bench.parked(2)
    assert bench.order() == [3]
    bench.limit(1)
    assert [bench.result(result) for result in sent] == [1, 2]


@pytest.mark.feature("pool_restart", "running", not_on=ONE_AT_A_TIME, brokers_are_alike=True)
def test_a_task_that_runs_while_the_pool_restarts_keeps_its_permit_to_its_end(bench):
    bench.limit(1)
    sent = [bench.send("held", 1)]
    bench.started(1)
    assert "ok" in bench.control("pool_restart")
    sent.append(bench.send("nap", 2))
    bench.parked(1)
    assert bench.permits() == 1
    bench.let_go(1)
    assert [bench.result(result) for result in sent] == [1, 2]
