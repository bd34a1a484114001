"""Groups, chains, chords, error callbacks and replaced tasks: each part has its turn under the limit."""

from __future__ import annotations

import pytest
from celery import chain, chord, group

from tests.lifecycle.matrix import ONE_AT_A_TIME


@pytest.mark.feature("groups", "parked")
def test_a_parked_group_runs_one_member_at_a_time_and_has_all_results(bench):
    sent = group([bench.signature("nap", number) for number in (1, 2, 3)], app=bench.app).apply_async()
    bench.parked(3)
    bench.limit(1)
    assert bench.result(sent) == [1, 2, 3]
    assert bench.order() == [1, 2, 3]


@pytest.mark.feature("groups", "running", not_on=ONE_AT_A_TIME)
def test_a_group_larger_than_the_limit_waits_for_its_own_members(bench):
    bench.limit(1)
    sent = group([bench.signature("held", number) for number in (1, 2)], app=bench.app).apply_async()
    bench.started(1)
    bench.parked(1)
    bench.let_go(1, 2)
    assert bench.result(sent) == [1, 2]


@pytest.mark.feature("chains", "parked")
def test_a_parked_chain_goes_on_link_by_link(bench):
    sent = chain(*(bench.signature("adds_one", *first) for first in ((1,), (), ())), app=bench.app).apply_async()
    bench.parked(1)
    bench.limit(1)
    assert bench.result(sent) == 4
    assert bench.order() == [1, 2, 3]


@pytest.mark.feature("chains", "running")
def test_the_next_link_of_a_chain_does_not_wait_for_the_permit_of_the_last(bench):
    bench.limit(1)
    sent = chain(bench.signature("held", 1), bench.signature("adds_one"), app=bench.app).apply_async()
    bench.started(1)
    bench.let_go(1)
    assert bench.result(sent) == 2


@pytest.mark.feature("chords", "parked")
def test_a_parked_chord_runs_its_callback_after_all_its_members(bench):
    header = [bench.signature("nap", number) for number in (1, 2, 3)]
    sent = chord(header, app=bench.app)(bench.signature("adds", number=10))
    bench.parked(3)
    bench.limit(1)
    assert bench.result(sent) == 6
    assert bench.order() == [1, 2, 3, 10]


@pytest.mark.feature("chords", "running")
def test_a_chords_callback_parks_when_the_limit_is_full_by_then(bench):
    bench.limit(1)
    sent = chord([bench.signature("held", 1)], app=bench.app)(bench.signature("adds", number=10))
    bench.started(1)
    bench.limit(0)
    bench.let_go(1)
    bench.parked(1)
    assert bench.starts(10) == []
    bench.limit(1)
    assert bench.result(sent) == 1


@pytest.mark.feature("chords", "parked")
def test_a_chord_with_a_failed_member_fails_and_leaves_nothing(bench):
    header = [bench.signature("nap", 1), bench.signature("fails", 2)]
    sent = chord(header, app=bench.app)(bench.signature("adds", number=10))
    bench.parked(2)
    bench.limit(1)
    assert isinstance(bench.result(sent), Exception)
    assert bench.starts(10) == []


@pytest.mark.feature("link_error", "parked")
def test_an_error_callback_runs_after_a_failed_task_that_was_parked(bench):
    sent = bench.send("fails", 1, link_error=bench.signature("after_error", number=2))
    bench.parked(1)
    bench.limit(1)
    assert isinstance(bench.result(sent), ValueError)
    bench.started(2)
    assert bench.order() == [1, 2]


@pytest.mark.feature("link_error", "running")
def test_an_error_callback_parks_when_the_limit_is_full_by_then(bench):
    sent = bench.send("fails", 1, link_error=bench.signature("after_error", number=2))
    bench.parked(1)
    behind = bench.send("nap", 3)
    bench.parked(2)
    bench.limit(1)
    assert bench.result(behind) == 3
    bench.started(2)
    assert isinstance(bench.result(sent), ValueError)
    assert bench.order() == [1, 3, 2]


@pytest.mark.feature("replace", "parked")
def test_a_replaced_task_gives_its_permit_to_the_one_in_its_place(bench):
    sent = bench.send("replaces", 1)
    bench.parked(1)
    bench.limit(1)
    assert bench.result(sent) == 2
    assert bench.order() == [1, 2]


@pytest.mark.feature("replace", "running")
def test_the_task_in_anothers_place_stands_behind_those_parked_before_it(bench):
    sent = bench.send("replaces", 1)
    bench.parked(1)
    behind = bench.send("nap", 3)
    bench.parked(2)
    bench.limit(1)
    assert bench.result(sent) == 2
    assert bench.result(behind) == 3
    assert bench.order() == [1, 3, 2]
