"""Revoke and terminate: a parked task is let go at once, a running one as soon as it is over."""

from __future__ import annotations

import pytest

from tests.kit.servers import wait_until
from tests.lifecycle.bench import PATIENCE
from tests.lifecycle.matrix import NO_TERMINATE, ONE_AT_A_TIME

HEARS_NOTHING = {"solo": "Celery's solo pool handles no commands while a task runs."}


def is_let_go_and_never_runs(bench, sent, number: int) -> None:
    """The parked task is revoked, its want and message are gone while the limit is still full, and it never runs."""
    bench.state(sent, "REVOKED")
    wait_until(lambda: not bench.left(), PATIENCE, "its message and its want are gone")
    bench.limit(1)
    bench.passes(99)
    assert bench.starts(number) == []


@pytest.mark.feature("revoke", "parked", broker_matters=True)
def test_a_revoked_task_that_is_parked_is_let_go_while_the_limit_is_still_full(bench):
    sent = bench.send("nap", 1)
    bench.parked(1)
    bench.app.control.revoke(sent.id)
    is_let_go_and_never_runs(bench, sent, 1)


@pytest.mark.feature("revoke", "parked", broker_matters=True)
def test_a_revoked_task_that_is_parked_makes_room_for_the_next_in_line(bench):
    sent = [bench.send("nap", number) for number in (1, 2)]
    bench.parked(2)
    bench.app.control.revoke(sent[0].id, destination=[bench.node], reply=True)
    bench.limit(1)
    assert bench.result(sent[1]) == 2
    bench.state(sent[0], "REVOKED")
    assert bench.starts(1) == []


@pytest.mark.feature("revoke", "running", not_on=HEARS_NOTHING)
def test_a_revoked_task_that_runs_goes_on_and_keeps_its_permit(bench):
    bench.limit(1)
    sent = bench.send("held", 1)
    bench.started(1)
    bench.control("revoke", task_id=sent.id)
    waiting = bench.send("nap", 2)
    bench.parked(1)
    assert bench.permits() == 1
    bench.let_go(1)
    assert bench.result(sent) == 1
    assert bench.result(waiting) == 2


@pytest.mark.feature("revoke by stamped headers", "parked")
def test_a_task_revoked_by_its_stamp_while_parked_is_let_go(bench):
    sent = bench.send("nap", 1, stamped_headers=["customer"], customer="acme")
    other = bench.send("nap", 2, stamped_headers=["customer"], customer="other")
    bench.parked(2)
    bench.control("revoke_by_stamped_headers", headers={"customer": ["acme"]})
    bench.state(sent, "REVOKED")
    bench.parked(1)
    bench.limit(1)
    assert bench.result(other) == 2
    assert bench.starts(1) == []


@pytest.mark.feature("revoke by stamped headers", "running", not_on=NO_TERMINATE)
def test_a_running_task_terminated_by_its_stamp_frees_its_permit(bench):
    bench.limit(1)
    sent = bench.send("held", 1, stamped_headers=["customer"], customer="initech")
    bench.started(1)
    waiting = bench.send("nap", 2)
    bench.parked(1)
    bench.control("revoke_by_stamped_headers", headers={"customer": ["initech"]}, terminate=True)
    assert bench.result(waiting) == 2
    bench.state(sent, "REVOKED")


@pytest.mark.feature("terminate", "parked")
def test_a_parked_task_that_is_terminated_is_let_go_as_if_revoked(bench):
    sent = bench.send("nap", 1)
    bench.parked(1)
    bench.control("revoke", task_id=sent.id, terminate=True)
    is_let_go_and_never_runs(bench, sent, 1)


@pytest.mark.feature("terminate", "running", not_on=NO_TERMINATE)
@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_a_terminated_task_frees_its_permit_and_its_slot(bench, signal):
    bench.limit(1)
    sent = bench.send("held", 1)
    bench.started(1)
    waiting = [bench.send("nap", number) for number in (2, 3)]
    bench.parked(2)
    bench.control("revoke", task_id=sent.id, terminate=True, signal=signal)
    assert [bench.result(result) for result in waiting] == [2, 3]
    bench.state(sent, "REVOKED")


@pytest.mark.feature("terminate", "running", not_on={**NO_TERMINATE, **ONE_AT_A_TIME})
def test_the_slot_of_a_terminated_task_can_be_used_again(bench):
    bench.limit(2)
    sent = [bench.send("held", number) for number in (1, 2)]
    bench.started(1)
    bench.started(2)
    bench.control("revoke", task_id=[result.id for result in sent], terminate=True)
    again = [bench.send("held", number) for number in (3, 4)]
    bench.started(3)
    bench.started(4)
    bench.running(2)
    bench.let_go(3, 4)
    assert [bench.result(result) for result in again] == [3, 4]
