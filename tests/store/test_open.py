"""open.lua: a session begins."""

from __future__ import annotations

import pytest

from celery_gconc.protocol.openings import Stranger
from celery_gconc.protocol.session_store import SessionStore

from .namespace import INTERVAL, Namespace


def test_the_first_session_begins_an_epoch_and_later_ones_live_in_it(namespace: Namespace):
    namespace.raw.flushall()
    first = namespace.session("a").epoch
    assert first.startswith(namespace.raw.info("server")["run_id"])
    assert namespace.session("b").epoch == first


def test_a_session_is_told_the_limit_table_as_its_configuration_made_it(namespace: Namespace):
    namespace.set("queue:emails", 3)
    session = namespace.session("a", config={"app": 2})
    assert session.table == {"app": 2, "queue:emails": 3}
    assert session.sync().changes is None


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
    first = namespace.session("a", held=dict.fromkeys((1, 2, 3), ("app",)))
    second = namespace.session("b")
    waiter = second.ask("app")
    assert namespace.holders("app") == [("a", 1), ("a", 2), ("a", 3)]
    first.release(1)
    first.release(2)
    assert namespace.holders("app") == [("a", 3)]
    first.release(3)
    assert namespace.holders("app") == [("b", waiter)]


def test_what_a_session_runs_already_is_held_as_soon_as_it_is_open(namespace: Namespace):
    namespace.set("app", 1)
    other = namespace.session("b")
    namespace.session("a", held={1: ("app",)}, states=False)
    number = other.ask("app")
    assert namespace.holders("app") == [("a", 1)]
    assert namespace.line("app") == [("b", number)]


def test_what_a_session_runs_counts_before_anyone_who_waits_is_granted(namespace: Namespace):
    namespace.set("app", 0)
    namespace.session("a").ask("app")
    namespace.store.set("app", 1, by="test")
    namespace.session("b", held={1: ("app",)})
    assert ("b", 1) in namespace.holders("app")


def test_a_session_has_as_much_room_as_it_says(namespace: Namespace):
    namespace.set("app", 5)
    session = namespace.session("a", slots=1)
    assert namespace.room("a") == 1
    session.ask("app")
    assert namespace.room("a") == 0


@pytest.mark.parametrize("stranger", [{"app": "other"}, {"broker": "redis"}])
def test_a_session_of_another_app_or_broker_that_shares_no_queue_is_told_as_a_stranger(namespace: Namespace, stranger):
    namespace.session("a", info=stranger, queues=["bills"])
    namespace.session("b", queues=["mails"])
    told = namespace.session("c", queues=["mails", "celery"]).opened.strangers
    assert told == (Stranger(stranger.get("app", "proj"), "node-a", stranger.get("broker", "amqp")),)


def test_sessions_of_the_same_app_and_broker_are_no_strangers(namespace: Namespace):
    namespace.session("a", queues=["bills"])
    assert namespace.session("b", queues=["mails"]).opened.strangers == ()


def test_an_app_that_shares_a_queue_is_no_stranger_whichever_of_its_sessions_takes_from_it(namespace: Namespace):
    namespace.session("a1", info={"app": "other"}, queues=["bills"])
    namespace.session("a2", info={"app": "other"}, queues=["mails"])
    namespace.session("a3", info={"app": "other"}, queues=["celery"])
    assert namespace.session("b", queues=["mails"]).opened.strangers == ()


def test_queues_of_one_name_at_two_brokers_are_two_queues(namespace: Namespace):
    namespace.session("a", info={"app": "other", "broker": "redis"}, queues=["celery"])
    assert [one.app for one in namespace.session("b", queues=["celery"]).opened.strangers] == ["other"]


def test_of_each_app_that_shares_no_queue_one_session_is_told(namespace: Namespace):
    for number in range(3):
        namespace.session(f"a{number}", info={"app": "other"}, queues=["bills"])
        namespace.session(f"b{number}", info={"app": "third"}, queues=["letters"])
    told = namespace.session("c", queues=["mails"]).opened.strangers
    assert sorted(one.app for one in told) == ["other", "third"]


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
    second = namespace.session("b", held={1: ("queue:q",)}, states=False)
    first.sync()
    number = first.ask("app")
    assert namespace.holders("app") == []
    second.sync(held={2: ("app",)})
    assert namespace.units("app") == {"b": 1}
    second.release(2)
    assert namespace.holders("app") == [("a", number)]


def test_a_limit_that_the_only_session_brings_grants_at_once(namespace: Namespace):
    session = namespace.session("a", config={"app": 1})
    number = session.ask("app")
    assert namespace.holders("app") == [("a", number)]


def test_where_the_server_is_one_of_several_and_nobody_was_there_lately_grants_wait_for_those_at_another(
    namespace: Namespace, redis_url: str
):
    namespace.session("a")
    several = SessionStore(f"{redis_url};redis://127.0.0.1:1/0", "gconc")

    def begin(name: str) -> float:
        info = {"node": name, "pid": 1, "pool": "solo", "app": "", "broker": ""}
        return several.open(name, interval=INTERVAL, timeout=15.0, info=info, config={}, room=1).shut

    assert begin("b") == 0
    namespace.step_wall_clock(4 * INTERVAL)
    assert namespace.session("c").opened.shut == 0, "there is only this server"
    namespace.step_wall_clock(4 * INTERVAL)
    assert begin("d") > INTERVAL
    several.close()
