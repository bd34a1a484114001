"""The page of the chaos runs is made from the recorded results, and from nothing else."""

from __future__ import annotations

import json

from tests.kit.servers import ROOT
from tools.chaos import report

RESULTS = sorted((ROOT / "tools" / "chaos" / "results").glob("*.json"))


def test_the_page_is_what_the_recorded_results_say() -> None:
    page = report.PAGE.read_text()
    assert report.rendered(page, RESULTS) == page


def test_the_recorded_runs_are_at_least_five_seeds_of_ten_minutes_without_a_violation() -> None:
    results = [json.loads(file.read_text()) for file in RESULTS]
    long = [one for one in results if one["mode"] != "plain Celery" and one["minutes"] >= 10]
    assert len({one["seed"] for one in long}) >= 5
    assert [one["violations"] for one in long] == [[]] * len(long)


def test_two_of_them_stand_beside_plain_celery() -> None:
    results = [json.loads(file.read_text()) for file in RESULTS]
    seeds = [{one["seed"] for one in results if (one["mode"] == "plain Celery") is plain} for plain in (False, True)]
    assert len(seeds[0] & seeds[1]) >= 2
