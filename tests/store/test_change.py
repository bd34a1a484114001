"""change.lua: limits are set, reset, paused and resumed at run time."""

from __future__ import annotations

from celery_gconc.protocol.status import Value

from .namespace import Namespace


def test_a_raise_grants_to_as_many_waiters_as_there_are_new_units(namespace: Namespace):
    namespace.set("app", 1)
    session, other = namespace.session("a"), namespace.session("b").listen()
    for _ in range(3):
        session.ask("app")
        other.ask("app")
    namespace.set("app", 4)
    assert namespace.holders("app") == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert [grant.grant for notice in other.hear() for grant in notice.grants] == [2, 3]


def test_lowering_takes_no_permit_away_and_grants_none_until_enough_have_ended(namespace: Namespace):
    namespace.set("app", 3)
    session = namespace.session("a")
    for _ in range(4):
        session.ask("app")
    namespace.set("app", 1)
    assert namespace.holders("app") == [("a", 1), ("a", 2), ("a", 3)]
    session.release(1)
    session.release(2)
    assert namespace.holders("app") == [("a", 3)]
    session.release(3)
    assert namespace.holders("app") == [("a", 4)]


def test_unlimited_grants_to_every_waiter_with_room(namespace: Namespace):
    namespace.set("app", 0)
    session = namespace.session("a", slots=20)
    for _ in range(20):
        session.ask("app")
    namespace.set("app", None)
    assert namespace.max("app") is None
    assert len(namespace.holders("app")) == 20
    assert namespace.line("app") == []


def test_unlimited_wins_over_what_is_configured(namespace: Namespace):
    session = namespace.session("a", config={"app": 1})
    change = namespace.store.set("app", None, by="test")
    assert change.now == Value(None, paused=False, origin="override")
    session.ask("app")
    session.ask("app")
    assert len(namespace.holders("app")) == 2


def test_a_pause_is_a_max_of_nought_that_keeps_the_value(namespace: Namespace):
    namespace.set("app", 2)
    session = namespace.session("a")
    session.ask("app")
    change = namespace.store.pause("app", True, by="test")
    assert change.now == Value(2, paused=True, origin="override")
    assert namespace.max("app") == 0
    session.ask("app")
    assert namespace.holders("app") == [("a", 1)]


def test_resume_grants_up_to_the_value_that_was_kept(namespace: Namespace):
    namespace.set("app", 2)
    session = namespace.session("a")
    namespace.store.pause("app", True, by="test")
    for _ in range(3):
        session.ask("app")
    assert namespace.holders("app") == []
    change = namespace.store.pause("app", False, by="test")
    assert change.was == Value(2, paused=True, origin="override")
    assert change.now == Value(2, paused=False, origin="override")
    assert namespace.holders("app") == [("a", 1), ("a", 2)]


def test_set_and_reset_leave_a_pause(namespace: Namespace):
    namespace.session("a", config={"app": 3})
    namespace.store.pause("app", True, by="test")
    assert namespace.store.set("app", 5, by="test").now == Value(5, paused=True, origin="override")
    assert namespace.max("app") == 0
    assert namespace.store.reset("app", by="test").now == Value(3, paused=True, origin="configured")
    assert namespace.max("app") == 0
    namespace.store.pause("app", False, by="test")
    assert namespace.max("app") == 3


def test_a_pause_of_what_is_unlimited_holds_and_resume_lifts_it(namespace: Namespace):
    session = namespace.session("a")
    namespace.store.pause("app", True, by="test")
    session.sync()
    number = session.ask("app")
    assert namespace.line("app") == [("a", number)]
    namespace.store.pause("app", False, by="test")
    assert namespace.max("app") is None
    assert namespace.holders("app") == [("a", number)]


def test_reset_lets_the_smallest_configured_value_hold_and_grants_by_it(namespace: Namespace):
    session = namespace.session("a", config={"app": 3})
    namespace.session("b", config={"app": 2})
    namespace.set("app", 0)
    for _ in range(3):
        session.ask("app")
    change = namespace.store.reset("app", by="test")
    assert change.was == Value(0, paused=False, origin="override")
    assert change.now == Value(2, paused=False, origin="configured")
    assert len(namespace.holders("app")) == 2


def test_reset_of_what_is_configured_nowhere_lifts_the_limit(namespace: Namespace):
    namespace.set("app", 0)
    session = namespace.session("a")
    session.ask("app")
    assert namespace.store.reset("app", by="test").now == Value(None, paused=False, origin="none")
    assert namespace.holders("app") == [("a", 1)]


def test_an_override_outlives_every_session_until_it_is_reset(namespace: Namespace):
    namespace.session("a", config={"app": 3})
    namespace.set("app", 1)
    namespace.store.close_session("a")
    assert namespace.session("b", config={"app": 3}).table == {"app": 1}


def test_with_no_session_the_configuration_of_the_caller_counts(namespace: Namespace):
    change = namespace.store.set("app", 5, by="test", config={"app": 3})
    assert change.was == Value(3, paused=False, origin="configured")
    assert namespace.store.reset("app", by="test", config={"app": 3}).now == Value(3, False, "configured")


def test_with_a_session_the_configuration_of_the_caller_does_not_count(namespace: Namespace):
    namespace.session("a")
    assert namespace.store.set("app", 5, by="test", config={"app": 3}).was == Value(None, False, "none")


def test_the_same_value_again_is_news_only_of_who_set_it(namespace: Namespace):
    namespace.set("app", 2)
    session = namespace.session("a").listen()
    change = namespace.store.set("app", 2, by="another")
    assert change.applied
    assert str(change) == "app: was 2, now 2"
    assert [notice.version for notice in session.hear()] == [session.version + 1]
    session.sync()
    assert session.table == {"app": 2}
    assert '"by":"another"' in session.overrides["app"], "each session remembers it, for the case that Redis loses it"


# -- A limit set where none was --------------------------------------------------------------------------


def test_a_limit_set_where_none_was_counts_what_already_runs_before_anyone_is_granted(namespace: Namespace):
    first, second = namespace.session("a"), namespace.session("b")
    namespace.set("app", 1)
    first.sync()
    number = first.ask("app")
    assert namespace.is_settling("app")
    assert namespace.line("app") == [("a", number)]
    second.sync()
    second.sync(held={5: ("app",), 6: ("app",)})  # ran before there was a limit
    second.state()
    assert not namespace.is_settling("app")
    assert namespace.holders("app") == [("b", 5), ("b", 6)]
    second.release(5)
    assert namespace.holders("app") == [("b", 6)]
    second.release(6)
    assert namespace.holders("app") == [("a", number)]


def test_a_limit_that_settles_grants_nothing_until_every_session_has_synced_by_the_new_table(namespace: Namespace):
    sessions = [namespace.session(name) for name in "abc"]
    namespace.set("app", 2)
    for session in sessions:
        session.ask("app")  # by the table from before
    for session in sessions[:2]:
        session.sync()
        assert namespace.holders("app") == []
    sessions[2].sync()
    assert len(namespace.holders("app")) == 2


def test_a_limit_that_settles_opens_when_the_session_that_never_came_has_run_out(namespace: Namespace):
    namespace.session("dead")
    session = namespace.session("a")
    namespace.set("app", 1)
    session.sync()
    number = session.ask("app")
    for _ in range(4):
        namespace.elapse(5)
        session.sync()
    assert namespace.holders("app") == [("a", number)]


def test_a_session_that_opens_while_a_limit_settles_does_not_end_that_for_others(namespace: Namespace):
    namespace.session("a")
    namespace.set("app", 1)
    session = namespace.session("b", held={1: ("app",)})
    session.sync()
    assert namespace.is_settling("app")


def test_a_change_of_a_limit_that_settles_does_not_end_that(namespace: Namespace):
    session = namespace.session("a")
    namespace.set("app", 1)
    session.ask("app")
    for maximum in (5, 2, 9):
        namespace.set("app", maximum)
    assert namespace.holders("app") == []
    session.sync()
    assert namespace.holders("app") == [("a", 1)]


def test_a_limit_lifted_and_set_again_settles_again(namespace: Namespace):
    namespace.set("app", 1)
    session = namespace.session("a")
    namespace.set("app", None)
    namespace.set("app", 1)
    session.ask("app")
    assert namespace.holders("app") == []
    session.sync()
    assert namespace.holders("app") == [("a", 1)]
