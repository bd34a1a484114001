"""What requests claim: limits by name, and weights that the option, an argument or a function says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celery_gconc.errors import LimitError
from celery_gconc.limits.claims import Claim, TaskOption
from celery_gconc.limits.rules import MAX_VALUE
from celery_gconc.limits.table import LimitTable
from celery_gconc.worker.candidates import Candidates


def of(option: Any, run: Any = lambda: None, *args: Any, **kwargs: Any) -> dict[str, int]:
    """What a request of a task with this option claims, by limit."""
    task = SimpleNamespace(name="proj.train", global_concurrency=option, run=run)
    request = SimpleNamespace(task=task, args=args, kwargs=kwargs, id="id")
    candidates = Candidates(SimpleNamespace(task_consumer=None))
    return dict(candidates.of(request, None))


OWN = {"app": 1, "task:proj.train": 1}


def test_a_mapping_joins_a_limit_with_a_weight():
    assert of({"limit": "pool:gpu-gb", "weight": 3}) == {**OWN, "pool:gpu-gb": 3}
    assert of([{"limit": "pool:gpu-gb", "weight": 3}, "pool:db"]) == {**OWN, "pool:gpu-gb": 3, "pool:db": 1}
    assert of({"weight": 2}) == {**OWN, "task:proj.train": 2}
    assert of({"limit": "app", "weight": 2}) == {**OWN, "app": 2}


def test_a_mapping_may_give_the_limit_a_max():
    assert TaskOption.parse("t", {"limit": "pool:db", "max": 3}).maxima == {"pool:db": 3}
    assert TaskOption.parse("t", {"max": 3}).maxima == TaskOption.parse("t", 3).maxima == {"task:t": 3}


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({}, "an empty mapping"),
        ({"limits": "pool:db"}, "'limits' is none of the fields limit, max, weight"),
        ({"limit": "pool:db", "weight": 0}, "the weight on 'pool:db' is to be a whole number from 1"),
        ({"limit": "pool:db", "weight": True}, "the weight on"),
        ({"limit": "pool:db", "weight": "no name"}, "the weight on"),
        ({"limit": "pool:db", "max": -1}, "whole number"),
        ([{"limit": "pool:db", "weight": 2}, "pool:db"], "two weights on 'pool:db'"),
    ],
)
def test_a_mapping_that_says_nothing_sensible_is_refused_in_one_sentence(option, text):
    with pytest.raises(LimitError, match=r"task proj\.train: .*" + text):
        TaskOption.parse("proj.train", option)


def test_an_argument_says_the_weight_by_position_by_name_or_by_its_default():
    def run(model, gigabytes=8, *, other=1, **rest):
        """A task."""

    option = {"limit": "pool:gpu-gb", "weight": "gigabytes"}
    assert of(option, run, "a", 3)["pool:gpu-gb"] == 3
    assert of(option, run, "a", gigabytes=4)["pool:gpu-gb"] == 4
    assert of(option, run, "a")["pool:gpu-gb"] == 8
    assert of({"limit": "pool:gpu-gb", "weight": "size"}, run, "a", size=5)["pool:gpu-gb"] == 5


def test_a_function_of_the_arguments_says_the_weight():
    assert of({"limit": "pool:gpu-gb", "weight": len}, None, ["a", "b"])["pool:gpu-gb"] == 2


def test_a_weight_of_nought_claims_nothing():
    assert "pool:gpu-gb" not in of({"limit": "pool:gpu-gb", "weight": lambda: 0})


@pytest.mark.parametrize("weight", [-1, 1.5, "3", None, True, MAX_VALUE + 1])
def test_where_the_arguments_say_no_weight_it_takes_all_and_that_is_told_once(weight, caplog):
    assert of({"limit": "pool:gpu-gb", "weight": lambda: weight})["pool:gpu-gb"] == MAX_VALUE
    assert of({"limit": "pool:gpu-gb", "weight": "lacking"}, lambda: None)["pool:gpu-gb"] == MAX_VALUE
    assert "doesn't say how much of pool:gpu-gb it takes" in caplog.text


def test_a_claim_above_the_max_is_one_on_all_of_it_but_while_nothing_may_run():
    claims = (Claim("pool:gpu-gb", 9),)
    assert LimitTable({"pool:gpu-gb": 5}, 1).covering(claims) == (Claim("pool:gpu-gb", 5),)
    assert LimitTable({"pool:gpu-gb": 0}, 1).covering(claims) == claims
