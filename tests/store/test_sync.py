"""sync.lua: one round trip of a session."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from celery_gconc.errors import StoreRefused, StoreUnavailable
from celery_gconc.limits.claims import Claim, Claims
from celery_gconc.protocol.messages import Grant, Row, Synced, Want
from celery_gconc.protocol.session_store import SessionStore
from tests.kit.servers import redis_server

from .namespace import INTERVAL, TIMEOUT, Ask, Namespace, Session

#: What a request under ``app`` claims.
APP: Claims = (Claim("app", 1),)


def numbers(reply: Synced) -> list[int]:
    """The numbers of the grants in a reply."""
    return [grant.grant for grant in reply.grants]


# -- Grants and handoff ----------------------------------------------------------------------------------


def test_permits_are_granted_up_to_the_max_and_no_further(namespace: Namespace):
    namespace.set("app", 3)
    session = namespace.session("a")
    reply = session.sync(asks=[Ask(number, ("app",)) for number in range(1, 6)])
    assert reply.grants == (Grant(2, 1, APP), Grant(3, 1, APP), Grant(4, 1, APP))
    assert set(session.holding) == {1, 2, 3}
    assert namespace.holders("app") == [("a", 1), ("a", 2), ("a", 3)]
    assert namespace.line("app") == [("a", 4), ("a", 5)]


def test_a_request_under_a_limit_that_has_no_max_is_granted(namespace: Namespace):
    session = namespace.session("a")
    number = session.ask("app")
    assert number in session.holding


def test_a_release_grants_to_the_first_waiter_with_room(namespace: Namespace):
    namespace.set("app", 1)
    first, second, third = (namespace.session(name) for name in "abc")
    number = first.ask("app")
    second.ask("app")
    third.ask("app")
    first.release(number)
    assert namespace.holders("app") == [("b", 1)]
    assert namespace.line("app") == [("c", 1)]


def test_a_release_and_an_ask_in_one_sync_let_the_older_waiter_of_another_session_go_first(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a"), namespace.session("b")
    number = first.ask("app")
    second.ask("app")
    first.sync(ended=[number], asks=[Ask(9, ("app",))])
    assert namespace.holders("app") == [("b", 1)]
    assert namespace.line("app") == [("a", 9)]


def test_a_waiter_that_withdraws_leaves_the_line(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a"), namespace.session("b")
    held = first.ask("app")
    second.release(second.ask("app"))
    assert namespace.line("app") == []
    first.release(held)
    assert namespace.holders("app") == []


def test_a_release_of_what_is_not_held_changes_nothing(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a"), namespace.session("b")
    first.ask("app")
    second.sync(ended=[1, 99])
    assert namespace.holders("app") == [("a", 1)]


def test_an_ask_that_is_sent_twice_stands_in_line_once_and_is_granted_once(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a"), namespace.session("b")
    held = first.ask("app")
    number = second.ask("app")
    again = [Want(1, APP, requests=[second.asked[number].row])]
    second.sync(wants=again)
    assert namespace.line("app") == [("b", number)]
    first.release(held)
    assert second.sync(wants=again).grants == (Grant(2, 1, APP),)
    assert second.granted == 2
    assert namespace.holders("app") == [("b", number)]
    assert namespace.line("app") == []


def test_an_ask_whose_limits_changed_stands_under_the_new_ones_only(namespace: Namespace):
    namespace.set("app", 1)
    namespace.set("queue:q", 1)
    first, second = namespace.session("a"), namespace.session("b")
    first.ask("app")
    first.ask("queue:q")
    number = second.ask("app")
    second.sync(asks=[Ask(number, ("queue:q",))])
    assert namespace.line("app") == []
    assert namespace.line("queue:q") == [("b", number)]


def test_a_set_whose_claims_change_stands_under_the_new_ones_only(namespace: Namespace):
    namespace.set("app", 0)
    namespace.set("queue:q", 0)
    session = namespace.session("a")
    number = session.ask("app")
    session.sync(wants=[Want(1, (Claim("queue:q", 2),), requests=[session.asked[number].row])])
    assert namespace.line("app") == []
    assert namespace.line("queue:q") == [("a", number)]
    assert namespace.look().wants["a:1"]["c"] == [["queue:q", 2]]


# -- What is told of wants -------------------------------------------------------------------------------


def rows(*numbers: int) -> list[Row]:
    """As many requests that come now."""
    return [Ask(number, ("app",)).row for number in numbers]


def tell(session: Session, skip: int, kept: int, *more: int, **how: object) -> Synced:
    """Have a session tell its one want: what it skips and keeps of it, and what comes after."""
    return session.store.sync(session.prepare(wants=[Want(1, APP, skip, kept, rows(*more))], **how))


@pytest.fixture
def waiting(namespace: Namespace) -> Session:
    """A session of which four requests wait."""
    namespace.set("app", 0)
    session = namespace.session("a")
    assert tell(session, 0, 0, 1, 2, 3, 4).status == "ok"
    return session


@pytest.mark.parametrize(
    ("skip", "kept", "more", "left"),
    [
        (0, 4, [], [1, 2, 3, 4]),
        (1, 3, [], [2, 3, 4]),
        (0, 3, [5], [1, 2, 3, 5]),
        (2, 1, [5, 6], [3, 5, 6]),
        (4, 0, [5], [5]),
        (0, 0, [], []),
    ],
)
def test_a_want_says_how_many_are_gone_how_many_stay_and_who_comes_after(
    namespace: Namespace, waiting: Session, skip: int, kept: int, more: list[int], left: list[int]
):
    tell(waiting, skip, kept, *more)
    assert namespace.line("app") == [("a", number) for number in left]


def test_those_that_are_kept_keep_their_arrival(namespace: Namespace, waiting: Session):
    other = namespace.session("b")
    other.ask("app")
    tell(waiting, 0, 2, 5)
    tell(waiting, 1, 2)
    assert namespace.line("app") == [("a", 2), ("b", 1), ("a", 5)]


def test_a_want_whose_first_is_gone_stands_where_the_next_belongs(namespace: Namespace, waiting: Session):
    other = namespace.session("b")
    number = other.ask("app")
    tell(waiting, 0, 2, 5)
    tell(waiting, 2, 1)
    assert namespace.line("app") == [("b", number), ("a", 5)]
    namespace.set("app", 1)
    assert namespace.holders("app") == [("b", number)]
    namespace.set("app", 2)
    assert namespace.holders("app") == [("a", 5), ("b", number)]


def test_one_that_is_told_anew_under_its_id_keeps_its_arrival_too(namespace: Namespace, waiting: Session):
    other = namespace.session("b")
    other.ask("app")
    tell(waiting, 0, 0, 2, 5)
    assert namespace.line("app") == [("a", 2), ("b", 1), ("a", 5)]


@pytest.mark.parametrize(
    ("kept", "more", "holders", "left"),
    [(4, [5], [1, 2], [3, 4, 5]), (3, [], [1, 2], [3]), (1, [5, 6], [1, 2], [6]), (0, [], [1, 2], [])],
)
def test_of_those_that_are_kept_the_ones_granted_meanwhile_are_taken_off(
    namespace: Namespace, waiting: Session, kept: int, more: list[int], holders: list[int], left: list[int]
):
    namespace.set("app", 2)
    reply = tell(waiting, 0, kept, *more, granted=1)  # it has not heard of the grants
    assert numbers(reply) == [2, 3]
    assert namespace.holders("app") == [("a", number) for number in holders]
    assert namespace.line("app") == [("a", number) for number in left]


def test_a_session_that_keeps_more_than_is_known_is_told_so_and_its_want_stays_as_it_is(
    namespace: Namespace, waiting: Session
):
    assert not tell(waiting, 0, 4).unclear
    assert tell(waiting, 1, 4, 9).unclear
    assert namespace.line("app") == [("a", number) for number in (1, 2, 3, 4)]
    assert not tell(waiting, 0, 0, 1, 2).unclear


def test_a_want_that_is_kept_where_none_is_known_is_unclear(namespace: Namespace):
    assert tell(namespace.session("a"), 0, 1, 5).unclear
    assert namespace.line("app") == []


def test_what_is_unclear_takes_nothing_away_by_a_statement_either(namespace: Namespace, waiting: Session):
    assert tell(waiting, 0, 9, full=True).unclear
    assert namespace.line("app") == [("a", number) for number in (1, 2, 3, 4)]


def test_a_sync_that_names_a_set_twice_is_refused_and_changes_nothing(namespace: Namespace, waiting: Session):
    before = namespace.look()
    with pytest.raises(StoreRefused):
        waiting.store.sync(waiting.prepare(wants=[Want(1, APP, 0, 4), Want(1, APP, 1, 3)]))
    assert namespace.look().wants == before.wants


def test_a_set_of_which_nobody_waits_any_more_is_forgotten(namespace: Namespace, waiting: Session):
    tell(waiting, 4, 0)
    assert namespace.look().wants == {}
    assert namespace.store.audit(repair=False) == ()


# -- Room ------------------------------------------------------------------------------------------------


def test_a_session_is_granted_no_more_than_it_has_room_for(namespace: Namespace):
    namespace.set("app", 5)
    session = namespace.session("a", slots=2)
    session.sync(asks=[Ask(number, ("app",)) for number in (1, 2, 3)])
    assert namespace.holders("app") == [("a", 1), ("a", 2)]
    assert namespace.line("app") == [("a", 3)]


def test_an_ask_without_room_is_told_that_there_is_a_unit(namespace: Namespace):
    namespace.set("app", 5)
    session = namespace.session("a", slots=0)
    assert session.sync(asks=[Ask(1, ("app",))]).offer
    namespace.set("app", 0)
    assert not session.sync().offer


def test_room_counts_the_grants_that_the_session_had_not_heard_of(namespace: Namespace):
    namespace.set("app", 9)
    session = namespace.session("a", slots=2)
    session.sync(asks=[Ask(1, ("app",)), Ask(2, ("app",))], granted=1)
    # It says "two free slots as of grant 1", but grants 2 and 3 were made: nothing is left.
    session.sync(asks=[Ask(3, ("app",))], granted=1, room=2)
    assert namespace.holders("app") == [("a", 1), ("a", 2)]
    assert namespace.room("a") == 0


def test_a_grant_that_was_withdrawn_before_its_session_heard_of_it_takes_no_room(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a"), namespace.session("b", slots=1)
    held = first.ask("app")
    number = second.ask("app")
    first.release(held)
    assert namespace.holders("app") == [("b", number)]
    second.release(number)  # the notice of its grant was lost
    for _ in range(3):
        second.state()
    assert namespace.room("b") == 1
    number = second.ask("app")
    assert namespace.holders("app") == [("b", number)]


def test_a_session_that_gets_room_is_granted_what_it_waits_for(namespace: Namespace):
    namespace.set("app", 5)
    session = namespace.session("a", slots=0)
    number = session.ask("app")
    session.slots = 1
    assert numbers(session.sync()) == [2]
    assert namespace.holders("app") == [("a", number)]


def test_a_session_that_lost_its_room_is_passed_over(namespace: Namespace):
    namespace.set("app", 1)
    first, second, third = (namespace.session(name) for name in "abc")
    held = first.ask("app")
    second.ask("app")
    third.ask("app")
    second.sync(room=0)
    first.release(held)
    assert namespace.holders("app") == [("c", 1)]
    assert namespace.line("app") == [("b", 1)]


# -- Statements ------------------------------------------------------------------------------------------


def test_a_statement_removes_what_it_does_not_name(namespace: Namespace):
    namespace.set("app", 3)
    session, other = namespace.session("a"), namespace.session("b")
    for _ in range(4):
        session.ask("app")
    waiter = other.ask("app")
    del session.holding[1], session.holding[2], session.asked[4]
    session.state()
    assert namespace.holders("app") == [("a", 3), ("b", waiter)]
    assert namespace.line("app") == []


def test_a_statement_gives_back_all_units_of_a_limit_that_it_does_not_name(namespace: Namespace):
    namespace.set("app", 1)
    session, other = namespace.session("a"), namespace.session("b")
    session.ask("app")
    waiter = other.ask("app")
    session.holding.clear()
    session.state()
    assert namespace.holders("app") == [("b", waiter)]


def test_a_statement_leaves_what_it_names_as_it_is(namespace: Namespace):
    namespace.set("app", 2)
    session = namespace.session("a")
    for _ in range(4):
        session.ask("app")
    for _ in range(3):
        session.state()
    assert namespace.holders("app") == [("a", 1), ("a", 2)]
    assert namespace.line("app") == [("a", 3), ("a", 4)]


def test_a_statement_never_removes_a_grant_it_could_not_know_of_and_that_is_sent_again(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a"), namespace.session("b")
    held = first.ask("app")
    second.ask("app")
    first.release(held)  # second isn't told
    states_nothing = {"full": True, "wants": [], "units": {}, "running": "[]"}
    assert second.sync(granted=1, **states_nothing).grants == (Grant(2, 1, APP),)
    assert namespace.holders("app") == [("b", 1)]
    assert second.sync(granted=1, **states_nothing).grants == (Grant(2, 1, APP),)
    assert namespace.holders("app") == [("b", 1)]
    assert second.sync(granted=2, **states_nothing).grants == ()
    assert namespace.holders("app") == []


def test_a_grant_is_sent_again_until_the_session_says_that_it_knows_it(namespace: Namespace):
    namespace.set("app", 1)
    session = namespace.session("a")
    session.ask("app")
    assert session.sync(granted=1, room=10).grants == (Grant(2, 1, APP),)
    assert session.sync(granted=2).grants == ()


def test_units_that_a_waiter_uses_without_a_grant_count_and_it_leaves_the_line(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a"), namespace.session("b")
    first.ask("app")
    number = second.ask("app")
    second.sync(held={number: ("app",)})
    assert namespace.units("app") == {"a": 1, "b": 1}
    assert namespace.line("app") == []
    second.state()
    assert namespace.holders("app") == [("a", 1), ("b", number)]


def test_units_that_are_stated_of_another_limit_move_to_that(namespace: Namespace):
    namespace.set("app", 1)
    namespace.set("queue:q", 1)
    first, second = namespace.session("a"), namespace.session("b")
    held = first.ask("app")
    waiter = second.ask("app")
    first.sync(held={held: ("queue:q",)})
    assert namespace.units("queue:q") == {"a": 1}
    assert namespace.holders("app") == [("b", waiter)]
    first.state()
    assert namespace.holders("queue:q") == [("a", held)]


def test_a_unit_that_passes_to_another_task_stays_held_and_a_statement_names_that_task(namespace: Namespace):
    namespace.set("app", 1)
    session = namespace.session("a")
    number = session.ask("app")
    del session.holding[number]
    session.sync(held={9: ("app",)})
    assert namespace.units("app") == {"a": 1}
    session.state()
    assert namespace.holders("app") == [("a", 9)]


def test_a_sync_changes_no_more_units_than_it_names(namespace: Namespace):
    namespace.set("app", 5)
    session = namespace.session("a", held={1: ("app", "queue:q"), 2: ("app",)})
    session.sync(units={"app": 3})
    assert (namespace.units("app"), namespace.units("queue:q")) == ({"a": 3}, {"a": 1})
    session.sync(units={"app": 0})
    assert (namespace.units("app"), namespace.units("queue:q")) == ({}, {"a": 1})


def test_units_are_told_as_of_a_grant_and_those_of_later_ones_are_added(namespace: Namespace):
    namespace.set("app", 3)
    session = namespace.session("a", held={7: ("app",)})
    session.sync(asks=[Ask(1, ("app",)), Ask(2, ("app",))])
    assert namespace.units("app") == {"a": 3}
    session.sync(granted=1, units={"app": 1})
    assert namespace.units("app") == {"a": 3}
    session.sync(granted=2, units={"app": 1})
    assert namespace.units("app") == {"a": 2}
    session.sync(granted=3, units={"app": 1})
    assert namespace.units("app") == {"a": 1}


def test_what_all_hold_is_the_sum_of_what_each_does(namespace: Namespace):
    first, second = namespace.session("a", held={1: ("app",)}), namespace.session("b")
    second.sync(asks=[Ask(number, ("app", "queue:q")) for number in (1, 2)])
    assert namespace.look().held == {"app": 3, "queue:q": 2}
    first.release(1)
    second.release(1)
    assert namespace.look().held == {"app": 1, "queue:q": 1}
    namespace.store.close_session("b")
    assert namespace.look().held == {}


# -- What runs, for people -------------------------------------------------------------------------------


def test_a_granted_task_is_shown_until_it_is_told_to_have_ended(namespace: Namespace):
    namespace.set("app", 3)
    session = namespace.session("a")
    session.sync(asks=[Ask(number, ("app",)) for number in (1, 2)])
    assert namespace.look().shown["app"] == [("a", 1), ("a", 2)]
    session.sync(ended=[1])
    assert namespace.look().shown["app"] == [("a", 2)]
    session.sync(ended=[2], units={"app": 2})  # the units stay for others
    assert namespace.look().shown == {}
    assert namespace.units("app") == {"a": 2}


def test_a_task_of_the_last_statement_is_shown_until_it_is_told_to_be_over(namespace: Namespace):
    session = namespace.session("a", held={1: ("app",), 2: ("app",), 11: ("app",), 111: ("app",)})
    session.state()
    assert namespace.look().shown["app"] == [("a", 1), ("a", 2), ("a", 11), ("a", 111)]
    session.sync(ended=[2])
    session.sync(ended=[11])
    assert namespace.look().shown["app"] == [("a", 1), ("a", 111)]
    assert [holder.task_id for holder in namespace.store.holders("app", 10)] == ["id-1", "id-111"]
    session.state()
    assert namespace.look().shown["app"] == [("a", 1), ("a", 111)]
    assert not namespace.raw.hexists(namespace.keys.key("session"), "a:over"), "it would grow for ever"


def test_a_statement_that_says_nothing_of_what_runs_leaves_what_was_said_before(namespace: Namespace):
    session = namespace.session("a", held={1: ("app",), 2: ("app",)})
    session.state()
    session.sync(full=True, running=None)
    assert namespace.look().shown["app"] == [("a", 1), ("a", 2)]
    session.sync(ended=[1])
    session.sync(full=True, running=None)
    assert namespace.look().shown["app"] == [("a", 2)]


def test_a_grant_that_the_session_can_not_know_of_does_not_end(namespace: Namespace):
    namespace.set("app", 2)
    session = namespace.session("a")
    session.ask("app")
    assert numbers(session.store.sync(replace(session.prepare(granted=1, room=10), ended=[2]))) == [2]
    assert namespace.look().shown["app"] == [("a", 1)]


# -- Numbers, leases, epochs -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
def test_a_sync_that_is_not_newer_than_the_last_is_stale_and_changes_nothing(namespace: Namespace, number):
    namespace.set("app", 2)
    session = namespace.session("a")
    session.ask("app")
    session.ask("app")
    reply = session.sync(number=number, ended=[1, 2], asks=[Ask(7, ("app",))], full=True, room=0)
    assert reply.status == "stale"
    assert namespace.holders("app") == [("a", 1), ("a", 2)]
    assert namespace.line("app") == []
    assert namespace.room("a") == 8


def test_a_closed_session_is_told_so_and_frees_nothing_of_others(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a"), namespace.session("b")
    number = first.ask("app")
    second.ask("app")
    namespace.store.close_session("a")
    assert first.sync(ended=[number], asks=[Ask(2, ("app",))], full=True).status == "closed"
    assert namespace.holders("app") == [("b", 1)]
    assert namespace.line("app") == []
    assert namespace.live() == ["b"]


def test_a_session_of_another_epoch_is_told_that_it_is_closed(namespace: Namespace):
    session = namespace.session("a")
    session.epoch = "other"
    assert session.sync().status == "closed"


def test_the_permits_of_a_session_whose_lease_ran_out_go_on_with_whoever_comes_next(namespace: Namespace):
    namespace.set("app", 1)
    dead, second = namespace.session("a"), namespace.session("b")
    dead.ask("app")
    number = second.ask("app")
    for _ in range(2):
        namespace.elapse(INTERVAL)
        second.sync()
    assert namespace.holders("app") == [("a", 1)]
    namespace.step_wall_clock(INTERVAL)
    assert numbers(second.sync()) == [2]
    assert namespace.holders("app") == [("b", number)]
    assert dead.sync().status == "closed"
    assert namespace.live() == ["b"]


def test_every_sync_renews_the_lease(namespace: Namespace):
    session = namespace.session("a")
    for _ in range(6):
        namespace.step_wall_clock(INTERVAL)
        assert session.sync().status == "ok"


def test_a_sync_tells_when_the_next_lease_of_another_session_ends(namespace: Namespace):
    session = namespace.session("a")
    assert session.sync().expires is None
    namespace.session("b")
    namespace.elapse(INTERVAL)
    expires = session.sync().expires
    assert expires is not None
    assert TIMEOUT - INTERVAL - 1 < expires <= TIMEOUT - INTERVAL


@pytest.mark.parametrize("seconds", [3600, 86400 * 365])
def test_a_stall_or_a_step_forward_of_the_clock_takes_one_interval_of_each_lease_at_most(namespace: Namespace, seconds):
    session, other = namespace.session("a"), namespace.session("b")
    before = namespace.clock()
    namespace.step_wall_clock(seconds)
    assert session.sync().status == "ok"
    assert namespace.clock() - before == INTERVAL * 1000
    assert other.sync().status == "ok"


def test_a_step_back_of_the_clock_ends_no_lease_and_never_turns_the_lease_clock_back(namespace: Namespace):
    session, other = namespace.session("a"), namespace.session("b")
    before = namespace.clock()
    namespace.step_wall_clock(-3600)
    assert session.sync().status == "ok"
    assert namespace.clock() == before
    namespace.step_wall_clock(INTERVAL)  # and it goes on from there
    assert other.sync().status == "ok"
    assert namespace.clock() - before >= INTERVAL * 1000


def test_leases_pass_in_real_time_while_somebody_calls(namespace: Namespace):
    dead = namespace.session("a", interval=0.1, timeout=0.3)
    live = namespace.session("b", interval=0.1, timeout=0.3)
    before = live.sync().expires
    assert before is not None
    ends = namespace.clock() + 1000
    while namespace.clock() < ends:
        assert live.sync().status == "ok"
    assert dead.sync().status == "closed"


# -- Notices and what a session is told ------------------------------------------------------------------


def test_a_grant_is_published_to_the_session_that_gets_it_and_to_no_other(namespace: Namespace):
    namespace.set("app", 1)
    first, second, third = (namespace.session(name).listen() for name in "abc")
    held = first.ask("app")
    second.ask("app")
    third.ask("app")
    for session in (first, second, third):
        session.hear()
    first.release(held)
    assert [notice.grants for notice in second.hear()] == [(Grant(2, 1, APP),)]
    assert first.hear() == third.hear() == []


def test_a_holder_is_told_when_another_session_begins_to_wait(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a").listen(), namespace.session("b").listen()
    first.ask("app")
    assert first.hear() == []
    second.ask("app")
    second.ask("app")
    assert [notice.contended for notice in first.hear()] == [{"app": 0}]
    assert second.hear() == []


def test_a_holder_is_told_twice_at_most_however_many_sessions_wait(namespace: Namespace):
    namespace.set("app", 1)
    first = namespace.session("a").listen()
    first.ask("app")
    for name in "bcdefg":
        namespace.session(name).ask("app")
    assert 1 <= len(first.hear()) <= 2


def test_the_one_session_that_waits_is_told_when_another_joins_it(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a").listen(), namespace.session("b")
    first.ask("app")
    first.ask("app")
    assert first.hear() == []
    second.ask("app")
    assert [notice.contended for notice in first.hear()] == [{"app": 1}]


def test_a_holder_is_not_told_that_it_waits_itself(namespace: Namespace):
    namespace.set("app", 1)
    session = namespace.session("a").listen()
    session.ask("app")
    session.ask("app")
    assert session.hear() == []
    assert session.sync(interests=["app"]).contended == {}


def test_a_sync_tells_of_contended_limits_with_the_streak_at_the_head_of_the_line(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a"), namespace.session("b")
    first.ask("app")
    first.ask("app")
    first.ask("app")
    second.ask("app")
    assert first.sync(interests=["app"]).contended == {"app": 2}
    assert second.sync(interests=["app"]).contended == {"app": 0}
    second.release(1)
    assert first.sync(interests=["app"]).contended == {}


def test_the_streak_ends_with_the_first_request_of_another_session(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a"), namespace.session("b")
    first.ask("app")
    first.sync(asks=[Ask(number, ("app",), age) for number, age in ((2, 9.0), (3, 7.0), (4, 3.0))])
    second.ask("app", age=5.0)
    assert first.sync(interests=["app"]).contended == {"app": 2}


def test_a_waiter_without_room_is_offered_the_unit_by_a_notice(namespace: Namespace):
    namespace.set("app", 1)
    first, second = namespace.session("a"), namespace.session("b", slots=0).listen()
    held = first.ask("app")
    second.ask("app")
    assert second.hear() == []
    first.release(held)
    assert [notice.offer for notice in second.hear()] == [True]
    assert namespace.holders("app") == []
    assert namespace.line("app") == [("b", 1)]


def test_a_change_of_the_table_is_told_to_every_session_with_its_version(namespace: Namespace):
    first, second = namespace.session("a").listen(), namespace.session("b").listen()
    namespace.set("app", 4)
    told = [notice.version for notice in [*first.hear(), *second.hear()]]
    reply = first.sync()
    assert told == [reply.version] * 2
    assert first.table == {"app": 4}


# -- Redis away ------------------------------------------------------------------------------------------


def test_a_server_that_died_is_unavailable_to_every_call(namespace: Namespace):
    with redis_server() as server:
        other = Namespace(server.url)
        try:
            session = other.session("a")
            server.process.kill()
            server.process.wait()
            for call in (session.sync, other.store.status, other.store.ticket, other.store.server_info):
                with pytest.raises(StoreUnavailable):
                    call()
            with pytest.raises(StoreUnavailable):
                other.store.close_session("a")
            with pytest.raises(StoreUnavailable):
                other.set("app", 1)
            with pytest.raises(StoreUnavailable):
                session.listen()
        finally:
            other.close()


def test_a_server_that_hangs_is_unavailable_within_the_bound_of_a_call(namespace: Namespace):
    with redis_server() as server:
        store = SessionStore(server.url, "gconc", call_timeout=0.2)
        try:
            store.status()
            os.kill(server.process.pid, signal.SIGSTOP)
            with pytest.raises(StoreUnavailable):
                store.status()
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
            store.close()


def test_a_reply_that_is_an_error_of_redis_is_unavailable(namespace: Namespace):
    namespace.raw.set(namespace.keys.key("meta"), "not a hash")
    with pytest.raises(StoreUnavailable):
        namespace.store.status()
