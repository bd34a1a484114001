"""The table of limits that hold: which of them cover a task."""

from __future__ import annotations

from celery_gconc.limits.table import LimitTable

NAMES = ("app", "queue:emails", "task:t")


def test_those_names_cover_a_task_that_are_limits_in_their_order():
    table = LimitTable({"task:t": 0, "app": 3, "queue:news": 1}, version=4)
    assert table.covering(NAMES) == ("app", "task:t")
    assert table.covering(("queue:emails",)) == ()
    assert table.covering(NAMES) is table.covering(NAMES), "remembered: asked for each task"


def test_a_table_stays_as_it_was_when_what_it_was_made_of_changes():
    limits = {"app": 3}
    table = LimitTable(limits, version=1)
    limits["queue:emails"] = 1
    assert dict(table) == {"app": 3}
    assert table.covering(NAMES) == ("app",)


def test_two_tables_have_answers_of_their_own():
    before, after = LimitTable({"app": 3}, version=1), LimitTable({}, version=2)
    assert before.covering(NAMES) == ("app",)
    assert after.covering(NAMES) == ()
    assert before.covering(NAMES) == ("app",)
