"""holders.lua, waiting.lua and find.lua: who runs, who waits, and where a task is."""

from __future__ import annotations

import pytest

from celery_gconc.limits.claims import claims_on
from celery_gconc.protocol.messages import Row, Running, Want, running_text

from .namespace import Namespace, Session

APP = claims_on(("app",))


def runs(session: Session, task_id: str, age: float = 0.0) -> None:
    """Have a session state that a task runs with its one unit."""
    session.state(running=running_text([Running(APP, task_id, "proj.task", age)]))


def waits(session: Session, *tasks: Row) -> None:
    """Have these tasks of a session wait for ``app``."""
    session.sync(wants=[Want(1, APP, requests=tasks)])


def test_holders_are_named_with_their_worker_task_and_time_the_longest_first(namespace: Namespace):
    namespace.set("app", 5)
    one, other = namespace.session("a"), namespace.session("b")
    one.ask("app")
    long = Running(claims_on(("app", "queue:q")), "id-7", "proj.long", 60.0)
    other.state(held={7: ("app", "queue:q")}, running=running_text([long]))
    at = namespace.store.status().at
    longest, newest = namespace.store.holders("app", 10)
    assert (longest.session, longest.node, longest.task_id, longest.task) == ("b", "node-b", "id-7", "proj.long")
    assert longest.limits == ("app", "queue:q")
    assert longest.since == pytest.approx(at - 60, abs=5)
    assert (newest.session, newest.task_id, newest.limits) == ("a", "id-1", ("app",))
    assert newest.since == pytest.approx(at, abs=5)
    assert namespace.store.holders("app", 1) == (longest,)


def test_units_that_passed_on_are_held_since_their_task_has_them(namespace: Namespace):
    namespace.set("app", 5)
    session = namespace.session("a")
    session.ask("app")
    runs(session, "next")
    first = namespace.store.holders("app", 1)[0].since
    runs(session, "next but one", age=30.0)
    (holding,) = namespace.store.holders("app", 10)
    assert holding.task_id == "next but one"
    assert holding.since == pytest.approx(first - 30, abs=5)


def test_an_idle_unit_has_no_holder(namespace: Namespace):
    namespace.set("app", 5)
    session = namespace.session("a")
    session.ask("app")
    session.state(running="[]", idle={"app": 1})
    assert namespace.units("app") == {"a": 1}
    assert namespace.store.holders("app", 10) == ()


@pytest.mark.parametrize("is_stated", [False, True])
def test_a_task_that_is_told_to_have_ended_is_no_holder_and_is_not_found_though_its_units_stay(
    namespace: Namespace, is_stated: bool
):
    namespace.set("app", 5)
    session = namespace.session("a")
    first, second = session.ask("app"), session.ask("app")
    if is_stated:
        session.state()
    session.sync(ended=[first], units={"app": 2})
    assert namespace.units("app") == {"a": 2}
    assert [holder.task_id for holder in namespace.store.holders("app", 10)] == [f"id-{second}"]
    assert namespace.store.find(f"id-{first}") == ()
    assert namespace.store.status().sessions[0].permits == 1


def test_a_task_is_named_once_when_a_statement_tells_of_what_was_granted(namespace: Namespace):
    namespace.set("app", 5)
    session = namespace.session("a")
    session.ask("app")
    session.state()
    session.ask("app")
    assert [holder.task_id for holder in namespace.store.holders("app", 10)] == ["id-1", "id-2"]
    session.state()
    assert [holder.task_id for holder in namespace.store.holders("app", 10)] == ["id-1", "id-2"]


def test_waiters_are_named_in_the_order_of_their_line(namespace: Namespace):
    namespace.set("app", 1)
    one, other = namespace.session("a"), namespace.session("b")
    one.ask("app")
    other.ask("app", age=2.0)
    one.ask("app", age=9.0)
    first, second = namespace.store.waiting("app", 10)
    assert (first.position, first.session, first.node, first.task_id) == (1, "a", "node-a", "id-2")
    assert (second.position, second.session, second.node, second.task_id) == (2, "b", "node-b", "id-1")
    assert first.waited == pytest.approx(9, abs=2)
    assert second.waited == pytest.approx(2, abs=2)
    assert first.limits == ("app",)
    assert [waiter.task_id for waiter in namespace.store.waiting("app", 1)] == ["id-2"]
    assert namespace.store.status("app")["app"].longest_wait == pytest.approx(9, abs=2)


def test_requests_that_a_session_told_together_stand_each_in_its_own_position(namespace: Namespace):
    namespace.set("app", 0)
    one, other = namespace.session("a"), namespace.session("b")
    waits(one, *[Row(age, f"a-{age}", "proj.task") for age in (9, 6, 3)])
    waits(other, *[Row(age, f"b-{age}", "proj.task") for age in (8, 5, 4)])
    order = ["a-9", "b-8", "a-6", "b-5", "b-4", "a-3"]
    assert [waiter.task_id for waiter in namespace.store.waiting("app", 10)] == order
    assert [waiter.task_id for waiter in namespace.store.waiting("app", 4)] == order[:4]
    assert [namespace.store.find(task_id)[0].position for task_id in order] == [1, 2, 3, 4, 5, 6]


def test_nobody_waits_and_nobody_holds_in_an_unknown_limit(namespace: Namespace):
    assert namespace.store.holders("queue:none", 10) == ()
    assert namespace.store.waiting("queue:none", 10) == ()
    assert namespace.store.status("queue:none")["queue:none"].longest_wait is None


def test_a_waiter_is_found_with_its_line_position_and_the_limits_that_are_full(namespace: Namespace):
    namespace.set("app", 1)
    namespace.set("queue:q", 5)
    holder, session = namespace.session("a"), namespace.session("b", slots=4)
    holder.ask("app")
    holder.ask("app")
    session.ask("app", "queue:q")
    found = [item for item in namespace.store.find("id-1") if item.session == "b"]
    assert len(found) == 1
    assert found[0].is_waiting
    assert (found[0].line, found[0].position, found[0].full) == ("app", 2, ("app",))
    assert (found[0].limits, found[0].room, found[0].node) == (("app", "queue:q"), 4, "node-b")
    assert found[0].task == "proj.task"


def test_a_waiter_without_room_has_no_full_limit(namespace: Namespace):
    namespace.set("app", 5)
    session = namespace.session("a", slots=0)
    session.ask("app")
    (found,) = namespace.store.find("id-1")
    assert (found.is_waiting, found.full, found.room) == (True, (), 0)


def test_a_holder_is_found_and_stands_in_no_line(namespace: Namespace):
    namespace.set("app", 5)
    namespace.session("a").ask("app")
    (found,) = namespace.store.find("id-1")
    assert (found.is_waiting, found.line, found.position, found.full) == (False, None, None, ())
    assert 0 <= found.seconds < 5


def test_a_task_that_was_delivered_twice_is_found_twice(namespace: Namespace):
    namespace.set("app", 5)
    namespace.session("a").ask("app")
    namespace.session("b").ask("app")
    assert sorted(found.session for found in namespace.store.find("id-1")) == ["a", "b"]


def test_one_of_thousands_is_found_and_an_unknown_one_is_not(namespace: Namespace):
    namespace.set("app", 0)
    session = namespace.session("a")
    waits(session, *[Row(10 - number / 1000, f"task-{number}", "proj.task") for number in range(1, 3001)])
    (found,) = namespace.store.find("task-2345")
    assert found.position == 2345
    assert namespace.store.find("task-9999") == ()


def test_an_id_longer_than_what_redis_keeps_is_found_by_what_it_keeps(namespace: Namespace):
    namespace.set("app", 5)
    waits(namespace.session("a"), Row(0.0, "x" * 5000, "proj.task"))
    assert len(namespace.store.find("x" * 5000)) == 1


def test_a_position_that_another_task_of_its_session_has_taken_over_names_that_one(namespace: Namespace):
    namespace.set("app", 1)
    namespace.session("b").ask("app")
    session = namespace.session("a")
    number = session.ask("app", age=50.0)
    waits(session, Row(2.0, "another", "proj.other"))
    (waiter,) = namespace.store.waiting("app", 10)
    assert (waiter.task_id, waiter.task, waiter.position) == ("another", "proj.other", 1)
    assert waiter.waited == pytest.approx(2, abs=2)
    assert namespace.store.status("app")["app"].longest_wait == pytest.approx(2, abs=2)
    assert namespace.store.find("another")[0].seconds == pytest.approx(2, abs=2)
    assert namespace.store.find(f"id-{number}")[0].session == "b"
