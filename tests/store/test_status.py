"""status.lua: what holds now."""

from __future__ import annotations

import time

import pytest

from celery_gconc.protocol.status import LimitStatus

from .namespace import INTERVAL, TIMEOUT, Namespace


def test_an_empty_namespace_has_no_limits_and_no_sessions(namespace: Namespace):
    status = namespace.store.status()
    assert status.limits == ()
    assert status.sessions == ()
    assert namespace.left_behind() == {}


def test_a_limit_tells_its_max_and_how_many_run_and_wait(namespace: Namespace):
    namespace.set("queue:q", 2)
    session = namespace.session("a")
    for _ in range(5):
        session.ask("queue:q")
    found = namespace.store.status()["queue:q"]
    assert (found.max, found.running, found.waiting, found.idle) == (2, 2, 3, 0)
    assert not found.paused
    assert not found.settling


def test_an_idle_unit_is_not_counted_as_running(namespace: Namespace):
    namespace.set("app", 5)
    session, other = namespace.session("a"), namespace.session("b")
    for _ in range(2):
        session.ask("app")
    other.ask("app")
    session.state(idle={"app": 1})
    other.state(idle={})
    found = namespace.store.status()["app"]
    assert (found.running, found.idle) == (2, 1)
    session.sync()
    assert namespace.store.status()["app"].idle == 1, "until the next statement"
    session.state()
    found = namespace.store.status()["app"]
    assert (found.running, found.idle) == (3, 0)


def test_idle_units_that_were_given_back_since_are_not_taken_off_what_runs(namespace: Namespace):
    namespace.set("app", 5)
    session, other = namespace.session("a", held={1: ("app",), 2: ("app",)}), namespace.session("b")
    session.state(idle={"app": 2})
    session.release(1, 2)
    other.ask("app")
    found = namespace.store.status()["app"]
    assert (found.running, found.idle) == (1, 0)


def test_an_override_tells_who_set_it_when_and_why(namespace: Namespace):
    namespace.session("a", config={"app": 9})
    namespace.store.set("app", 4, by="ops@host", reason="incident 7")
    found = namespace.store.status()["app"]
    assert (found.max, found.configured, found.overridden) == (4, 9, True)
    assert (found.set_by, found.reason) == ("ops@host", "incident 7")
    assert found.set_at == pytest.approx(time.time(), abs=60)


def test_a_paused_limit_tells_its_value_and_who_paused_it(namespace: Namespace):
    namespace.session("a", config={"app": 9})
    namespace.store.pause("app", True, by="ops@host")
    found = namespace.store.status()["app"]
    assert (found.max, found.paused, found.overridden, found.paused_by) == (9, True, False, "ops@host")
    assert found.paused_at == pytest.approx(time.time(), abs=60)
    namespace.store.pause("app", False, by="ops@host")
    found = namespace.store.status()["app"]
    assert (found.paused, found.paused_by, found.paused_at) == (False, None, None)


def test_a_limit_that_settles_says_so(namespace: Namespace):
    session = namespace.session("a")
    namespace.set("app", 1)
    assert namespace.store.status()["app"].settling
    session.sync()
    session.sync()
    assert not namespace.store.status()["app"].settling


def test_one_limit_can_be_asked_for_even_where_nothing_limits_it(namespace: Namespace):
    namespace.set("app", 1)
    status = namespace.store.status("queue:q")
    assert status.limits == (LimitStatus("queue:q", None, paused=False, running=0, waiting=0),)


def test_limits_come_in_order_of_name(namespace: Namespace):
    for limit in ("queue:z", "app", "task:t", "queue:a"):
        namespace.set(limit, 1)
    assert [found.limit for found in namespace.store.status()] == ["app", "queue:a", "queue:z", "task:t"]


def test_a_session_tells_its_lease_room_permits_and_waiters(namespace: Namespace):
    namespace.set("app", 2)
    session = namespace.session("a", slots=3)
    for _ in range(3):
        session.ask("app")
    (found,) = namespace.store.status().sessions
    assert (found.session, found.node, found.pid, found.pool) == ("a", "node-a", 1, "prefork")
    assert (found.permits, found.waiting, found.room) == (2, 1, 1)
    assert TIMEOUT - 2 < found.lease <= TIMEOUT


def test_what_a_dead_session_held_is_reclaimed_before_it_is_shown(namespace: Namespace):
    namespace.set("app", 1)
    namespace.session("a").ask("app")
    namespace.elapse(TIMEOUT - INTERVAL)
    assert namespace.store.status()["app"].running == 1
    namespace.step_wall_clock(INTERVAL)
    status = namespace.store.status()
    assert status["app"].running == 0
    assert status.sessions == ()


def test_with_no_session_the_configuration_of_the_caller_is_shown(namespace: Namespace):
    namespace.set("app", 5)
    status = namespace.store.status(config={"app": 3, "queue:q": 2})
    assert (status["app"].max, status["app"].configured) == (5, 3)
    assert (status["queue:q"].max, status["queue:q"].configured) == (2, 2)


def test_with_a_session_the_configuration_of_the_caller_is_not_shown(namespace: Namespace):
    namespace.session("a", config={"app": 4})
    status = namespace.store.status(config={"app": 3, "queue:q": 2})
    assert status["app"].max == 4
    assert "queue:q" not in status


def test_status_changes_nothing(namespace: Namespace):
    namespace.set("app", 1)
    session = namespace.session("a").listen()
    session.ask("app")
    session.ask("app")
    before = namespace.left_behind()
    namespace.store.status()
    namespace.store.status("app")
    assert namespace.left_behind() == before
    assert session.hear() == []
