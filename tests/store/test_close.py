"""close.lua: a session ends."""

from __future__ import annotations

from .namespace import Namespace


def test_what_a_closed_session_held_is_handed_on_before_the_reply(namespace: Namespace):
    namespace.set("app", 2)
    first, second = namespace.session("a"), namespace.session("b").listen()
    first.ask("app")
    first.ask("app")
    second.ask("app")
    second.ask("app")
    second.hear()
    namespace.store.close_session("a")
    assert namespace.holders("app") == [("b", 1), ("b", 2)]
    assert [len(notice.grants) for notice in second.hear()] == [2]


def test_what_a_closed_session_waited_for_leaves_the_line(namespace: Namespace):
    namespace.set("app", 1)
    first, second, third = (namespace.session(name) for name in "abc")
    held = first.ask("app")
    second.ask("app")
    third.ask("app")
    namespace.store.close_session("b")
    assert namespace.line("app") == [("c", 1)]
    first.release(held)
    assert namespace.holders("app") == [("c", 1)]


def test_closing_a_session_that_is_not_open_changes_nothing(namespace: Namespace):
    namespace.set("app", 1)
    session = namespace.session("a")
    session.ask("app")
    for name in ("nobody", "A"):
        namespace.store.close_session(name)
    assert namespace.holders("app") == [("a", 1)]
    assert namespace.live() == ["a"]


def test_a_session_whose_name_begins_like_a_closed_one_keeps_its_own(namespace: Namespace):
    namespace.set("app", 5)
    short, long = namespace.session("a"), namespace.session("a1")
    short.ask("app")
    long.ask("app")
    namespace.store.close_session("a")
    assert namespace.holders("app") == [("a1", 1)]


def test_the_end_of_the_session_with_the_smallest_value_is_a_raise(namespace: Namespace):
    namespace.session("a", config={"app": 1})
    session = namespace.session("b", config={"app": 3}).listen()
    for _ in range(4):
        session.ask("app")
    assert len(namespace.holders("app")) == 1
    namespace.store.close_session("a")
    assert namespace.max("app") == 3
    assert len(namespace.holders("app")) == 3
    assert [len(notice.grants) for notice in session.hear() if notice.grants] == [2]


def test_the_end_of_the_last_session_that_configured_a_limit_lifts_it(namespace: Namespace):
    namespace.session("a", config={"app": 0})
    session = namespace.session("b")
    number = session.ask("app")
    namespace.store.close_session("a")
    assert namespace.max("app") is None
    assert namespace.holders("app") == [("b", number)]


def test_the_end_of_the_one_session_that_had_not_stated_lets_a_settling_limit_grant(namespace: Namespace):
    namespace.session("a")
    session = namespace.session("b")
    namespace.set("app", 1)
    session.sync()
    number = session.ask("app")
    assert namespace.is_settling("app")
    namespace.store.close_session("a")
    assert not namespace.is_settling("app")
    assert namespace.holders("app") == [("b", number)]


def test_nothing_but_bookkeeping_is_left_behind_when_the_last_session_ends(namespace: Namespace):
    first, second = namespace.session("a", config={"app": 2}), namespace.session("b", slots=1)
    for limits in (("app",), ("app", "queue:q"), ("queue:q",), ("app",), ("app",)):
        first.ask(*limits)
        second.ask(*limits)
    namespace.set("queue:q", 1)
    first.state()
    second.state()
    namespace.store.reset("queue:q", by="test")
    namespace.store.close_session("a")
    namespace.store.close_session("b")
    assert namespace.left_behind() == {}


def test_a_limit_that_nobody_holds_waits_for_or_sets_is_named_nowhere(namespace: Namespace):
    namespace.set("queue:q", 1)
    first, second = namespace.session("a"), namespace.session("b")
    held = first.ask("queue:q")
    waits = second.ask("queue:q")
    first.release(held)
    second.sync()
    second.release(waits)
    namespace.store.reset("queue:q", by="test")
    for session in (first, second, first, second):  # they hear of it, and say so
        session.sync()
    named = {key: content for key, content in namespace.left_behind().items() if "queue:q" in repr(content)}
    assert named == {}
