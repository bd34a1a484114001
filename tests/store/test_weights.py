"""Weights: requests for more than one unit of a limit. (core/serving.lua, lines.lua, units.lua)"""

from __future__ import annotations

import pytest

from celery_gconc.limits.claims import Claim

from .namespace import Ask, Namespace, Session

A, B = "pool:a", "pool:b"


def app(weight: int) -> Claim:
    """So many units of ``app``."""
    return Claim("app", weight)


@pytest.fixture
def three(namespace: Namespace) -> tuple[Session, Session, Session]:
    """Three sessions; ``app`` has five units, ``queue:q`` has nine."""
    namespace.set("app", 5)
    namespace.set("queue:q", 9)
    first, second, third = (namespace.session(name) for name in "abc")
    return first, second, third


# -- What is granted -------------------------------------------------------------------------------------


def test_a_request_takes_all_of_its_units_at_once_and_gives_all_of_them_back(namespace: Namespace, three):
    first, _, _ = three
    number = first.ask(app(3))
    assert namespace.units("app") == {"a": 3}
    assert namespace.look().held == {"app": 3}
    first.release(number)
    assert namespace.units("app") == {}
    assert namespace.look().held == {}


@pytest.mark.parametrize("weight", [1, 2, 3, 5])
def test_as_many_are_granted_as_there_are_units_for_all_of_their_weight(namespace: Namespace, three, weight: int):
    first, _, _ = three
    first.sync(asks=[Ask(number, (app(weight),)) for number in range(1, 9)])
    assert len(first.holding) == 5 // weight
    assert namespace.units("app") == {"a": 5 // weight * weight}


def test_a_grant_tells_the_weight_of_each_of_its_claims(namespace: Namespace, three):
    first, second, _ = three
    second.listen()
    held = first.ask(app(5))
    second.ask(app(4), "queue:q")
    first.release(held)
    ((grant,),) = [notice.grants for notice in second.hear() if notice.grants]
    assert grant.claims == (Claim("app", 4), Claim("queue:q", 1))


def test_a_request_weighs_on_each_of_its_limits_what_it_says(namespace: Namespace):
    namespace.set(A, 4)
    namespace.set(B, 10)
    session = namespace.session("a")
    session.sync(asks=[Ask(number, (Claim(A, 2), Claim(B, 3))) for number in (1, 2, 3)])
    assert namespace.look().held == {A: 4, B: 6}
    assert namespace.line(A) == [("a", 3)]


def test_units_that_are_free_but_too_few_leave_a_request_in_line(namespace: Namespace, three):
    first, second, _ = three
    first.sync(asks=[Ask(1, (app(2),)), Ask(2, (app(1),))])
    number = second.ask(app(3))
    assert namespace.line("app") == [("b", number)]
    first.release(2)
    assert namespace.units("app") == {"a": 2, "b": 3}


def test_requests_of_one_session_that_differ_in_weight_only_are_told_apart(namespace: Namespace, three):
    first, _, _ = three
    namespace.set("app", 0)
    first.sync(asks=[Ask(1, (app(2),), 3.0), Ask(2, ("app",), 2.0), Ask(3, (app(2),), 1.0)])
    assert namespace.line("app") == [("a", 1), ("a", 2), ("a", 3)]
    namespace.set("app", 3)
    assert namespace.units("app") == {"a": 3}
    assert namespace.line("app") == [("a", 3)]


def test_what_a_session_holds_beyond_the_max_drains_by_weight(namespace: Namespace, three):
    first, second, _ = three
    first.sync(asks=[Ask(1, (app(2),)), Ask(2, (app(3),))])
    namespace.set("app", 3)
    number = second.ask(app(2))
    first.release(1)
    assert namespace.line("app") == [("b", number)], "three are held, and three is the max"
    first.release(2)
    assert namespace.units("app") == {"b": 2}


def test_a_raise_grants_to_those_for_whom_it_is_enough(namespace: Namespace, three):
    first, second, third = three
    first.ask(app(4))
    second.ask(app(4))
    third.ask(app(2))
    namespace.set("app", 7)
    assert namespace.units("app") == {"a": 4}
    namespace.set("app", 8)
    assert namespace.units("app") == {"a": 4, "b": 4}
    namespace.set("app", 10)
    assert namespace.units("app") == {"a": 4, "b": 4, "c": 2}


# -- The first in line is not passed by lighter ones -----------------------------------------------------


def test_lighter_ones_that_came_later_do_not_pass_a_heavy_one(namespace: Namespace, three):
    first, heavy, light = three
    held = first.ask(app(3))
    number = heavy.ask(app(4))
    light.sync(asks=[Ask(1, ("app",)), Ask(2, ("app",))])
    assert namespace.units("app") == {"a": 3}, "two are free, and for the first in line"
    assert namespace.line("app") == [("b", number), ("c", 1), ("c", 2)]
    first.release(held)
    assert namespace.units("app") == {"b": 4, "c": 1}
    assert namespace.line("app") == [("c", 2)]


def test_units_that_come_free_one_by_one_are_kept_for_a_heavy_one(namespace: Namespace, three):
    first, heavy, light = three
    first.sync(asks=[Ask(number, ("app",)) for number in range(1, 6)])
    heavy.ask(app(3))
    light.ask("app")
    for number in (1, 2):
        first.release(number)
        assert namespace.units("app") == {"a": 5 - number}
    first.release(3)
    assert namespace.units("app") == {"a": 2, "b": 3}
    first.release(4)
    assert namespace.units("app") == {"a": 1, "b": 3, "c": 1}


def test_a_lighter_one_that_came_earlier_is_not_held_up_by_a_heavy_one(namespace: Namespace, three):
    first, heavy, light = three
    first.ask(app(3))
    heavy.ask(app(4))
    light.ask(app(2), age=60.0)
    assert namespace.units("app") == {"a": 3, "c": 2}


def test_a_lighter_one_of_the_same_session_does_not_pass_either(namespace: Namespace, three):
    first, heavy, _ = three
    first.ask(app(3))
    heavy.ask(app(4))
    heavy.ask("app")
    assert namespace.units("app") == {"a": 3}
    assert namespace.line("app") == [("b", 1), ("b", 2)]


@pytest.mark.parametrize(("limit", "other"), [("app", "queue:q"), ("queue:q", "app")])
def test_lighter_ones_in_the_line_of_another_limit_do_not_pass_either(namespace: Namespace, three, limit, other):
    first, heavy, light = three
    namespace.set(limit, 3)
    namespace.set(other, 2)
    for session in three:
        session.state()
    held = first.ask(limit, other)
    heavy.ask(Claim(limit, 3), other)
    light.ask(other)
    light.ask(other, limit)
    assert (namespace.line(limit), namespace.line(other)) == ([("b", 1)], [("c", 2)])
    first.release(held)
    assert namespace.units(limit) == {"b": 3}
    assert namespace.line(other) == [("c", 2)]


def test_lighter_ones_of_its_session_do_not_pass_a_heavy_one_when_that_session_comes_to_have_room(
    namespace: Namespace, three
):
    first, both, _ = three
    namespace.set("app", 3)
    namespace.set("queue:q", 2)
    both.slots = 1
    for session in three:
        session.state()
    held, running = first.ask("app", "queue:q"), both.ask("queue:q")
    both.ask(app(3), "queue:q")
    both.ask("queue:q", "app")
    first.release(held)
    assert namespace.units("app") == {}, "there is no room"
    both.release(running)
    assert namespace.units("app") == {"b": 3}


@pytest.mark.parametrize("how", ["withdraw", "close", "statement", "lighter", "no room"])
def test_what_was_kept_for_a_heavy_one_goes_to_lighter_ones_when_it_goes(namespace: Namespace, three, how: str):
    first, heavy, light = three
    first.ask(app(3))
    number = heavy.ask(app(4))
    light.ask("app")
    assert namespace.units("app") == {"a": 3}
    if how == "withdraw":
        heavy.release(number)
    elif how == "close":
        namespace.store.close_session("b")
    elif how == "statement":
        heavy.asked.clear()
        heavy.state()
    elif how == "lighter":
        heavy.asked.clear()
        heavy.sync(asks=[Ask(number, ("app",), 60.0)])
    else:
        heavy.sync(room=0)
    assert namespace.units("app") == {"a": 3, "c": 1} | ({"b": 1} if how == "lighter" else {})
    assert namespace.store.audit(repair=False) == ()


def test_what_was_kept_for_a_heavy_one_goes_on_when_its_session_has_run_out(namespace: Namespace, three):
    first, heavy, light = three
    first.ask(app(3))
    heavy.ask(app(4))
    light.ask("app")
    for _ in range(3):
        namespace.elapse(5)
        first.sync()
        light.sync()
    assert namespace.units("app") == {"a": 3, "c": 1}


def test_a_heavy_one_without_room_is_passed_and_is_the_first_again_once_it_has_room(namespace: Namespace, three):
    first, heavy, light = three
    heavy.slots = 0
    heavy.sync()
    first.ask(app(3))
    heavy.ask(app(4))
    held = light.ask("app")
    assert namespace.units("app") == {"a": 3, "c": 1}
    heavy.slots = 1
    heavy.sync()
    light.ask("app")
    light.release(held)
    assert namespace.units("app") == {"a": 3}
    first.release(1)
    assert namespace.units("app") == {"b": 4, "c": 1}


def test_a_heavy_one_without_room_is_offered_its_turn_though_there_is_not_enough_for_it_yet(
    namespace: Namespace, three
):
    """Its worker keeps a slot then, and says so: from that moment on what becomes free is kept for it."""
    first, heavy, light = three
    heavy.slots = 0
    heavy.sync()
    first.ask(app(3))
    heavy.listen()
    heavy.ask(app(4))
    light.ask("app")
    assert [notice.offer for notice in heavy.hear()] == [True]


def test_a_heavy_one_whose_session_takes_its_last_room_elsewhere_is_passed(namespace: Namespace, three):
    first, heavy, light = three
    heavy.slots = 1
    heavy.sync()
    first.ask(app(3))
    heavy.ask(app(4))
    light.ask("app")
    assert namespace.units("app") == {"a": 3}
    heavy.ask("queue:q")
    assert heavy.room == 0
    assert namespace.units("app") == {"a": 3, "c": 1}


def test_one_that_needs_more_than_the_max_has_the_others_wait_until_its_session_asks_for_less(
    namespace: Namespace, three
):
    """A worker asks for no more than the max: this is for as long as it hasn't heard of a lower one."""
    first, heavy, light = three
    first.ask(app(5))
    heavy.ask(app(5))
    light.ask("app")
    namespace.set("app", 3)
    first.release(1)
    assert namespace.units("app") == {}
    heavy.asked.clear()
    heavy.sync(asks=[Ask(1, (app(2),), 60.0)])
    assert namespace.units("app") == {"b": 2, "c": 1}


def test_of_two_heavy_ones_the_first_is_first(namespace: Namespace, three):
    first, second, third = three
    held = first.ask(app(5))
    second.ask(app(3))
    third.ask(app(4))
    first.release(held)
    assert namespace.units("app") == {"b": 3}
    second.sync()
    second.release(1)
    assert namespace.units("app") == {"c": 4}


def test_where_none_is_heavy_any_more_all_is_as_before(namespace: Namespace, three):
    first, heavy, light = three
    held = first.ask(app(3))
    number = heavy.ask(app(3))
    first.release(held)
    heavy.sync()
    heavy.release(number)
    light.sync(asks=[Ask(n, ("app",)) for n in range(1, 8)])
    assert namespace.units("app") == {"c": 5}
    for session in "abc":
        namespace.store.close_session(session)
    for limit in ("app", "queue:q"):
        namespace.store.reset(limit, by="test")
    assert namespace.left_behind() == {}


# -- Several limits --------------------------------------------------------------------------------------


@pytest.fixture
def both(namespace: Namespace) -> tuple[Session, Session, Session]:
    """Three sessions; A and B have four units each."""
    namespace.set(A, 4)
    namespace.set(B, 4)
    first, second, third = (namespace.session(name) for name in "abc")
    return first, second, third


@pytest.mark.parametrize("full", [A, B])
def test_a_heavy_request_that_lacks_units_of_one_limit_holds_none_of_the_other(namespace: Namespace, both, full: str):
    first, heavy, light = both
    free = B if full == A else A
    held = first.ask(Claim(full, 2))
    heavy.ask(Claim(A, 3), Claim(B, 3))
    assert namespace.line(full) == [("b", 1)]
    light.release(light.ask(Claim(free, 2)))
    assert namespace.units(free) == {}
    first.release(held)
    assert namespace.units(A) == namespace.units(B) == {"b": 3}


def test_after_three_missed_turns_all_of_its_units_are_held_back_in_each_of_its_limits(namespace: Namespace, both):
    first, heavy, light = both
    in_a, in_b = first.ask(Claim(A, 4)), first.ask(Claim(B, 4))
    number = heavy.ask(Claim(A, 2), Claim(B, 3))
    first.release(in_a)
    in_a = first.ask(Claim(A, 4))
    first.release(in_b)
    in_b = first.ask(Claim(B, 4))
    assert namespace.reserved(A) == []
    first.release(in_a)
    assert namespace.reserved(A) == namespace.reserved(B) == [("b", number)]
    light.sync(asks=[Ask(n, (A,)) for n in (1, 2, 3)])
    assert namespace.units(A) == {"c": 2}, "two of four are held back"
    first.release(in_b)
    assert namespace.units(B) == {"b": 3}
    assert namespace.units(A) == {"b": 2, "c": 2}
    assert namespace.reserved(A) == namespace.reserved(B) == []


def test_what_is_not_held_back_any_more_goes_on_when_a_lighter_one_that_came_before_has_room_again(
    namespace: Namespace, both
):
    """Units are held back for one at a time: the first whose session has room."""
    first, lighter, heavy = both
    young = namespace.session("d")
    in_a, in_b = first.ask(Claim(A, 4)), first.ask(Claim(B, 4))
    lighter.ask(A, B)
    heavy.ask(Claim(A, 3), B)
    first.release(in_a)
    in_a = first.ask(Claim(A, 4))
    first.release(in_b)
    first.ask(Claim(B, 4))
    first.release(in_a)
    assert namespace.reserved(A) == namespace.reserved(B) == [("b", 1), ("c", 1)]
    lighter.sync(room=0)
    young.ask(Claim(A, 2))
    assert namespace.units(A) == {}, "three of four are held back"
    lighter.sync()
    assert namespace.units(A) == {"d": 2}, "one is"


# -- What people see -------------------------------------------------------------------------------------


def test_people_see_units_that_run_and_requests_that_wait_each_with_its_weight(namespace: Namespace, three):
    first, second, third = three
    first.ask(app(4), "queue:q")
    second.ask(app(2))
    third.ask(app(3), Claim("queue:q", 2))
    status = namespace.store.status()
    assert (status["app"].running, status["app"].waiting) == (4, 2)
    assert (status["queue:q"].running, status["queue:q"].waiting) == (1, 0)
    assert [(holder.session, holder.weight) for holder in namespace.store.holders("app", 10)] == [("a", 4)]
    assert [(holder.session, holder.weight) for holder in namespace.store.holders("queue:q", 10)] == [("a", 1)]
    assert [(waiter.session, waiter.weight) for waiter in namespace.store.waiting("app", 10)] == [("b", 2), ("c", 3)]
    found = {one.session: one for one in namespace.store.find("id-1")}
    assert found["a"].weights == {"app": 4, "queue:q": 1}
    assert found["c"].weights == {"app": 3, "queue:q": 2}
    assert found["b"].full == found["c"].full == ("app",)


def test_a_lighter_one_behind_a_heavy_one_is_told_that_its_limit_is_full(namespace: Namespace, three):
    first, heavy, light = three
    first.ask(app(3))
    heavy.ask(app(4))
    light.ask("app")
    (found,) = [one for one in namespace.store.find("id-1") if one.session == "c"]
    assert (found.position, found.full) == (2, ("app",))


def test_a_statement_says_what_heavy_tasks_use(namespace: Namespace, three):
    first, _, _ = three
    first.sync(asks=[Ask(1, (app(2),)), Ask(2, (app(3),))])
    first.state()
    assert namespace.units("app") == {"a": 5}
    assert sorted(holder.weight for holder in namespace.store.holders("app", 10)) == [2, 3]
    del first.holding[1]
    first.state()
    assert namespace.units("app") == {"a": 3}


def test_what_is_unknown_to_a_session_is_added_with_its_weight(namespace: Namespace, three):
    first, second, _ = three
    held = first.ask(app(3))
    second.ask(app(3))
    first.release(held)  # the second isn't told
    assert second.prepare().granted == 1
    reply = second.state()
    assert [grant.claims for grant in reply.grants] == [(app(3),)]
    assert namespace.units("app") == {"b": 3}
    second.release(1)
    assert namespace.units("app") == {}
