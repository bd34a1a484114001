"""Order, and the same message twice: each delivery waits in its place and has a permit of its own."""

from __future__ import annotations

import json

import pytest
from kombu import Connection

from tests.kit.servers import wait_until
from tests.lifecycle.bench import PATIENCE, Bench
from tests.lifecycle.matrix import ONE_AT_A_TIME


def deliver_again(bench: Bench, task: str, number: int, task_id: str) -> None:
    """Have the broker deliver an unacknowledged message again; where that takes a lost connection, send its like."""
    if bench.column.broker == "rabbitmq":
        bench.send(task, number, task_id=task_id)
        return
    (tag,) = [
        tag
        for tag, message in bench.redis.hgetall("unacked").items()
        if json.loads(message)[0]["headers"]["id"] == task_id
    ]
    with Connection(bench.app.conf.broker_url) as connection:
        connection.default_channel.qos.restore_by_tag(tag.decode())


def has_had_time(bench: Bench) -> None:
    """The worker has parked what was sent, and has run other tasks since: what may start has started."""
    bench.parked(1)
    for number in (101, 102):
        assert bench.result(bench.send("nap", number, 0.2, queue=bench.free)) == number


@pytest.mark.feature("order", "parked", broker_matters=True)
def test_parked_tasks_run_in_the_order_in_which_they_were_sent(bench):
    numbers = list(range(1, 13))
    sent = [bench.send("nap", number) for number in numbers]
    wait_until(lambda: len(bench.reserved()) >= 3 and bench.waiters(), PATIENCE, "some are parked")
    bench.limit(1)  # the rest waits in the broker
    assert [bench.result(result) for result in sent] == numbers
    assert bench.order() == numbers


@pytest.mark.feature("order", "running", broker_matters=True, not_on=ONE_AT_A_TIME)
def test_tasks_that_wait_for_a_running_one_follow_it_in_order(bench):
    bench.limit(1)
    first = bench.send("held", 1)
    bench.started(1)
    numbers = list(range(2, 6))
    sent = [bench.send("nap", number) for number in numbers]
    bench.parked(4)
    bench.let_go(1)
    assert [bench.result(result) for result in (first, *sent)] == [1, *numbers]
    assert bench.order() == [1, *numbers]


@pytest.mark.feature("the same message twice", "running", broker_matters=True, not_on=ONE_AT_A_TIME)
def test_twins_of_one_message_that_run_at_once_hold_a_permit_each(bench):
    bench.limit(2)
    sent = bench.send("late", 1)
    bench.started(1)
    deliver_again(bench, "late", 1, sent.id)
    bench.started(1, times=2)
    bench.running(2)
    third = bench.send("nap", 3)
    bench.parked(1)
    bench.let_go(1)  # either of them
    assert bench.result(third) == 3
    wait_until(lambda: bench.permits() <= 1, PATIENCE, "the permit of the third is no longer kept for another")
    bench.limit(1)
    fourth = bench.send("nap", 4)
    has_had_time(bench)
    assert bench.starts(4) == [], "one twin's end has freed the other's permit"
    bench.let_go(1)
    assert bench.result(fourth) == 4
    assert bench.result(sent) == 1


@pytest.mark.feature("the same message twice", "running", broker_matters=True, not_on=ONE_AT_A_TIME)
def test_the_twin_of_a_running_task_waits_and_neither_frees_the_others_permit(bench):
    bench.limit(1)
    sent = bench.send("late", 1)
    bench.started(1)
    deliver_again(bench, "late", 1, sent.id)
    bench.parked(1)
    assert bench.permits() == 1
    third = bench.send("nap", 3)
    bench.parked(2)
    bench.let_go(1)
    bench.started(1, times=2)
    has_had_time(bench)
    assert bench.permits() == 1
    assert bench.starts(3) == [], "one twin's end has freed the other's permit"
    bench.let_go(1)
    assert bench.result(third) == 3
    assert bench.result(sent) == 1


@pytest.mark.feature("the same message twice", "parked", broker_matters=True)
def test_twins_of_one_message_that_are_parked_run_one_after_the_other(bench):
    sent = bench.send("nap", 1, 0.1)
    bench.parked(1)
    if bench.column.broker == "redis":
        deliver_again(bench, "nap", 1, sent.id)
    else:
        bench.send("nap", 1, 0.1, task_id=sent.id)
    bench.parked(2)
    bench.limit(1)
    bench.started(1, times=2)
    assert bench.result(sent) == 1
