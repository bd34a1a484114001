"""Acknowledgement: late or early, rejected or ignored, a message goes its way and its permit comes back."""

from __future__ import annotations

import pytest
from celery import VERSION

from tests.kit.servers import wait_until
from tests.lifecycle.bench import PATIENCE
from tests.lifecycle.matrix import NO_CHILDREN, NO_HARD_LIMIT

UNSEEN = "Only with Redis as the broker can it be seen from outside which messages are unacknowledged."


@pytest.mark.feature("acks_late", "running", not_on={"rabbitmq": UNSEEN})
def test_a_late_acknowledged_task_keeps_its_message_and_its_permit_until_it_ends(bench):
    bench.limit(1)
    sent = bench.send("late", 1)
    bench.started(1)
    bench.running(1)
    assert bench.unacked() == 1
    bench.let_go(1)
    assert bench.result(sent) == 1
    wait_until(lambda: bench.unacked() == 0, PATIENCE, "its message is acknowledged")


@pytest.mark.feature("acks_late", "parked", not_on={"rabbitmq": UNSEEN})
@pytest.mark.parametrize("task", ["late", "held"])
def test_a_parked_message_stays_the_brokers_acknowledged_late_or_early(bench, task):
    sent = bench.send(task, 1)
    bench.parked(1)
    assert bench.unacked() == 1
    bench.let_go(1)
    bench.limit(1)
    assert bench.result(sent) == 1


@pytest.mark.feature("acks_late", "parked", broker_matters=True)
def test_late_acknowledged_tasks_that_were_parked_run_once_each(bench):
    sent = [bench.send("late", number) for number in (1, 2, 3)]
    bench.parked(3)
    bench.let_go(1, 2, 3)
    bench.limit(1)
    assert [bench.result(result) for result in sent] == [1, 2, 3]
    assert bench.order() == [1, 2, 3]


@pytest.mark.feature("acks_on_failure_or_timeout", "running", broker_matters=True)
def test_a_late_acknowledged_task_that_fails_and_is_rejected_gives_its_permit_back(bench):
    bench.limit(1)
    sent = bench.send("late_fails", 1)
    assert isinstance(bench.result(sent), ValueError)
    bench.passes(2)
    assert len(bench.starts(1)) == 1


@pytest.mark.feature("acks_on_failure_or_timeout", "parked")
def test_parked_tasks_that_fail_and_are_rejected_follow_each_other(bench):
    sent = [bench.send("late_fails", number) for number in (1, 2, 3)]
    bench.parked(3)
    bench.limit(1)
    assert all(isinstance(bench.result(result), ValueError) for result in sent)
    assert bench.order() == [1, 2, 3]


@pytest.mark.feature("acks_on_failure_or_timeout", "running", not_on=NO_HARD_LIMIT, broker_matters=True)
def test_a_late_acknowledged_task_past_its_time_limit_is_queued_again_and_runs_with_a_new_permit(bench):
    bench.limit(1)
    sent = bench.send("late_slow", 1)
    bench.started(1, times=2)
    bench.state(sent, "SUCCESS")
    assert len(bench.starts(1)) == 2


@pytest.mark.feature("reject_on_worker_lost", "running", not_on=NO_CHILDREN)
def test_a_task_whose_child_died_is_queued_again_and_runs_with_a_new_permit(bench):
    bench.limit(1)
    sent = bench.send("dies", 1)
    bench.let_go(1)
    assert bench.result(sent) == 1
    assert len(bench.starts(1)) == 2


@pytest.mark.feature("reject_on_worker_lost", "parked", not_on=NO_CHILDREN)
def test_a_task_that_is_queued_again_for_its_lost_child_parks_while_the_limit_is_full(bench):
    bench.limit(1)
    sent = bench.send("dies", 1)
    bench.started(1)
    bench.limit(0)
    bench.let_go(1)
    bench.parked(1)
    assert bench.permits() == 0
    bench.limit(1)
    assert bench.result(sent) == 1
    assert len(bench.starts(1)) == 2


@pytest.mark.feature("Reject", "running", broker_matters=True)
def test_a_rejected_task_gives_its_permit_back_and_does_not_run_again(bench):
    bench.limit(1)
    sent = bench.send("rejects", 1, False)
    bench.started(1)
    bench.passes(2)
    if VERSION >= (5, 7):  # a rejected task is a failed one since celery 5.7
        bench.state(sent, "FAILURE")
    assert len(bench.starts(1)) == 1


@pytest.mark.feature("Reject", "running", broker_matters=True)
def test_a_task_that_asks_to_be_queued_again_runs_again_with_a_new_permit(bench):
    bench.limit(1)
    sent = bench.send("rejects", 1, True)
    assert bench.result(sent) == 1
    assert len(bench.starts(1)) == 2


@pytest.mark.feature("Reject", "parked", broker_matters=True)
def test_a_task_that_asks_to_be_queued_again_stands_behind_those_parked_before_it(bench):
    sent = [bench.send("rejects", 1, True), *(bench.send("nap", number) for number in (2, 3))]
    bench.parked(3)
    bench.limit(1)
    assert [bench.result(result) for result in sent] == [1, 2, 3]
    assert bench.order() == [1, 2, 3, 1]


@pytest.mark.feature("Ignore", "running", broker_matters=True)
def test_an_ignored_task_gives_its_permit_back_and_has_no_result(bench):
    bench.limit(1)
    sent = bench.send("ignores", 1)
    bench.started(1)
    bench.passes(2)
    assert sent.state == "PENDING"
    assert len(bench.starts(1)) == 1


@pytest.mark.feature("Ignore", "parked")
def test_parked_tasks_that_are_ignored_follow_each_other(bench):
    for number in (1, 2, 3):
        bench.send("ignores", number)
    bench.parked(3)
    bench.limit(1)
    bench.started(3)
    assert bench.order() == [1, 2, 3]
