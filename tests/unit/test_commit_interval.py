"""The page on the commit interval shows what was measured, and says nothing that the measurement doesn't."""

from __future__ import annotations

import json
import statistics

import pytest

from benchmarks.commit_interval import BEGIN, CASES, END, INTERVALS, PAGE, RESULTS, table
from tests.kit.servers import ROOT

FOUND = json.loads((ROOT / RESULTS).read_text())


def median(case: str, interval: int, key: str) -> float:
    return statistics.median(run[key] for run in FOUND["runs"][case][str(interval)])


def test_the_table_of_the_page_is_what_was_measured() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert page.split(BEGIN)[1].split(END)[0].strip() == table(FOUND).strip()


def test_every_interval_was_measured_in_every_round() -> None:
    assert {name: set(runs) for name, runs in FOUND["runs"].items()} == {
        name: {str(interval) for interval in INTERVALS} for name in CASES
    }
    assert {len(runs) for of_case in FOUND["runs"].values() for runs in of_case.values()} == {FOUND["rounds"]}


@pytest.mark.parametrize("case", CASES)
def test_a_few_milliseconds_save_no_writes(case: str) -> None:
    assert median(case, 5, "writes_per_minute") > 0.9 * median(case, 0, "writes_per_minute")


@pytest.mark.parametrize("case", CASES)
def test_hundreds_of_milliseconds_save_writes_and_cost_throughput(case: str) -> None:
    assert median(case, 500, "writes_per_minute") < 0.5 * median(case, 0, "writes_per_minute")
    assert median(case, 500, "tasks_per_second") < 0.9 * median(case, 0, "tasks_per_second")


def test_tasks_shorter_than_the_interval_lose_most_of_their_throughput() -> None:
    for case in ("short", "free"):
        assert median(case, 500, "tasks_per_second") < 0.5 * median(case, 0, "tasks_per_second")


def test_a_worker_of_four_slots_starts_about_five_tasks_in_an_interval() -> None:
    load = CASES["free"].load
    assert load.concurrency == 4
    for interval in (20, 100):
        assert 4 <= median("free", interval, "tasks_per_second") / load.workers * interval / 1000 < 6


@pytest.mark.parametrize("case", ["short", "long"])
def test_the_slowest_handoffs_take_about_the_interval(case: str) -> None:
    for interval in (100, 500):
        assert 0.5 * interval < median(case, interval, "latency_95") < 1.5 * interval
        assert median(case, interval, "latency_median") < 10, "most permits pass on within a worker"
