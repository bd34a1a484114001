"""No script does more than a bounded piece of work: the next ones do the rest, and meanwhile no promise is broken."""

from __future__ import annotations

import re

import pytest

from celery_gconc.protocol.scripts import WORK

from .look import check_sound, looker
from .namespace import Ask, Namespace, Session

#: More than a script does, and less than three do.
MANY = 2 * WORK + WORK // 2

#: How many turns a script gives, and more than two can.
GIVEN = WORK // 5
FEWER = 2 * GIVEN + GIVEN // 2


def end_lease(namespace: Namespace, name: str) -> None:
    """Its session died long ago."""
    namespace.raw.hset(namespace.keys.key("meta"), "epoch_began", 1)
    namespace.raw.zadd(namespace.keys.key("sessions"), {name: 1})


def holder_of_many(namespace: Namespace, name: str = "a") -> Session:
    namespace.set("app", MANY)
    limits = [f"pool:{number}" for number in range(MANY)]
    session = namespace.session(name, slots=MANY, held={n: ("app", limit) for n, limit in enumerate(limits, 1)})
    assert namespace.units("app") == {name: MANY}
    return session


def reclaims(namespace: Namespace) -> int:
    return namespace.store.totals().reclaims


def test_a_dead_session_with_units_of_many_limits_loses_some_in_each_call_and_the_others_count(namespace: Namespace):
    dead, other = holder_of_many(namespace), namespace.session("b", slots=MANY)
    waits = other.ask("app")
    end_lease(namespace, "a")
    held = []
    while "a" in namespace.live():
        namespace.call()
        held.append(sum("a" in units for units in namespace.look().units.values()))
    assert held == [MANY + 1 - WORK, MANY + 1 - 2 * WORK, 0]
    assert namespace.holders("app") == [("b", waits)]
    assert reclaims(namespace) == 2 * MANY
    assert dead.sync().status == "closed"


def test_a_session_that_ends_bit_by_bit_is_refused_and_given_nothing_from_the_first_bit_on(namespace: Namespace):
    dead = holder_of_many(namespace)
    namespace.set("queue:q", 1)
    dead.sync()
    dead.ask("queue:q", "app")
    assert namespace.line("app")
    end_lease(namespace, "a")
    namespace.call()
    assert "a" in namespace.live(), "some is left"
    assert dead.sync().status == "closed"
    namespace.set("queue:q", 5)
    namespace.set("app", 10 * MANY)
    assert namespace.units("queue:q") == {}
    assert [session.session for session in namespace.store.status().sessions] == []


def test_a_session_with_units_of_many_limits_is_closed_when_closing_it_returns(namespace: Namespace):
    holder_of_many(namespace)
    other = namespace.session("b")
    waits = other.ask("app")
    namespace.store.close_session("a")
    assert namespace.live() == ["b"]
    assert namespace.holders("app") == [("b", waits)]
    assert reclaims(namespace) == 0, "it is no dead one"


def test_a_session_that_is_closed_while_another_is_ending_waits_for_its_turn(namespace: Namespace):
    held = {number: (f"pool:{number}",) for number in range(1, MANY + 1)}
    for name in ("a", "b"):
        namespace.session(name, slots=MANY, held=held)
    end_lease(namespace, "a")
    assert namespace.store._run("close", {"session": "b"})["more"]
    assert sum(namespace.look().held.values()) == 2 * MANY - WORK
    namespace.store.close_session("b")
    assert namespace.left_behind() == {}


def test_what_a_session_restates_that_replaces_one_which_is_ending_counts_once(namespace: Namespace):
    dead = holder_of_many(namespace)
    end_lease(namespace, "a")
    namespace.call()
    dead.lease = 1  # as it was told
    again = namespace.session("a2", slots=MANY, held=dead.holding, former=dead.former)
    assert again.opened.lapsed
    assert namespace.live() == ["a2"]
    assert namespace.look().held == {limit: MANY if limit == "app" else 1 for limit in namespace.look().units}
    assert namespace.units("app") == {"a2": MANY}


def test_an_ending_session_that_opens_once_more_under_its_id_keeps_what_it_states(namespace: Namespace):
    holder_of_many(namespace)
    end_lease(namespace, "a")
    namespace.call()
    namespace.session("a", held={7: ("app",)}, states=False)
    for _ in range(4):
        namespace.call()
    assert namespace.holders("app") == [("a", 7)]


@pytest.mark.parametrize("how", ["close", "lease"])
def test_the_values_of_a_session_with_many_limits_stop_counting(namespace: Namespace, how):
    names = [f"queue:q{number}" for number in range(MANY)]
    namespace.session("a", config=dict.fromkeys(names, 1))
    namespace.session("b", config=dict.fromkeys(names[: MANY // 2], 3))
    if how == "close":
        namespace.store.close_session("a")
    else:
        end_lease(namespace, "a")
        left = MANY
        for _ in range(3):
            namespace.call()
            before, left = left, sum(value == 1 for value in namespace.look().maxima.values())
            assert 0 < before - left <= WORK
    assert namespace.live() == ["b"]
    assert namespace.look().maxima == dict.fromkeys(names[: MANY // 2], 3)
    namespace.store.close_session("b")
    namespace.call()
    assert namespace.left_behind() == {}


def test_what_is_set_for_a_time_ends_some_with_each_call(namespace: Namespace):
    many, some, meta = 2 * WORK // 8 + 10, -(-WORK // 8), namespace.keys.key("meta")
    for number in range(many):
        namespace.store.set(f"pool:{number}", 3, by="ann", duration=3600.0)
    overrides, ends = namespace.keys.key("overrides"), namespace.keys.key("ends")
    for limit, text in namespace.raw.hgetall(overrides).items():  # an hour later
        namespace.raw.hset(overrides, limit, re.sub(rb'"ends":\d+', b'"ends":1', text))
        namespace.raw.zadd(ends, {limit: 1})
    namespace.raw.hset(meta, "next_override_end", 1)
    left = []
    while namespace.raw.exists(overrides):
        namespace.call()
        left.append(namespace.raw.hlen(overrides))
    assert left == [many - some, many - 2 * some, 0]
    assert namespace.raw.hget(meta, "next_override_end") is None
    check_sound(looker(namespace)())


def test_many_limits_that_settle_begin_some_with_each_call(namespace: Namespace):
    names = [f"queue:q{number}" for number in range(MANY)]
    session, silent = namespace.session("a"), namespace.session("silent")
    namespace.session("b", config=dict.fromkeys(names, 1)).catch_up()
    session.catch_up()
    assert len(namespace.look().settling) == MANY
    namespace.store.close_session(silent.name)
    assert len(namespace.look().settling) == MANY - WORK
    session.sync()  # two turns: before it serves and at its end
    assert namespace.look().settling == set()


def test_when_grants_go_on_many_lines_are_served_some_with_each_call_and_nobody_overtakes(namespace: Namespace):
    names = [f"queue:q{number:04}" for number in range(MANY)]
    session = namespace.session("a", slots=10 * MANY, config=dict.fromkeys(names, 1))
    session.sync()
    late = namespace.session("b", slots=MANY)
    namespace.raw.hset(namespace.keys.key("meta"), "closed_until", 10**15)
    session.sync(asks=[Ask(number, (name,)) for number, name in enumerate(names, 1)])
    namespace.raw.hset(namespace.keys.key("meta"), "closed_until", 1)
    late.ask(names[-1])
    assert len(namespace.look().units) == GIVEN
    assert namespace.line(names[-1]) == [("a", MANY), ("b", 1)], "whoever came first is first"
    for _ in range(MANY // GIVEN):
        assert namespace.look().is_serving
        namespace.call()
    assert namespace.look().units == {name: {"a": 1} for name in names}
    assert namespace.line(names[-1]) == [("b", 1)]
    assert not namespace.look().is_serving


def test_a_waiter_without_room_is_passed_once_and_has_its_turns_again_when_its_session_says_something(
    namespace: Namespace,
):
    namespace.set("app", 1)
    holder, full, able = namespace.session("a"), namespace.session("b", slots=0), namespace.session("c")
    held, first = holder.ask("app"), full.ask("app")
    able.ask("app")
    able.ask("app")
    turns = namespace.keys.key("turns")
    assert namespace.raw.zcard(turns) == 2
    holder.release(held)
    assert namespace.holders("app") == [("c", 1)]
    assert [member.rpartition(b"\x1f")[2] for member in namespace.raw.zrange(turns, 0, -1)] == [b"c:1"], "b is passed"
    assert namespace.line("app") == [("b", first), ("c", 2)], "it keeps its position"
    full.slots = 1
    full.sync()
    able.sync()
    able.release(1)
    assert namespace.holders("app") == [("b", first)]
    full.sync()
    full.release(first)
    able.sync()
    able.release(2)
    assert namespace.line("app") == []
    assert not namespace.raw.exists(turns, namespace.keys.key("aside"))


def test_a_waiter_that_was_passed_is_offered_units_again_after_each_word_of_its_session(namespace: Namespace):
    namespace.set("app", 1)
    holder, full, able = namespace.session("a"), namespace.session("b", slots=0).listen(), namespace.session("c")
    held = holder.ask("app")
    full.ask("app")
    numbers = [able.ask("app") for _ in range(3)]
    holder.release(held)
    assert [notice.offer for notice in full.hear()] == [True]
    able.sync()
    able.release(numbers[0])
    assert full.hear() == [], "it has heard of it"
    full.sync()
    able.sync()
    able.release(numbers[1])
    assert [notice.offer for notice in full.hear()] == [True]


def test_a_waiter_that_was_passed_leaves_nothing_behind_when_it_goes(namespace: Namespace):
    namespace.set("app", 1)
    holder, full, able = namespace.session("a"), namespace.session("b", slots=0), namespace.session("c")
    namespace.set("queue:q", 5)
    for session in (holder, full, able):
        session.sync()
    held = holder.ask("app")
    full.ask("app")
    full.ask("app", "queue:q")
    able.ask("app")
    holder.release(held)
    assert namespace.raw.zcard(namespace.keys.key("aside")) == 2
    namespace.store.close_session("b")
    assert not namespace.raw.exists(namespace.keys.key("aside"))
    assert namespace.store.audit(repair=False) == ()


# -- Lines that are put off ------------------------------------------------------------------------------


def set_in_one_call(namespace: Namespace, limit: str, maximum: int) -> None:
    """Set a limit, and leave what is left to the next calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(namespace.store, "_go_on", lambda *_: None)
        namespace.set(limit, maximum)


def interleaved(first: Session, second: Session) -> list[tuple[str, int]]:
    """Have FEWER requests of two sessions wait, which came by turns; return them in order."""
    order = []
    for turn, session in enumerate((first, second)):
        count = FEWER // 2 + (FEWER % 2 if turn == 0 else 0)
        session.sync(asks=[Ask(n, ("app",), 6000.0 - 2 * n - turn) for n in range(1, count + 1)])
        order += [(6000.0 - 2 * n - turn, session.name, n) for n in range(1, count + 1)]
    return [(name, number) for _, name, number in sorted(order, reverse=True)]


def test_a_raise_grants_to_many_waiters_some_with_each_call_in_order_and_nobody_overtakes(namespace: Namespace):
    namespace.set("app", 0)
    first, second, late = (namespace.session(name, slots=2 * FEWER) for name in "abc")
    order = interleaved(first, second)
    assert namespace.line("app") == order
    set_in_one_call(namespace, "app", FEWER + 10)
    assert namespace.line("app") == order[GIVEN:]
    reply = late.sync(asks=[Ask(1, ("app",))])
    assert reply.grants == (), "there are units, and those who came first have not had theirs"
    assert reply.expires == 0, "somebody is to call"
    assert namespace.line("app") == [*order[2 * GIVEN :], ("c", 1)]
    assert namespace.store.audit(repair=False) == ()
    reply = late.sync()
    assert namespace.line("app") == []
    assert len(reply.grants) == 1
    assert reply.expires != 0
    assert namespace.look().held == {"app": FEWER + 1}
    assert not namespace.look().is_serving


def test_a_request_that_comes_while_its_line_is_put_off_takes_no_units_of_its_other_limits(namespace: Namespace):
    namespace.set("app", 0)
    namespace.set("queue:q", 1)
    first, late, third = (namespace.session(name, slots=2 * FEWER) for name in "abc")
    first.sync(asks=[Ask(number, ("app",)) for number in range(1, FEWER + 1)])
    set_in_one_call(namespace, "app", FEWER + 10)
    late.ask("queue:q", "app")
    assert namespace.units("queue:q") == {}
    assert namespace.line("app")[-1] == ("b", 1)
    third.ask("queue:q")
    assert namespace.units("queue:q") == {"b": 1}, "by then the line is served, and who came first was first"
    assert namespace.line("queue:q") == [("c", 1)]


def test_an_earlier_request_that_is_told_late_is_before_those_who_are_put_off(namespace: Namespace):
    namespace.set("app", 0)
    first, late = (namespace.session(name, slots=2 * FEWER) for name in "ab")
    first.sync(asks=[Ask(number, ("app",)) for number in range(1, FEWER + 1)])
    set_in_one_call(namespace, "app", FEWER)
    late.ask("app", age=60.0)
    assert namespace.line("app")[0] == ("b", 1)
    namespace.call()
    assert namespace.units("app") == {"a": FEWER - 1, "b": 1}


def test_a_line_of_many_that_have_no_room_is_passed_some_with_each_call(namespace: Namespace):
    names = [f"queue:q{number}" for number in range(FEWER)]
    namespace.set("app", 0)
    full, able = namespace.session("a", slots=0), namespace.session("b")
    full.sync(asks=[Ask(number, ("app", name)) for number, name in enumerate(names, 1)])
    waits = able.ask("app")
    set_in_one_call(namespace, "app", 1)
    for turn in (1, 2):
        assert namespace.raw.zcard(namespace.keys.key("aside")) == turn * GIVEN
        assert namespace.units("app") == {}
        assert namespace.look().is_serving
        namespace.call()
    assert namespace.holders("app") == [("b", waits)]
    assert not namespace.look().is_serving


def test_a_session_that_gets_room_is_granted_what_waits_in_many_lines_some_with_each_call(namespace: Namespace):
    names = [f"queue:q{number}" for number in range(FEWER)]
    session = namespace.session("a", slots=0, config=dict.fromkeys(names, 1))
    session.sync(asks=[Ask(number, (name,)) for number, name in enumerate(names, 1)])
    assert len(namespace.look().lines) == FEWER
    session.slots = 2 * FEWER
    counts, expires = [], []
    for _ in range(3):
        reply = session.sync()
        counts.append(len(reply.grants))
        expires.append(reply.expires)
    assert counts == [GIVEN, GIVEN, FEWER - 2 * GIVEN]
    assert expires == [0, 0, None]
    assert namespace.look().held == dict.fromkeys(names, 1)


def test_a_line_that_is_put_off_is_forgotten_with_those_who_stand_in_it(namespace: Namespace):
    namespace.set("app", 0)
    session = namespace.session("a", slots=2 * MANY)
    session.sync(asks=[Ask(number, ("app",)) for number in range(1, MANY + 1)])
    set_in_one_call(namespace, "app", MANY)
    assert namespace.look().is_serving
    namespace.store.close_session("a")
    namespace.store.reset("app", by="test")
    assert namespace.left_behind() == {}
