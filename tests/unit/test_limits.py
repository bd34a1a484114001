"""Limit names, values and task options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import celery_gconc
from celery_gconc.errors import LimitError
from celery_gconc.limits.claims import TaskOption, candidates, claims_on
from celery_gconc.limits.name import LimitName, parse_limit
from celery_gconc.limits.rules import Rule, parse_max

PACKAGE = Path(celery_gconc.__file__).parent


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("emails", "queue:emails"),
        (" emails ", "queue:emails"),
        ("queue:emails", "queue:emails"),
        ("task:proj.tasks.sync", "task:proj.tasks.sync"),
        ("pool:db-writers", "pool:db-writers"),
        ("app", "app"),
        ("queue:app", "queue:app"),
        ("queue:mail:out", "queue:mail:out"),
    ],
)
def test_a_bare_name_is_a_queue_unless_it_is_app_or_has_a_scope(text, name):
    assert parse_limit(text) == name


@pytest.mark.parametrize("text", ["", "  ", "queue:", "mail:out", "a\x1fb", "x" * 600, None, 3])
def test_a_name_that_means_no_limit_is_refused(text):
    with pytest.raises(LimitError):
        parse_limit(text)


def test_an_unknown_scope_is_answered_with_the_way_to_write_it_as_a_queue():
    with pytest.raises(LimitError, match="write queue:mail:out"):
        parse_limit("mail:out")


@pytest.mark.parametrize(("value", "maximum"), [(4, 4), ("4", 4), (0, 0), ("unlimited", None), (None, None)])
def test_a_max_is_a_whole_number_or_unlimited(value, maximum):
    assert parse_max(value) == maximum


@pytest.mark.parametrize("value", [-1, "-1", "four", 1.5, True, "", 2**40])
def test_anything_else_is_no_max(value):
    with pytest.raises(LimitError):
        parse_max(value)


def test_a_task_option_is_a_max_of_its_own_or_limits_to_join():
    assert TaskOption.parse("t", 3) == TaskOption({"task:t": 1}, {"task:t": 3})
    assert TaskOption.parse("t", "pool:db") == TaskOption({"pool:db": 1})
    assert TaskOption.parse("t", ["pool:db", "emails"]) == TaskOption({"pool:db": 1, "queue:emails": 1})
    assert TaskOption.parse("t", ["pool:db", "emails"]).names == ("pool:db", "queue:emails")
    assert TaskOption.parse("t", None) == TaskOption()


@pytest.mark.parametrize("value", [-1, True, 1.5, {"a": 1}, ["nope:x"], [3]])
def test_a_wrong_task_option_is_refused_with_the_name_of_the_task(value):
    with pytest.raises(LimitError, match=r"task proj\.sync"):
        TaskOption.parse("proj.sync", value)


def test_celerys_own_tasks_are_exempt_from_app_and_queue_limits():
    assert candidates("celery.chord_unlock", "emails", TaskOption()) == claims_on(("task:celery.chord_unlock",))
    assert candidates("proj.sync", "emails", TaskOption()) == claims_on(("app", "queue:emails", "task:proj.sync"))


@pytest.mark.parametrize("full", ["app", "queue:emails", "task:proj.tasks.sync", "pool:a:b", "queue:sync[acme]"])
def test_a_full_name_taken_apart_is_the_same_put_together(full):
    assert str(LimitName.of(full)) == full == str(LimitName.parse(full))
    assert LimitName.of(full) == LimitName.parse(full)
    assert LimitName.of(full).scope == full.partition(":")[0]


def test_no_other_module_takes_a_limits_name_apart():
    found = [
        f"{path.name}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "limits"
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r'partition\(":"\)|startswith\("(queue|task|pool):|removeprefix\("(queue|task|pool):', line)
        and "credentials" not in line
        and "userinfo" not in line
    ]
    assert found == []


def test_a_rule_reads_as_people_write_it():
    assert [str(Rule.parse(text)) for text in ("4", 0, "unlimited", None)] == ["4", "0", "unlimited", "unlimited"]
