"""change.lua and begin: what operators set for a time ends by itself, and says until when it holds."""

from __future__ import annotations

import pytest
import redis

from celery_gconc.protocol.status import Value
from tests.kit.servers import wait_until

from .namespace import Namespace


def test_a_value_that_is_set_for_a_time_says_until_when_and_why(namespace: Namespace):
    namespace.store.set("app", 3, by="ann", reason="a sale", duration=3600.0)
    status = namespace.store.status("app")
    limit = status["app"]
    assert (limit.max, limit.set_by, limit.reason) == (3, "ann", "a sale")
    assert limit.set_until == pytest.approx(status.at + 3600, abs=5)
    assert limit.set_at == pytest.approx(status.at, abs=5)


def test_it_ends_by_itself_and_the_configured_value_holds_again(namespace: Namespace):
    namespace.session("a", config={"app": 2})
    namespace.store.set("app", 5, by="ann", reason="a sale", duration=0.2)
    assert namespace.store.status("app")["app"].max == 5
    wait_until(lambda: namespace.store.status("app")["app"].max == 2, what="the end of what was set")
    limit = namespace.store.status("app")["app"]
    assert not limit.overridden
    assert (limit.set_by, limit.set_at, limit.reason, limit.set_until) == (None, None, None, None)
    assert namespace.max("app") == 2


def test_the_end_of_a_low_value_grants_to_those_who_wait_and_sessions_are_told_when_that_is(namespace: Namespace):
    session = namespace.session("a", config={"app": 2})
    namespace.store.set("app", 1, by="ann", duration=0.4)
    session.sync()
    first, second = session.ask("app"), session.ask("app")
    reply = session.sync()
    assert reply.expires is not None
    assert 0 <= reply.expires <= 0.4
    assert namespace.holders("app") == [("a", first)]
    wait_until(lambda: session.sync() and namespace.holders("app") == [("a", first), ("a", second)], what="the grant")


def test_a_pause_for_a_time_ends_by_itself_and_leaves_the_value(namespace: Namespace):
    namespace.set("app", 4)
    namespace.store.pause("app", True, by="bob", reason="maintenance", duration=0.2)
    limit = namespace.store.status("app")["app"]
    assert (limit.paused, limit.paused_by, limit.paused_reason) == (True, "bob", "maintenance")
    assert limit.paused_until is not None
    wait_until(lambda: not namespace.store.status("app")["app"].paused, what="the end of the pause")
    limit = namespace.store.status("app")["app"]
    assert (limit.max, limit.overridden, limit.paused_until, limit.paused_reason) == (4, True, None, None)


def test_a_value_and_a_pause_of_one_limit_end_each_at_its_own_time(namespace: Namespace):
    namespace.store.set("app", 4, by="ann", duration=0.2)
    namespace.store.pause("app", True, by="bob", duration=3600)
    wait_until(lambda: not namespace.store.status("app")["app"].overridden, what="the end of what was set")
    assert namespace.store.status("app")["app"].paused


def test_of_several_limits_each_ends_at_its_own_time(namespace: Namespace):
    for number in range(5):
        namespace.store.set(f"pool:{number}", 1, by="ann", duration=3600 if number % 2 else 0.2)
    wait_until(lambda: [limit.limit for limit in namespace.store.status()] == ["pool:1", "pool:3"], what="their ends")


def test_a_value_that_is_set_again_without_a_time_stays(namespace: Namespace):
    namespace.store.set("app", 4, by="ann", duration=0.2)
    namespace.store.set("app", 5, by="ann")
    end = namespace.store.status().at + 0.4
    wait_until(lambda: namespace.store.status().at > end, what="the time that was given first")
    limit = namespace.store.status("app")["app"]
    assert (limit.max, limit.set_until) == (5, None)


def test_reset_and_resume_forget_the_time_too(namespace: Namespace):
    namespace.store.set("app", 4, by="ann", duration=0.2)
    namespace.store.pause("app", True, by="ann", duration=0.2)
    namespace.store.reset("app", by="ann")
    namespace.store.pause("app", False, by="ann")
    assert "app" not in namespace.store.status()
    namespace.store.set("app", 1, by="ann")
    end = namespace.store.status().at + 0.4
    wait_until(lambda: namespace.store.status().at > end, what="the time that was given first")
    assert namespace.store.status("app")["app"].max == 1


def test_after_a_loss_of_data_survivors_bring_the_time_back_and_it_ends_all_the_same(namespace: Namespace):
    session = namespace.session("a", config={"app": 2})
    namespace.store.set("app", 5, by="ann", reason="a sale", duration=1.0)
    until = namespace.store.status("app")["app"].set_until
    session.sync()
    with redis.Redis(connection_pool=namespace.raw.connection_pool) as raw:
        raw.flushall()
    namespace.session("a2", config={"app": 2}, former=session.former)
    limit = namespace.store.status("app")["app"]
    assert (limit.max, limit.set_until, limit.reason) == (5, until, "a sale")
    wait_until(lambda: namespace.store.status("app")["app"].max == 2, what="the end of what was set")


def test_what_has_ended_by_itself_is_told_by_the_next_change(namespace: Namespace):
    namespace.store.set("app", 5, by="ann", duration=0.2)
    wait_until(lambda: "app" not in namespace.store.status(), what="the end of what was set")
    change = namespace.store.set("app", 6, by="ann", config={"app": 1})
    assert change.was == Value(1, paused=False, origin="configured")
