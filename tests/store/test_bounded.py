"""No script does more than a bounded piece of work: the next ones do the rest, and meanwhile no promise is broken."""

from __future__ import annotations

import pytest

from celery_gconc.protocol.messages import Held
from celery_gconc.protocol.scripts import WORK

from .namespace import Namespace, Session

#: More than a script does, and less than three do.
MANY = 2 * WORK + WORK // 2


def end_lease(namespace: Namespace, name: str) -> None:
    """Its session died long ago."""
    namespace.raw.hset(namespace.keys.key("meta"), "epoch_began", 1)
    namespace.raw.zadd(namespace.keys.key("sessions"), {name: 1})


def holder_of_many(namespace: Namespace, name: str = "a") -> Session:
    namespace.set("app", MANY)
    session = namespace.session(name, slots=MANY, held=[Held(number, ("app",)) for number in range(1, MANY + 1)])
    assert len(namespace.holders("app")) == MANY
    return session


def reclaims(namespace: Namespace) -> int:
    return namespace.store.totals().reclaims


def test_a_dead_session_with_many_permits_loses_some_in_each_call_and_the_others_count(namespace: Namespace):
    dead, other = holder_of_many(namespace), namespace.session("b", slots=MANY)
    waits = other.ask("app")
    end_lease(namespace, "a")
    held = []
    while "a" in namespace.live():
        namespace.store.status("nothing")
        held.append([name for name, _ in namespace.holders("app")].count("a"))
    assert held == [MANY - WORK, MANY - 2 * WORK, 0]
    assert namespace.holders("app") == [("b", waits)]
    assert reclaims(namespace) == MANY
    assert dead.sync().status == "closed"


def test_a_session_that_ends_bit_by_bit_is_refused_and_given_nothing_from_the_first_bit_on(namespace: Namespace):
    dead = holder_of_many(namespace)
    asks = [dead.ask("queue:q", "app") for _ in range(2)]
    namespace.set("queue:q", 1)
    dead.sync()
    end_lease(namespace, "a")
    namespace.store.status("nothing")
    assert "a" in namespace.live(), "some is left"
    assert dead.sync().status == "closed"
    namespace.set("queue:q", 5)
    namespace.set("app", 10 * MANY)
    assert not set(asks) & {number for _, number in namespace.holders("queue:q")}
    assert [session.session for session in namespace.store.status().sessions] == []


def test_a_session_with_many_permits_is_closed_when_closing_it_returns(namespace: Namespace):
    holder_of_many(namespace)
    other = namespace.session("b")
    waits = other.ask("app")
    namespace.store.close_session("a")
    assert namespace.live() == ["b"]
    assert namespace.holders("app") == [("b", waits)]
    assert reclaims(namespace) == 0, "it is no dead one"


def test_a_session_that_is_closed_while_another_is_ending_waits_for_its_turn(namespace: Namespace):
    holder_of_many(namespace)
    held = [Held(number, ("pool:x",)) for number in range(1, MANY + 1)]
    namespace.session("b", slots=MANY, held=held)
    end_lease(namespace, "a")
    assert namespace.store._run("close", {"session": "b"})["more"]
    assert len(namespace.holders("app")) + len(namespace.holders("pool:x")) == 2 * MANY - WORK
    namespace.store.close_session("b")
    assert (namespace.live(), namespace.holders("app"), namespace.holders("pool:x")) == ([], [], [])


def test_what_a_session_restates_that_replaces_one_which_is_ending_counts_once(namespace: Namespace):
    dead = holder_of_many(namespace)
    end_lease(namespace, "a")
    namespace.store.status("nothing")
    held, _ = dead.statement()
    dead.lease = 1  # as it was told
    again = namespace.session("a2", slots=MANY, held=held, former=dead.former, version=dead.version)
    assert again.opened.lapsed
    assert namespace.live() == ["a2"]
    assert len(namespace.holders("app")) == MANY


def test_an_ending_session_that_opens_once_more_under_its_id_keeps_what_it_states(namespace: Namespace):
    holder_of_many(namespace)
    end_lease(namespace, "a")
    namespace.store.status("nothing")
    namespace.session("a", held=[Held(7, ("app",))], states=False)
    for _ in range(4):
        namespace.store.status("nothing")
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
        for turn in range(3):
            left = sum(value == 1 for value in namespace.look().maxima.values())
            assert left == MANY - turn * WORK
            namespace.store.status("nothing")
    assert namespace.live() == ["b"]
    assert namespace.look().maxima == dict.fromkeys(names[: MANY // 2], 3)
    namespace.store.close_session("b")
    assert namespace.left_behind() == {}


def test_many_limits_that_settle_begin_some_with_each_call(namespace: Namespace):
    names = [f"queue:q{number}" for number in range(MANY)]
    session = namespace.session("a", config=dict.fromkeys(names, 1), states=False)
    assert len(namespace.look().settling) == MANY
    session.sync(full=True)  # two turns: before it serves and at its end
    assert len(namespace.look().settling) == MANY - 2 * WORK
    session.sync()
    assert namespace.look().settling == set()


def test_when_grants_go_on_many_lines_are_served_some_with_each_call_and_nobody_overtakes(namespace: Namespace):
    names = [f"queue:q{number:04}" for number in range(MANY)]
    session = namespace.session("a", slots=10 * MANY, config=dict.fromkeys(names, 1))
    session.sync()
    late = namespace.session("b", slots=MANY)
    namespace.raw.hset(namespace.keys.key("meta"), "closed_until", 10**15)
    for name in names:
        session.ask(name)
    namespace.raw.hset(namespace.keys.key("meta"), "closed_until", 1)
    late.ask(names[-1])
    assert namespace.holders(names[-1]) == [("a", MANY)], "whoever came first"
    assert len(namespace.look().holders) == WORK + 1
    namespace.store.status("nothing")
    namespace.store.status("nothing")
    assert len(namespace.look().holders) == MANY
    assert not namespace.raw.hexists(namespace.keys.key("meta"), "served_to")


def test_a_waiter_without_room_is_passed_once_and_has_its_turns_again_when_its_session_says_something(
    namespace: Namespace,
):
    namespace.set("app", 1)
    holder, full, able = namespace.session("a"), namespace.session("b", slots=0), namespace.session("c")
    held, first = holder.ask("app"), full.ask("app")
    able.ask("app")
    able.ask("app")
    turns = namespace.keys.key("turns")
    assert namespace.raw.zcard(turns) == 3
    holder.release(held)
    assert namespace.holders("app") == [("c", 1)]
    assert [member.rpartition(b"\x1f")[2] for member in namespace.raw.zrange(turns, 0, -1)] == [b"c:2"], "passed"
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


def test_a_waiter_that_was_passed_is_offered_a_permit_again_after_each_word_of_its_session(namespace: Namespace):
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
    held = holder.ask("app")
    full.ask("app")
    full.ask("app")
    able.ask("app")
    holder.release(held)
    assert namespace.raw.zcard(namespace.keys.key("aside")) == 2
    namespace.store.close_session("b")
    assert not namespace.raw.exists(namespace.keys.key("aside"))
    assert namespace.store.audit(repair=False) == ()
