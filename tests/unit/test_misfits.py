"""Names in an app's code and settings that don't meet are told, and those that may well be meant are not."""

from __future__ import annotations

import pytest
from celery import Celery
from kombu import Queue

from celery_gconc.operations.misfits import misfits


def nothing() -> None: ...


def told(*options: object, configured: dict[str, int] | None = None, limits: tuple[str, ...] = ()) -> list[str]:
    """What is told of an app with tasks ``proj.tasks.t0``, ``t1``... of these options, and queues emails and celery."""
    app = Celery("proj", set_as_current=False, broker="memory://")
    app.conf.task_queues = [Queue("celery"), Queue("emails")]
    for number, option in enumerate(options):
        app.task(nothing, name=f"proj.tasks.t{number}", shared=False, global_concurrency=option)
    names = set(configured or {})
    return list(misfits(app, names, {*names, *limits}))


@pytest.mark.parametrize(
    ("option", "configured", "meant"),
    [
        ("db", {}, "pool:db"),
        ("db", {"pool:db": 3}, "pool:db"),
        (["db", "pool:other"], {"pool:db": 3}, "pool:db"),
        ("emial", {}, "pool:emial"),
        ("emials", {}, "queue:emails"),
        ("emials", {"pool:emials": 2}, "pool:emials"),
    ],
)
def test_an_option_that_covers_nothing_is_told_with_what_is_meant(option, configured, meant):
    (line,) = told(option, configured=configured)
    assert line.startswith("task proj.tasks.t0: global_concurrency=")
    assert line.endswith(f"did you mean {meant}?")


@pytest.mark.parametrize(
    ("configured", "meant"),
    [
        ({"queue:db": 3}, "pool:db"),
        ({"pool:db-writer": 3}, "pool:db-writers"),
        ({"task:t0": 3}, "task:proj.tasks.t0"),
        ({"task:tasks.t0": 3}, "task:proj.tasks.t0"),
    ],
)
def test_a_configured_limit_that_misses_what_a_task_joins_is_told(configured, meant):
    (line,) = told("pool:db" if "queue:db" in configured else "pool:db-writers", configured=configured)
    assert line == f"{next(iter(configured))} covers no tasks that this app knows; did you mean {meant}?"


@pytest.mark.parametrize(
    ("option", "configured", "limits"),
    [
        (None, {"queue:reports": 2, "task:billing.run": 1, "pool:cpu": 3, "app": 9}, ()),  # of other apps, maybe
        ("pool:db", {}, ()),  # its max comes at run time
        ("pool:db", {"pool:db": 1}, ()),
        ("pool:db", {"pool:cpu": 1}, ()),
        ("db", {"queue:db": 1}, ()),  # a name is a name
        ("db", {}, ("queue:db",)),  # set at run time
        ("emails", {}, ()),
        ("queue:emails", {}, ()),
        (3, {}, ()),
        (3, {"task:proj.tasks.t0": 1}, ()),
    ],
)
def test_what_may_well_be_meant_is_not_told(option, configured, limits):
    assert told(option, configured=configured, limits=limits) == []
