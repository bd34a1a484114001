"""The simulation of a limit: against queueing theory, and against cases that can be reckoned by hand."""

from __future__ import annotations

import math
import random

import pytest

from celery_gconc.diagnosis.simulation import Arrival, History, arrivals_of, forecast
from celery_gconc.protocol.status import EndedTask


def a_record(arrivals: list[tuple[float, float]], seconds: float, **facts: object) -> History:
    holds = tuple(sorted(held for _, held in arrivals)) or (1.0,)
    made = {"holds": holds, "samples": len(arrivals), "tasks": float(len(arrivals)), **facts}
    return History("queue:emails", 1, seconds, arrivals=tuple(Arrival(at, held) for at, held in arrivals), **made)  # type: ignore[arg-type]


def erlang_c(load: float, places: int) -> float:
    """The probability that a task has to wait, where arrivals and durations are exponential."""
    top = load**places / math.factorial(places) * places / (places - load)
    return top / (sum(load**k / math.factorial(k) for k in range(places)) + top)


@pytest.mark.parametrize(("places", "use"), [(1, 0.5), (3, 0.7), (8, 0.8)])
def test_the_mean_wait_of_random_arrivals_is_that_of_the_erlang_c_formula(places: int, use: float):
    draw, hold = random.Random(7), 2.0
    rate, at, arrivals = use * places / hold, 0.0, []
    for _ in range(100_000):
        at += draw.expovariate(rate)
        arrivals.append((at, draw.expovariate(1 / hold)))
    found = forecast(a_record(arrivals, at), places)
    expected = erlang_c(use * places, places) * hold / (places * (1 - use))
    assert found.mean_wait == pytest.approx(expected, rel=0.06)
    assert found.in_use == pytest.approx(use, rel=0.02)
    assert found.started_per_minute == pytest.approx(60 * rate, rel=0.02)


def test_regular_arrivals_that_one_place_can_serve_never_wait():
    found = forecast(a_record([(float(n), 0.5) for n in range(100)], 100.0), 1)
    assert (found.mean_wait, found.p95_wait, found.in_use, found.left) == (0.0, 0.0, 0.5, 0)
    assert found.started_per_minute == 60.0


def test_regular_arrivals_that_one_place_cannot_serve_wait_ever_longer():
    found = forecast(a_record([(float(n), 2.0) for n in range(100)], 100.0), 1)
    assert found.mean_wait == 99 / 2
    assert found.p95_wait == 95.0
    assert (found.in_use, found.left) == (1.0, 50)
    assert found.started_per_minute == 30.0


def test_two_places_serve_the_same_arrivals_without_a_wait():
    found = forecast(a_record([(float(n), 2.0) for n in range(100)], 100.0), 2)
    assert (found.mean_wait, found.left) == (0.0, 0)
    assert found.in_use == pytest.approx(0.995)  # the second place begins a second late


def test_what_waits_now_goes_first_and_its_end_is_told():
    record = a_record([], 60.0, backlog=10, holds=(1.0,))
    assert forecast(record, 2).backlog_gone == 4.0
    assert forecast(record, 5).backlog_gone == 1.0
    assert forecast(record, None).backlog_gone == 0.0


def test_what_runs_above_a_lower_max_drains_before_anything_starts():
    record = a_record([], 60.0, backlog=1, holds=(10.0,), running=(4.0, 5.0, 6.0, 7.0))
    assert forecast(record, 2).backlog_gone == 5.0  # they end after 3, 4, 5 and 6 s
    assert forecast(record, 4).backlog_gone == 3.0
    assert forecast(record, 5).backlog_gone == 0.0


def test_a_task_that_has_been_held_longer_than_any_other_ends_any_moment():
    assert forecast(a_record([], 60.0, backlog=1, holds=(10.0,), running=(11.0,)), 1).backlog_gone == 0.0


def test_no_more_places_count_than_live_workers_have_slots():
    record = a_record([(float(n), 2.0) for n in range(100)], 100.0, slots=1)
    assert forecast(record, 50).permits == 1
    assert forecast(record, 50).mean_wait == forecast(record, 1).mean_wait


def test_a_max_of_zero_starts_nothing():
    found = forecast(a_record([(0.0, 1.0)], 10.0, backlog=2), 0)
    assert (found.permits, found.started_per_minute, found.left) == (0, 0.0, 3)
    assert found.mean_wait is found.backlog_gone is found.in_use is None


def test_a_huge_max_costs_no_memory():
    assert forecast(a_record([(0.0, 1.0)], 10.0), 2**31).mean_wait == 0.0


def test_the_same_record_gives_the_same_forecast():
    record = a_record([(float(n), 1.0 + n % 7) for n in range(50)], 50.0, backlog=30, running=(0.5, 2.5))
    assert forecast(record, 3) == forecast(record, 3)


def test_samples_count_by_their_weights():
    samples = [EndedTask(ended=100.0 + n, waited=1.0, held=2.0, weight=2.5) for n in range(40)]
    arrivals, seconds = arrivals_of(samples, [], now=140.0, seconds=600.0)
    assert len(arrivals) == 100
    assert arrivals[0].at == 0.0
    assert seconds == pytest.approx(43.0, abs=0.5)  # the first came at 97
    assert all(one.held == 2.0 for one in arrivals)


def test_what_runs_and_waits_now_came_too():
    samples = [EndedTask(ended=90.0, waited=0.0, held=5.0)]
    arrivals, seconds = arrivals_of(samples, [3.0], now=100.0, seconds=600.0)
    assert [(one.at, one.held) for one in arrivals] == [(0.0, 5.0), (12.0, None)]
    assert seconds == 15.0


def test_what_came_before_the_recorded_time_is_left_out():
    samples = [EndedTask(ended=100.0, waited=50.0, held=2.0), EndedTask(ended=100.0, waited=0.0, held=2.0)]
    arrivals, _ = arrivals_of(samples, [], now=101.0, seconds=10.0)
    assert len(arrivals) == 1
