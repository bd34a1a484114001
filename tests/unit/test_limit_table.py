"""The table of limits that hold: which of them cover a task, and with how many units."""

from __future__ import annotations

import pytest

from celery_gconc.limits import table as table_module
from celery_gconc.limits.claims import Claim, Claims, claims_on
from celery_gconc.limits.table import LimitTable

CANDIDATES = claims_on(("app", "queue:emails", "task:t"))


def test_those_claims_hold_of_a_task_that_are_on_limits_in_their_order():
    table = LimitTable({"task:t": 0, "app": 3, "queue:news": 1}, version=4)
    assert table.covering(CANDIDATES) == claims_on(("app", "task:t"))
    assert table.covering(claims_on(("queue:emails",))) == ()
    assert table.covering(CANDIDATES) is table.covering(CANDIDATES), "remembered: asked for each task"


def test_the_same_claims_are_one_object_whoever_has_them():
    table = LimitTable({"app": 3}, version=4)
    assert table.covering(CANDIDATES) is table.covering(claims_on(("app", "queue:news")))


@pytest.mark.parametrize(("maximum", "weight", "counts"), [(4, 3, 3), (3, 3, 3), (2, 3, 2), (1, 3, 1), (0, 3, 3)])
def test_a_weight_holds_up_to_the_max_so_that_the_heaviest_task_runs_alone(maximum, weight, counts):
    table = LimitTable({"pool:gpu": maximum, "app": 1}, version=4)
    claims = (Claim("app"), Claim("pool:gpu", weight))
    assert table.covering(claims) == (Claim("app"), Claim("pool:gpu", counts))


def test_a_table_stays_as_it_was_when_what_it_was_made_of_changes():
    limits = {"app": 3}
    table = LimitTable(limits, version=1)
    limits["queue:emails"] = 1
    assert dict(table) == {"app": 3}
    assert table.covering(CANDIDATES) == claims_on(("app",))


def test_two_tables_have_answers_of_their_own():
    before, after = LimitTable({"app": 3}, version=1), LimitTable({}, version=2)
    assert before.covering(CANDIDATES) == claims_on(("app",))
    assert after.covering(CANDIDATES) == ()
    assert before.covering(CANDIDATES) == claims_on(("app",))


def test_of_more_candidates_than_it_remembers_a_table_says_the_same(monkeypatch):
    monkeypatch.setattr(table_module, "MAX_ANSWERS", 3)
    table = LimitTable({"pool:gpu": 100}, version=1)
    for _ in range(2):
        every: list[Claims] = [(Claim("pool:gpu", weight),) for weight in range(1, 10)]
        assert [table.covering(claims) for claims in every] == every
        del every  # others come under their ids
    assert len(table._covering) <= 3
