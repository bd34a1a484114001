"""The waiting line: who is served first, over one limit and over several at once. (core/serving.lua, lines.lua)"""

from __future__ import annotations

import pytest

from celery_gconc.protocol.messages import Want

from .namespace import Ask, Namespace, Session

A, B, C = "pool:a", "pool:b", "pool:c"


def test_waiters_are_served_in_the_order_of_their_arrival_over_all_sessions(namespace: Namespace):
    namespace.set("app", 0)
    sessions = [namespace.session(name) for name in "cab"]
    for session in (*sessions, *reversed(sessions)):
        session.ask("app")
    served = []
    for maximum in range(1, 7):
        before = namespace.holders("app")
        namespace.set("app", maximum)
        served += [holder for holder in namespace.holders("app") if holder not in before]
    assert served == [("c", 1), ("a", 1), ("b", 1), ("b", 2), ("a", 2), ("c", 2)]


def test_a_request_stands_where_it_arrived_at_its_gate_however_late_it_is_told(namespace: Namespace):
    namespace.set("app", 0)
    first, second = namespace.session("a"), namespace.session("b")
    first.ask("app", age=5.0)
    second.ask("app", age=9.0)
    first.ask("app")
    second.ask("app", age=7.0)
    assert namespace.line("app") == [("b", 1), ("b", 2), ("a", 1), ("a", 2)]


def test_of_one_want_nobody_came_before_the_one_that_it_follows_whatever_its_age(namespace: Namespace):
    namespace.set("app", 0)
    first, second = namespace.session("a"), namespace.session("b")
    first.ask("app")
    second.ask("app", age=5.0)
    first.ask("app", age=60.0)  # as its session says where the lease clock has stood still since the first
    first.release(1)
    assert namespace.line("app") == [("b", 1), ("a", 2)]


def test_one_that_is_told_anew_behind_another_stands_behind_it(namespace: Namespace):
    namespace.set("app", 0)
    first, second = namespace.session("a"), namespace.session("b")
    number = first.ask("app", age=5.0)
    second.ask("app", age=3.0)
    rows = [Ask(number + 1, ("app",), age=1.0).row, Ask(number, ("app",)).row]
    first.sync(wants=[Want(1, first.claims(["app"]), requests=rows)])
    assert namespace.line("app") == [("b", 1), ("a", 2), ("a", 1)]
    assert namespace.store.audit(repair=False) == ()


def test_an_age_below_nought_does_not_put_a_request_behind_later_ones(namespace: Namespace):
    namespace.set("app", 0)
    first, second = namespace.session("a"), namespace.session("b")
    first.ask("app", age=-3600.0)
    second.ask("app")
    assert namespace.line("app") == [("a", 1), ("b", 1)]


def test_an_age_from_before_the_beginning_of_time_is_first(namespace: Namespace):
    namespace.set("app", 0)
    first, second = namespace.session("a"), namespace.session("b")
    first.ask("app", age=10.0)
    second.ask("app", age=1e10)
    assert namespace.line("app") == [("b", 1), ("a", 1)]


def test_a_step_back_of_the_clock_puts_nobody_before_those_who_stand_already(namespace: Namespace):
    namespace.set("app", 0)
    first, second = namespace.session("a"), namespace.session("b")
    first.ask("app")
    namespace.elapse(1)
    namespace.step_wall_clock(-3600)
    second.ask("app")
    namespace.elapse(1)
    first.ask("app")
    assert namespace.line("app") == [("a", 1), ("b", 1), ("a", 2)]


def test_a_waiter_without_room_is_skipped_offered_and_keeps_its_position(namespace: Namespace):
    namespace.set("app", 1)
    first, full, third = namespace.session("a"), namespace.session("b", slots=0).listen(), namespace.session("c")
    held = first.ask("app")
    full.ask("app")
    third.ask("app")
    third.ask("app")
    first.release(held)
    assert namespace.holders("app") == [("c", 1)]
    assert any(notice.offer for notice in full.hear())
    full.slots = 1
    full.sync()
    third.sync()
    third.release(1)
    assert namespace.holders("app") == [("b", 1)]


def test_a_line_longer_than_one_look_is_served_past_all_who_have_no_room(namespace: Namespace):
    namespace.set("app", 1)
    first, full, last = namespace.session("a"), namespace.session("b", slots=0), namespace.session("c")
    held = first.ask("app")
    full.sync(asks=[Ask(number, ("app",)) for number in range(1, 101)])
    number = last.ask("app")
    first.release(held)
    assert namespace.holders("app") == [("c", number)]


# -- Limits whose names are alike ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("queue:a", "queue:a b"), ("queue:a", "queue:a:b"), ("queue:é", "queue:éa"), ("app", "queue:app")]
)
def test_limits_whose_names_begin_alike_are_counted_apart(namespace: Namespace, names):
    for name in names:
        namespace.set(name, 1)
    first, second = namespace.session("a"), namespace.session("b")
    for name in names:
        first.ask(name)
        second.ask(name)
    for index, name in enumerate(names, 1):
        assert namespace.holders(name) == [("a", index)]
        assert namespace.line(name) == [("b", index)]
        found = namespace.store.status()[name]
        assert (found.running, found.waiting) == (1, 1)
    first.release(1)
    assert namespace.holders(names[0]) == [("b", 1)]
    assert namespace.holders(names[1]) == [("a", 2)]


# -- Several limits at once ------------------------------------------------------------------------------


def test_a_permit_over_several_limits_is_granted_as_a_whole(namespace: Namespace):
    for limit in (A, B, C):
        namespace.set(limit, 1)
    session = namespace.session("a")
    session.ask(A, B, C)
    for limit in (A, B, C):
        assert namespace.holders(limit) == [("a", 1)]


@pytest.mark.parametrize("full", [A, B, C])
def test_a_request_that_lacks_one_of_its_limits_holds_none_of_the_others(namespace: Namespace, full):
    for limit in (A, B, C):
        namespace.set(limit, 1)
    first, second, third = (namespace.session(name) for name in "abc")
    held = first.ask(full)
    second.ask(A, B, C)
    for limit in {A, B, C} - {full}:
        assert namespace.holders(limit) == []
        third.release(third.ask(limit))  # nobody is held up by it
    assert namespace.line(full) == [("b", 1)]
    first.release(held)
    for limit in (A, B, C):
        assert namespace.holders(limit) == [("b", 1)]


def test_a_waiter_moves_from_the_line_of_one_full_limit_to_that_of_the_next(namespace: Namespace):
    for limit in (A, B):
        namespace.set(limit, 1)
    first, second = namespace.session("a"), namespace.session("b")
    in_a, in_b = first.ask(A), first.ask(B)
    second.ask(A, B)
    assert namespace.line(A) == [("b", 1)]
    first.release(in_a)
    assert (namespace.line(A), namespace.line(B)) == ([], [("b", 1)])
    first.release(in_b)
    assert namespace.holders(A) == namespace.holders(B) == [("b", 1)]


def test_a_waiter_without_room_moves_to_the_line_of_the_next_full_limit_too(namespace: Namespace):
    for limit in (A, B):
        namespace.set(limit, 1)
    first, full = namespace.session("a"), namespace.session("b", slots=0).listen()
    in_a, in_b = first.ask(A), first.ask(B)
    full.ask(A, B)
    first.release(in_a)
    assert (namespace.line(A), namespace.line(B)) == ([], [("b", 1)])
    assert not any(notice.offer for notice in full.hear())
    first.release(in_b)
    assert any(notice.offer for notice in full.hear()), "it hears that it could have both"


def test_a_waiter_keeps_its_arrival_in_the_line_that_it_moves_to(namespace: Namespace):
    for limit in (A, B):
        namespace.set(limit, 1)
    first, second, third = (namespace.session(name) for name in "abc")
    in_a, in_b = first.ask(A), first.ask(B)
    second.ask(A, B)
    third.ask(B)
    first.release(in_a)
    assert namespace.line(B) == [("b", 1), ("c", 1)]
    first.release(in_b)
    assert namespace.holders(B) == [("b", 1)]


@pytest.mark.parametrize(("one", "other"), [(A, B), (B, A)])
def test_of_two_lines_whose_units_come_free_at_once_none_passes_the_first_of_the_other(
    namespace: Namespace, one: str, other: str
):
    namespace.set(A, 1)
    namespace.set(B, 1)
    holder, old, young = (namespace.session(name) for name in "abc")
    held = holder.ask(A, B)
    first = old.ask(other)
    second = young.ask(one, other)
    assert namespace.line(one) == [("c", second)]
    holder.release(held)
    assert namespace.holders(other) == [("b", first)]
    assert namespace.holders(one) == []
    assert namespace.line(other) == [("c", second)]


def test_a_limit_that_settles_holds_up_those_that_need_it_only(namespace: Namespace):
    namespace.set(A, 1)
    session = namespace.session("a")
    namespace.set(B, 1)
    session.ask(A, B)
    number = session.ask(A)  # by then the session goes by the new table, and B is open
    assert namespace.holders(B) == [("a", 1)]
    assert namespace.holders(A) == [("a", 1)]
    assert namespace.line(A) == [("a", number)]


def cross(namespace: Namespace, waiter: Session, holder: Session) -> tuple[int, int]:
    """Have a request of *waiter* for A and B miss its turn three times; return it, and what stands in its way in B.

    *holder* takes each unit that comes free before the other one does; in the end A is free but held back.
    """
    in_a, in_b = holder.ask(A), holder.ask(B)
    number = waiter.ask(A, B)
    holder.release(in_a)
    in_a = holder.ask(A)
    assert in_a in holder.holding, "overtaken once"
    holder.release(in_b)
    in_b = holder.ask(B)
    assert in_b in holder.holding, "overtaken twice"
    assert namespace.reserved(A) == []
    holder.release(in_a)
    assert namespace.reserved(A) == namespace.reserved(B) == [(waiter.name, number)]
    return number, in_b


@pytest.fixture
def crossing(namespace: Namespace) -> Namespace:
    """A namespace in which A and B take one each."""
    namespace.set(A, 1)
    namespace.set(B, 1)
    return namespace


def test_a_waiter_that_missed_its_turn_three_times_is_granted_before_younger_ones(crossing: Namespace):
    holder, waiter, young = (crossing.session(name) for name in "abc")
    number, in_b = cross(crossing, waiter, holder)
    younger = young.ask(A)
    assert crossing.holders(A) == [], "the unit is held back"
    assert crossing.line(A) == [("c", younger)]
    holder.release(in_b)
    assert crossing.holders(A) == crossing.holders(B) == [("b", number)]
    waiter.sync()
    waiter.release(number)
    assert crossing.holders(A) == [("c", younger)]


def test_an_older_request_is_not_held_up_by_units_held_back_for_a_younger_one(crossing: Namespace):
    holder, waiter, old = (crossing.session(name) for name in "abc")
    cross(crossing, waiter, holder)
    number = old.ask(A, age=3600.0)
    assert crossing.holders(A) == [("c", number)]


def test_one_unit_of_a_limit_is_held_back_at_a_time_however_many_missed_their_turns(crossing: Namespace):
    crossing.set(A, 2)
    holder, one, two, young = (crossing.session(name) for name in "abcd")
    in_a, in_b = [holder.ask(A), holder.ask(A)], holder.ask(B)
    first, second = one.ask(A, B), two.ask(A, B)
    holder.release(*in_a)
    in_a = [holder.ask(A), holder.ask(A)]
    holder.release(in_b)
    in_b = holder.ask(B)
    holder.release(*in_a)
    assert crossing.reserved(A) == crossing.reserved(B) == [("b", first), ("c", second)]
    younger = [young.ask(A), young.ask(A)]
    assert crossing.holders(A) == [("d", younger[0])], "B is full, and that keeps one unit of A from use, not both"
    assert crossing.line(A) == [("d", younger[1])]
    holder.release(in_b)
    assert crossing.holders(B) == [("b", first)]
    one.sync()
    one.release(first)
    assert crossing.holders(B) == [("c", second)], "its turn has come"
    assert crossing.line(A) == [("d", younger[1])]


def test_two_waiters_for_which_units_are_held_back_do_not_wait_for_each_other(crossing: Namespace):
    holder, first, second = (crossing.session(name) for name in "abc")
    # Both ask for both, in opposite order; each misses its turn until units are held back for it.
    in_a, in_b = holder.ask(A), holder.ask(B)
    one, two = first.ask(A, B), second.ask(B, A)
    for _ in range(6):
        holder.release(in_a)
        in_a = holder.ask(A)
        holder.release(in_b)
        in_b = holder.ask(B)
    holder.release(in_a, in_b)
    for number in [*holder.holding, *holder.asked]:
        holder.release(number)
    assert crossing.holders(A) == crossing.holders(B) == [("b", one)]
    first.sync()
    first.release(one)
    assert crossing.holders(A) == crossing.holders(B) == [("c", two)]
    second.sync()
    second.release(two)
    assert crossing.holders(A) == crossing.holders(B) == []


@pytest.mark.parametrize("how", ["withdraw", "close", "statement"])
def test_units_held_back_are_given_on_when_their_waiter_goes(crossing: Namespace, how):
    holder, waiter, young = (crossing.session(name) for name in "abc")
    number, _ = cross(crossing, waiter, holder)
    younger = young.ask(A)
    if how == "withdraw":
        waiter.release(number)
    elif how == "close":
        crossing.store.close_session(waiter.name)
    else:
        waiter.asked.clear()
        waiter.state()
    assert crossing.reserved(A) == crossing.reserved(B) == []
    assert crossing.holders(A) == [("c", younger)]


def test_units_held_back_are_for_the_first_of_a_want_and_not_for_those_behind_it(crossing: Namespace):
    holder, waiter, young = (crossing.session(name) for name in "abc")
    number, _ = cross(crossing, waiter, holder)
    behind, younger = waiter.ask(A, B), young.ask(A)
    waiter.release(number)
    assert crossing.reserved(A) == crossing.reserved(B) == []
    assert crossing.holders(A) == [("c", younger)]
    assert crossing.line(B) == [("b", behind)]
    assert crossing.store.audit(repair=False) == ()


def test_no_unit_is_held_back_for_a_waiter_without_room(crossing: Namespace):
    # Else a free unit and a waiter with room stand side by side for as long as that session's slots are taken.
    holder, waiter, young = (crossing.session(name) for name in "abc")
    _, in_b = cross(crossing, waiter, holder)
    younger = young.ask(A)
    waiter.sync(room=0)
    holder.release(in_b)
    assert crossing.holders(A) == [("c", younger)]


def test_a_waiter_for_which_units_were_held_back_leaves_no_trace(crossing: Namespace):
    holder, waiter = crossing.session("a"), crossing.session("b")
    number, in_b = cross(crossing, waiter, holder)
    holder.release(in_b)
    waiter.sync()
    waiter.release(number)
    for name in ("waiters", "turns", "reserved", "contended", "units", "held", "holders", "wants", "roll"):
        assert not crossing.raw.exists(crossing.keys.key(name)), name


def test_a_holder_is_told_of_a_new_waiter_also_after_units_were_held_back(crossing: Namespace):
    holder, waiter = crossing.session("a").listen(), crossing.session("b")
    number, in_b = cross(crossing, waiter, holder)
    holder.release(in_b)
    waiter.sync()
    waiter.release(number)
    idle = holder.ask(A)
    holder.hear()
    waiter.ask(A)
    assert idle in holder.holding
    assert [notice.contended for notice in holder.hear()] == [{A: 0}]


# -- Adoption --------------------------------------------------------------------------------------------


def test_what_is_stated_beyond_the_max_counts_and_drains(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a"), namespace.session("b")
    held = first.ask("app")
    second.sync(held={7: ("app",), 8: ("app",)})
    second.state()
    number = first.ask("app")
    assert namespace.holders("app") == [("a", held), ("b", 7), ("b", 8)]
    assert second.sync(interests=["app"]).contended == {"app": 0}, "above the max nothing is used again"
    first.release(held)
    second.release(7)
    assert namespace.holders("app") == [("b", 8)]
    second.release(8)
    assert namespace.holders("app") == [("a", number)]
