"""open.lua: a session begins."""

from __future__ import annotations

import pytest

from celery_gconc.store import Held, Opened, Refused

from .namespace import INTERVAL, TIMEOUT, Namespace


def test_the_first_session_proposes_the_epoch_and_later_ones_take_it_over(namespace: Namespace):
    assert namespace.session("a", epoch="first").epoch == "first"
    assert namespace.session("b", epoch="second").epoch == "first"


def test_a_session_is_told_the_limit_table_as_its_configuration_made_it(namespace: Namespace):
    namespace.set("queue:emails", 3)
    session = namespace.session("a", config={"app": 2})
    assert session.table == {"app": 2, "queue:emails": 3}
    assert session.sync().table is None


def test_the_smallest_value_that_a_live_session_is_configured_with_holds(namespace: Namespace):
    namespace.session("a", config={"app": 5})
    assert namespace.max("app") == 5
    namespace.session("b", config={"app": 2})
    assert namespace.max("app") == 2
    namespace.session("c", config={"app": 9})
    assert namespace.max("app") == 2


def test_a_session_that_configures_nothing_takes_no_part_but_obeys(namespace: Namespace):
    namespace.session("a", config={"app": 1})
    session = namespace.session("b")
    assert session.table == {"app": 1}
    session.ask("app")
    session.ask("app")
    assert namespace.holders("app") == [("b", 1)]


def test_an_override_wins_over_what_a_session_is_configured_with(namespace: Namespace):
    namespace.set("app", 7)
    namespace.session("a", config={"app": 2})
    assert namespace.max("app") == 7


def test_what_a_session_runs_already_is_held_even_beyond_the_max_and_drains(namespace: Namespace):
    namespace.set("app", 1)
    held = [Held(number, ("app",)) for number in (1, 2, 3)]
    first = namespace.session("a", held=held, version=1)
    second = namespace.session("b")
    waiter = second.ask("app")
    assert namespace.holders("app") == [("a", 1), ("a", 2), ("a", 3)]
    first.release(1)
    first.release(2)
    assert namespace.holders("app") == [("a", 3)]
    first.release(3)
    assert namespace.holders("app") == [("b", waiter)]


def test_what_a_session_runs_counts_before_anyone_who_waits_is_granted(namespace: Namespace):
    namespace.set("app", 0)
    namespace.session("a").ask("app")
    namespace.store.set("app", 1, by="test")
    namespace.session("b", held=[Held(1, ("app",))], version=2)
    assert ("b", 1) in namespace.holders("app")


def test_a_session_has_as_much_room_as_it_says(namespace: Namespace):
    namespace.set("app", 5)
    session = namespace.session("a", slots=1)
    assert namespace.room("a") == 1
    session.ask("app")
    assert namespace.room("a") == 0


@pytest.mark.parametrize(("interval", "timeout"), [(INTERVAL + 1, TIMEOUT), (INTERVAL, TIMEOUT + 1)])
def test_other_heartbeat_settings_than_those_of_a_live_session_are_refused_by_name(namespace, interval, timeout):
    namespace.session("a")
    refused = namespace.session("b", interval=interval, timeout=timeout).opened
    assert refused == Refused(INTERVAL, TIMEOUT, "node-a")
    assert namespace.live() == ["a"]


def test_other_heartbeat_settings_are_taken_once_no_session_lives(namespace: Namespace):
    namespace.session("a")
    namespace.store.close_session("a")
    assert isinstance(namespace.session("b", interval=1.0, timeout=4.0).opened, Opened)
    assert isinstance(namespace.session("c", interval=1.0, timeout=4.0).opened, Opened)


@pytest.mark.parametrize("stranger", [{"app": "other"}, {"broker": "redis"}])
def test_sessions_of_another_app_or_broker_are_told_as_strangers(namespace: Namespace, stranger):
    namespace.session("a", info=stranger)
    namespace.session("b")
    opened = namespace.session("c").opened
    assert isinstance(opened, Opened)
    assert opened.strangers == ("node-a",)


def test_sessions_of_the_same_app_and_broker_are_no_strangers(namespace: Namespace):
    namespace.session("a")
    opened = namespace.session("b").opened
    assert isinstance(opened, Opened)
    assert opened.strangers == ()


def test_a_limit_that_a_session_brings_grants_nothing_until_the_others_have_stated_what_they_run(namespace: Namespace):
    old = namespace.session("a")
    new = namespace.session("b", config={"app": 1})
    number = new.ask("app")
    assert namespace.is_settling("app")
    assert namespace.holders("app") == []
    old.sync()  # by the table it knows, from before the limit
    assert namespace.holders("app") == []
    old.sync()
    assert not namespace.is_settling("app")
    assert namespace.holders("app") == [("b", number)]


def test_a_session_that_runs_tasks_by_an_older_table_keeps_a_limit_settling_until_it_has_stated_them(namespace):
    first = namespace.session("a")
    namespace.set("app", 1)
    second = namespace.session("b", held=[Held(1, ("queue:q",))], version=0)
    first.sync()
    number = first.ask("app")
    assert namespace.holders("app") == []
    second.sync(held=[Held(2, ("app",))])
    assert namespace.holders("app") == [("b", 2)]
    second.release(2)
    assert namespace.holders("app") == [("a", number)]


def test_a_limit_that_the_only_session_brings_grants_at_once(namespace: Namespace):
    session = namespace.session("a", config={"app": 1})
    number = session.ask("app")
    assert namespace.holders("app") == [("a", number)]


def test_after_a_loss_of_all_data_nobody_is_granted_before_the_others_could_return(namespace: Namespace):
    # Design, "Epochs": after total loss, until the longest lease in use has passed.
    first, second = (namespace.session(name, config={"app": 2}) for name in "ab")
    first.ask("app")
    second.ask("app")
    namespace.raw.flushall()
    held, _ = first.statement()
    again = {"config": {"app": 2}, "epoch": "new", "known": first.epoch}
    first = namespace.session("a2", held=held, version=first.version, **again)
    assert first.epoch == "new"
    first.ask("app")
    assert namespace.holders("app") == [("a2", 1)], "second still runs its task: this would be the third of two"
    held, _ = second.statement()
    second = namespace.session("b2", held=held, version=second.version, **again)
    assert namespace.holders("app") == [("a2", 1), ("b2", 1)]
    first.release(1)
    assert namespace.holders("app") == [("b2", 1)], "a third could still come back"
    for _ in range(int(TIMEOUT / INTERVAL) + 1):
        namespace.elapse(INTERVAL)
        first.sync()
        second.sync()
    assert sorted(namespace.holders("app")) == [("a2", 2), ("b2", 1)]
