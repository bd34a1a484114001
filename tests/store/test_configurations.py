"""configure.lua, core/configs.lua: Redis has each configuration once, gets it in pieces, and loses it in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from celery_gconc.errors import StoreRefused, StoreUnavailable
from celery_gconc.protocol.configurations import PIECE, digest_of, pieces_of
from celery_gconc.protocol.scripts import WORK

from .namespace import INTERVAL, TIMEOUT, US, Namespace, Session

#: What three scripts take away, and in how many pieces it comes.
MANY = {f"queue:q{number:03}": 5 for number in range(2 * WORK + WORK // 5)}
PIECES = len(list(pieces_of(MANY)))


def members(namespace: Namespace, name: str) -> list[str]:
    return [member.decode() for member in namespace.raw.zrange(namespace.keys.key(name), 0, -1)]


def values(namespace: Namespace) -> int:
    """How many values Redis has, of all configurations."""
    count = namespace.raw.zcard(namespace.keys.key("configured"))
    assert count % 2 == 0, "each is listed twice"
    return int(count) // 2


def send(namespace: Namespace, config: Mapping[str, int], piece: Mapping[str, int]) -> bool:
    """Send a piece of a configuration; return whether Redis has all of it."""
    told = {"digest": digest_of(config), "values": dict(piece), "timeout": int(TIMEOUT * 1000)}
    return bool(namespace.store._run("configure", told)["whole"])


def lose(namespace: Namespace, limits: list[str]) -> None:
    """Values of these are gone, as somebody deletes them by hand."""
    gone = [member for member in members(namespace, "configured") if set(member.split(US)) & set(limits)]
    namespace.raw.zrem(namespace.keys.key("configured"), *gone)
    namespace.raw.hdel(namespace.keys.key("max"), *limits)


@contextmanager
def watched(namespace: Namespace, after: Callable[[list[str]], None] = lambda called: None) -> Iterator[list[str]]:
    """The names of the scripts that are called; and *after* each, that is called with those until now."""
    run, called = namespace.store._run, []

    def watch(name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        reply = run(name, asked)
        called.append(name)
        after(called)
        return reply

    namespace.store._run = watch  # type: ignore[method-assign]
    try:
        yield called
    finally:
        namespace.store._run = run  # type: ignore[method-assign]


def all_hold(namespace: Namespace, config: Mapping[str, int]) -> bool:
    return namespace.look().maxima == dict(config) and namespace.store.audit(repair=False) == ()


# -- Sent once, in pieces --------------------------------------------------------------------------------


def test_a_configuration_is_sent_by_the_first_session_that_has_it_and_later_ones_send_its_digest(namespace: Namespace):
    with watched(namespace) as called:
        namespace.session("a", config={"app": 3, "queue:q": 2}, states=False)
        assert called == ["open", "configure", "open"]
        namespace.session("b", config={"queue:q": 2, "app": 3}, states=False)
        assert called[3:] == ["open"]
    assert values(namespace) == 2
    namespace.session("c", config={"app": 3, "queue:q": 1})
    assert values(namespace) == 4
    assert namespace.look().maxima == {"app": 3, "queue:q": 1}


def test_an_empty_configuration_is_never_sent(namespace: Namespace):
    with watched(namespace) as called:
        namespace.session("a", states=False)
    assert called == ["open"]


def test_a_large_configuration_comes_in_pieces_each_of_which_counts_and_no_script_takes_more(namespace: Namespace):
    counts = []
    with watched(namespace, after=lambda called: counts.append(len(namespace.look().maxima))) as called:
        namespace.session("a", config=MANY, states=False)
    assert called == ["open", *["configure"] * PIECES, "open"]
    assert counts == [*range(0, len(MANY), PIECE), len(MANY), len(MANY)]
    assert all_hold(namespace, MANY)


def test_a_piece_that_is_too_large_or_no_configuration_is_refused_and_changes_nothing(namespace: Namespace):
    namespace.session("a")
    before = namespace.left_behind()
    for digest, piece in [
        (digest_of(MANY), dict(list(MANY.items())[: PIECE + 1])),
        (digest_of(MANY), {"app": -1}),
        (digest_of(MANY), {"app\x1f": 1}),
        ("many", {"app": 1}),
        ("2-ab\x1f", {"app": 1}),
    ]:
        with pytest.raises(StoreRefused):
            namespace.store._run("configure", {"digest": digest, "values": piece, "timeout": 1000})
    assert namespace.left_behind() == before


def test_two_that_send_the_same_configuration_at_once_leave_it_there_once(namespace: Namespace):
    pieces = list(pieces_of(MANY))
    assert [send(namespace, MANY, piece) for piece in pieces for _ in range(2)][-3:] == [False, True, True]
    with watched(namespace) as called:
        for name in "ab":
            namespace.session(name, config=MANY, states=False)
    assert called == ["open", "open"]
    assert values(namespace) == len(MANY)
    assert all_hold(namespace, MANY)


def test_who_sends_what_another_has_sent_meanwhile_stops(namespace: Namespace):
    def another(called: list[str]) -> None:
        if called == ["open"]:
            for piece in pieces_of(MANY):
                send(namespace, MANY, piece)

    with watched(namespace, after=another) as called:
        namespace.session("a", config=MANY, states=False)
    assert called == ["open", *["configure"] * PIECES, "configure", "open"], "all but one are the other's"


# -- Until when values count -----------------------------------------------------------------------------


def test_what_a_sender_has_sent_counts_for_its_lease_and_then_no_more(namespace: Namespace):
    session = namespace.session("a", config={"app": 3}, interval=INTERVAL)
    send(namespace, {"app": 1, "queue:q": 1}, {"app": 1})
    numbers = [session.ask("app") for _ in range(2)]
    assert namespace.holders("app") == [("a", numbers[0])]
    assert 0 < session.sync().expires <= TIMEOUT, "who waits comes back then"
    namespace.elapse(TIMEOUT - INTERVAL)
    assert namespace.max("app") == 1
    session.sync()
    namespace.elapse(INTERVAL)
    assert namespace.max("app") == 3
    assert namespace.holders("app") == [("a", number) for number in numbers]
    assert all_hold(namespace, {"app": 3})
    assert namespace.raw.zcard(namespace.keys.key("unused")) == 0


def test_a_session_that_opens_in_time_keeps_what_was_sent_for_it(namespace: Namespace):
    namespace.session("a")
    send(namespace, {"app": 1}, {"app": 1})
    session = namespace.session("b", config={"app": 1})
    send(namespace, {"app": 1}, {"app": 1})  # of another one, late
    for _ in range(3):
        namespace.elapse(TIMEOUT / 2)
        session.sync()
    assert all_hold(namespace, {"app": 1})


def test_the_least_value_counts_and_the_next_one_when_its_last_session_ends(namespace: Namespace):
    for name, maximum in (("a", 3), ("b1", 1), ("b2", 1), ("c", 2)):
        namespace.session(name, config={"app": maximum})
    for name, maximum in (("b2", 1), ("b1", 2), ("c", 3), ("a", None)):
        namespace.store.close_session(name)
        assert namespace.max("app") == maximum
    assert namespace.left_behind() == {}


def test_a_session_that_takes_the_place_of_another_with_the_same_configuration_changes_no_limit(namespace: Namespace):
    session = namespace.session("a", config={"app": 3})
    version = session.version
    again = namespace.session("a2", config={"app": 3}, former=session.former)
    assert namespace.live() == ["a2"]
    assert again.version == version


def test_values_that_no_session_has_any_more_go_some_with_each_script_and_closing_ends_with_the_last(namespace):
    namespace.session("a", config=MANY)
    namespace.session("b", config={"app": 1})
    left = [values(namespace)]
    with watched(namespace, after=lambda called: left.append(values(namespace))) as called:
        namespace.store.close_session("a")
    assert called == ["close", "close", "close"]
    assert left[-1] == 1
    assert all(0 < before - after <= WORK for before, after in pairwise(left))
    assert all_hold(namespace, {"app": 1})


def test_many_configurations_that_no_session_has_go_some_with_each_script(namespace: Namespace):
    unused = namespace.keys.key("unused")
    namespace.session("a")
    namespace.raw.zadd(unused, {f"0-{number:x}": 1 for number in range(2 * WORK + 1)})
    counts = []
    for _ in range(3):
        namespace.call()
        counts.append(namespace.raw.zcard(unused))
    assert counts == [WORK + 1, 1, 0]


def test_a_waiting_session_comes_at_once_where_values_are_left_to_go(namespace: Namespace):
    session = namespace.session("a", config={"zz": 1})
    namespace.session("b", config={**MANY, "zz": 0})
    session.sync()
    number = session.ask("zz")
    namespace.store._run("close", {"session": "b"})
    while (reply := session.sync()).expires == 0:
        assert not reply.grants
    assert namespace.holders("zz") == [("a", number)]


def test_a_session_that_ends_twice_takes_nothing_from_another_with_the_same_configuration(namespace: Namespace):
    namespace.session("a", config={"app": 1})
    namespace.session("b", config={"app": 1})
    for _ in range(3):
        namespace.store.close_session("a")
    assert all_hold(namespace, {"app": 1})
    namespace.store.close_session("b")
    namespace.store.close_session("b")
    assert namespace.left_behind() == {}


# -- One goes while another comes ------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [1, 2])
def test_a_session_that_comes_while_its_configuration_goes_has_all_of_it(namespace: Namespace, calls: int):
    namespace.session("a", config=MANY)
    for _ in range(calls):
        namespace.store._run("close", {"session": "a"})
    assert 0 < values(namespace) < len(MANY)
    session = namespace.session("b", config=MANY)
    for _ in range(3):
        namespace.elapse(TIMEOUT / 2)
        session.sync()
    assert namespace.look().maxima == MANY
    assert values(namespace) == len(MANY)
    assert namespace.live() == ["b"]


def test_a_session_that_ends_leaves_its_configuration_to_one_that_is_sending_it(namespace: Namespace):
    namespace.session("a", config=MANY)
    pieces = list(pieces_of(MANY))
    send(namespace, MANY, pieces[0])
    namespace.store.close_session("a")
    assert values(namespace) == len(MANY)
    with watched(namespace) as called:
        namespace.session("b", config=MANY, states=False)
    assert called == ["open"]
    assert all_hold(namespace, MANY)


def test_the_last_session_may_end_between_any_two_pieces_of_the_next(namespace: Namespace):
    for when in range(1, PIECES + 3):
        name, config = f"a{when}", {**MANY, "app": when}
        namespace.session(name, config=config, states=False)

        def end(called: list[str], name: str = name, when: int = when) -> None:
            if len(called) == when:
                namespace.raw.hset(namespace.keys.key("meta"), "epoch_began", 1)
                namespace.raw.zadd(namespace.keys.key("sessions"), {name: -1})

        lose(namespace, [max(config)])  # so that the next one sends all of it
        with watched(namespace, after=end):
            namespace.session(f"b{when}", config=config, states=False)
        namespace.call()
        assert namespace.live() == [f"b{when}"]
        assert namespace.look().maxima == config
        namespace.store.close_session(f"b{when}")
        assert namespace.left_behind() == {}


# -- Lost data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [1, 2, 3, 4])
def test_where_all_data_is_lost_while_a_session_opens_it_has_all_values_in_the_end(namespace: Namespace, when: int):
    def lose_all(called: list[str]) -> None:
        if len(called) == when:
            namespace.raw.flushall()

    with watched(namespace, after=lose_all):
        session = namespace.session("a", config=MANY, states=False)
    assert session.opened.shut > 0, "others may live"
    assert all_hold(namespace, MANY)


def test_where_all_data_is_lost_sessions_bring_their_values_back_and_what_operators_set(namespace: Namespace):
    session = namespace.session("a", config=MANY)
    other = namespace.session("b", config={"app": 1})
    namespace.set("queue:q000", 9)
    namespace.set("app", None)
    for each in (session, other):
        each.sync()
    namespace.raw.flushall()
    namespace.session("b2", config={"app": 1}, former=other.former)
    again = namespace.session("a2", config=MANY, former=session.former)
    assert again.opened.lost
    assert namespace.look().maxima == {**MANY, "queue:q000": 9}


def test_what_operators_set_comes_back_where_all_is_lost_again_while_many_values_are_sent(namespace: Namespace):
    session = namespace.session("a")
    namespace.set("queue:q000", 9)
    session.sync()
    namespace.raw.flushall()

    def lose_all(called: list[str]) -> None:
        if called == ["open", "configure"]:
            namespace.raw.flushall()

    with watched(namespace, after=lose_all):
        namespace.session("b", config=MANY)
    namespace.session("a2", former=session.former)
    assert namespace.look().maxima == {**MANY, "queue:q000": 9}


def test_a_redis_that_loses_each_configuration_at_once_is_given_up(namespace: Namespace):
    def lose_all(called: list[str]) -> None:
        if called[-1] == "configure":
            namespace.raw.delete(namespace.keys.key("configured"))

    with watched(namespace, after=lose_all), pytest.raises(StoreUnavailable, match="lost this worker's limits 4 times"):
        namespace.session("a", config={"app": 1})


@pytest.mark.parametrize("lost", ["value", "field", "key"])
def test_a_statement_of_a_session_whose_configuration_is_not_whole_has_it_open_anew(namespace: Namespace, lost: str):
    session = namespace.session("a", config={"app": 1, "queue:q": 2})
    held = session.ask("app")
    session.sync()
    if lost == "value":
        lose(namespace, ["app"])
    elif lost == "field":
        namespace.raw.hdel(namespace.keys.key("session"), "a:config")
    else:
        namespace.raw.delete(namespace.keys.key("configured"))
        namespace.raw.delete(namespace.keys.key("max"))
    assert session.sync().status == "ok"
    assert session.state().status == "closed"
    assert namespace.holders("app") == [("a", held)], "what it holds counts until it is open anew"
    again = namespace.session("a2", config={"app": 1, "queue:q": 2}, held=session.holding, former=session.former)
    assert not again.opened.lapsed
    assert namespace.live() == ["a2"]
    assert namespace.look().maxima == {"app": 1, "queue:q": 2}
    assert namespace.holders("app") == [("a2", held)]
    assert again.state().status == "ok"


# -- What people see of it -------------------------------------------------------------------------------


def test_status_shows_with_what_each_session_is_configured(namespace: Namespace):
    configs: dict[str, dict[str, int]] = {"a": {"app": 2, "queue:q": 1}, "b": {"app": 2, "queue:q": 1}, "c": {}}
    for name, config in configs.items():
        namespace.session(name, config=config)
    namespace.set("queue:q", None)
    status = namespace.store.status()
    assert {session.session: session.configured for session in status.sessions} == configs
    assert {limit.limit: (limit.max, limit.configured) for limit in status.limits} == {
        "app": (2, 2),
        "queue:q": (None, 1),
    }


def _fill(namespace: Namespace) -> Session:
    session = namespace.session("a", config={"app": 2})
    namespace.session("b", config={"app": 2})
    namespace.session("c", config={"app": 5, "queue:q": 1})
    return session


ODD = "1-abc"
ONCE = "a configured value is listed once, not twice"
OTHERS = "the sessions with a configuration are not those that say so"


@pytest.mark.parametrize(
    ("key", "wrong", "finding"),
    [
        ("configured", f"app{US}0000000001{US}{ODD}", f"{ONCE}: app 0000000001 {ODD}"),
        ("configured", f"{US}{ODD}{US}app{US}0000000001", f"{ONCE}:  {ODD} app 0000000001"),
        ("configured", "nonsense", f"{ONCE}: nonsense"),
        ("uses", f"{ODD}{US}a", f"{OTHERS}: {ODD} a"),
        ("uses", f"{ODD}{US}ghost", f"{OTHERS}: {ODD} ghost"),
        ("uses", "nonsense", f"{OTHERS}: nonsense"),
    ],
)  # fmt: skip
def test_what_fits_to_nothing_is_found_and_removed(namespace: Namespace, key: str, wrong: str, finding: str):
    _fill(namespace)
    before = namespace.left_behind()
    namespace.raw.zadd(namespace.keys.key(key), {wrong: 0})
    for repair in (False, True):
        assert namespace.store.audit(repair=repair) == (finding,)
    assert namespace.store.audit(repair=False) == ()
    assert namespace.left_behind() == before


def test_values_of_a_configuration_that_no_session_has_are_found_and_go(namespace: Namespace):
    _fill(namespace)
    before = namespace.left_behind()
    send(namespace, {"app": 1}, {"app": 1})
    namespace.raw.delete(namespace.keys.key("unused"))
    found = (f"values of a configuration count that no session has: {digest_of({'app': 1})}",)
    assert namespace.store.audit(repair=False) == found
    assert namespace.max("app") == 1
    assert namespace.store.audit(repair=True) == found
    assert namespace.store.audit(repair=False) == ()
    assert namespace.left_behind() == before


def test_what_is_no_value_stops_nobody_and_goes_with_its_configuration(namespace: Namespace):
    session = _fill(namespace)
    member = f"{US}{digest_of({'app': 2})}{US}nonsense"
    namespace.raw.zadd(namespace.keys.key("configured"), {member: 0})
    assert {one.session: one.configured for one in namespace.store.status().sessions}["a"] == {"app": 2}
    assert session.state().status == "ok"
    for name in "abc":
        namespace.store.close_session(name)
    assert namespace.left_behind() == {}


def test_a_session_that_its_configuration_does_not_know_is_found_and_added(namespace: Namespace):
    _fill(namespace)
    before = namespace.left_behind()
    namespace.raw.delete(namespace.keys.key("uses"))
    for repair in (False, True):
        found = namespace.store.audit(repair=repair)
        assert len(found) == 3
        assert all(text.startswith(OTHERS) for text in found)
    assert namespace.store.audit(repair=False) == ()
    assert namespace.left_behind() == before


def test_a_configuration_of_a_session_that_vanished_is_found_and_goes(namespace: Namespace):
    _fill(namespace)
    namespace.raw.zrem(namespace.keys.key("sessions"), "c")
    assert any(found.startswith(OTHERS) for found in namespace.store.audit(repair=True))
    assert namespace.store.audit(repair=False) == ()
    assert namespace.look().maxima == {"app": 2}


def test_a_limit_whose_least_value_is_listed_once_goes_by_the_others_after_a_repair(namespace: Namespace):
    session = _fill(namespace)
    for member in members(namespace, "configured"):
        if member.startswith(US) and member.endswith(f"app{US}0000000002"):
            namespace.raw.zrem(namespace.keys.key("configured"), member)
    assert namespace.max("app") == 2
    namespace.store.audit(repair=True)
    assert namespace.max("app") == 5
    assert session.state().status == "closed", "and it brings its value back"
    namespace.session("a2", config={"app": 2}, former=session.former)
    assert namespace.max("app") == 2
