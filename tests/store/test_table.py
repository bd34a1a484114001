"""The limit table reaches sessions as changes, in bounded pieces; each script tells some of a new version."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_gconc.errors import StoreUnavailable
from celery_gconc.protocol.changes import Changed, Changes
from celery_gconc.protocol.scripts import PIECE, RECEIVERS, WORK
from celery_gconc.protocol.session_store import SessionStore

from .namespace import INTERVAL, TIMEOUT, Ask, Namespace, Session

#: More than two pieces.
MANY = 2 * PIECE + PIECE // 4

#: Counts, beside its reply, how many commands a script has run.
COUNTING = """
local real, count, redis = redis, 0, setmetatable({}, { __index = redis })
function redis.call(...)
  count = count + 1
  return real.call(...)
end
local function main()
%s
end
local reply = main()
real.call('HSET', KEYS[1], 'commands', count)
return reply
"""


def configured(count: int = MANY) -> dict[str, int]:
    return {f"queue:q{number:04}": number % 7 for number in range(count)}


def opened(namespace: Namespace, name: str = "b", **how: Any) -> Session:
    """A session that has heard of no limit yet."""
    return namespace.session(name, states=False, **how)


def of(limits: Iterator[Changed] | tuple[Changed, ...]) -> dict[str, int | None]:
    return {row.limit: row.max for row in limits}


def told(session: Session) -> Changes:
    """What its next sync brings."""
    changes = session.sync().changes
    assert changes is not None
    return changes


def gone(namespace: Namespace) -> list[str]:
    """Limits for which nothing holds any more, and that Redis still knows by name."""
    return [limit.decode() for limit in namespace.raw.zrange(namespace.keys.key("gone"), 0, -1)]


# -- Pieces ----------------------------------------------------------------------------------------------


def test_a_new_session_is_told_all_limits_in_pieces_and_goes_by_them_when_they_are_whole(namespace: Namespace):
    namespace.session("a", config=configured())
    session = opened(namespace)
    pieces = []
    while session.version < 0:
        assert session.table == {}
        pieces.append(told(session))
    assert [len(piece.rows) for piece in pieces] == [PIECE, PIECE, MANY - 2 * PIECE]
    assert [piece.before for piece in pieces] == [-1, pieces[0].version, pieces[1].version]
    assert session.table == configured()
    assert session.sync().changes is None


def test_where_no_limit_holds_a_new_session_is_told_so(namespace: Namespace):
    session = opened(namespace)
    assert told(session) == Changes(-1, session.opened.version)
    assert session.version == session.opened.version


def test_a_piece_that_was_lost_on_the_way_is_told_again(namespace: Namespace):
    namespace.session("a", config=configured())
    session = opened(namespace)
    lost = session.store.sync(session.prepare()).changes
    assert told(session) == lost


def test_a_session_that_knows_a_version_is_told_what_has_changed_since(namespace: Namespace):
    session = namespace.session("a", config=configured())
    namespace.set("queue:q0001", 90)
    namespace.set("queue:new", 91)
    namespace.set("queue:q0001", 92)
    before = session.version
    changes = told(session)
    assert of(changes.rows) == {"queue:new": 91, "queue:q0001": 92}
    assert (changes.before, changes.version) == (before, session.version)
    assert ('"by":"test"' in changes.rows[0].override) is True
    assert session.table == {**configured(), "queue:new": 91, "queue:q0001": 92}


def test_many_changes_come_in_pieces_each_of_which_holds(namespace: Namespace):
    session = namespace.session("a")
    namespace.session("b", config=configured())
    session.sync()
    assert session.table == dict(list(configured().items())[:PIECE]) or len(session.table) == PIECE
    assert session.version > 0, "its own table with some of the changes: what it lacks settles"
    namespace.set("queue:q0000", 8)
    session.catch_up()
    assert session.table == {**configured(), "queue:q0000": 8}


def test_a_change_that_comes_while_pieces_are_under_way_is_in_a_later_one(namespace: Namespace):
    namespace.session("a", config=configured())
    session = opened(namespace)
    first = of(told(session).rows)
    limit = next(iter(first))
    namespace.set(limit, 99)
    namespace.set("queue:new", 98)
    session.catch_up()
    assert session.table == {**configured(), limit: 99, "queue:new": 98}


def test_a_limit_that_is_lifted_while_pieces_are_under_way_is_not_in_the_table(namespace: Namespace):
    other = namespace.session("a", config=configured())
    session = opened(namespace)
    limit = next(iter(of(told(session).rows)))
    namespace.set(limit, None)
    for _ in range(4):  # all others know
        other.sync()
    session.catch_up()
    assert limit not in session.table
    assert len(session.table) == MANY - 1


def test_what_operators_have_set_comes_with_the_limits(namespace: Namespace):
    namespace.set("app", None)
    namespace.store.pause("queue:q", True, by="me")
    session = namespace.session("a")
    assert session.table == {"queue:q": 0}
    assert sorted(session.overrides) == ["app", "queue:q"]
    namespace.store.reset("app", by="me")
    session.sync()
    assert sorted(session.overrides) == ["queue:q"]


def test_a_limit_settles_until_a_session_that_is_told_in_pieces_has_stated_what_it_runs_by_all(namespace: Namespace):
    other = namespace.session("a", config=configured())
    session = opened(namespace)
    namespace.set("queue:new", 1)
    while session.version < 0:
        session.sync()
        other.sync()
        assert namespace.is_settling("queue:new")
    session.sync()
    assert not namespace.is_settling("queue:new")


def test_a_version_that_redis_does_not_have_is_told_anew(namespace: Namespace):
    """Its data went back in time, and nobody has noticed."""
    session = namespace.session("a", config=configured())
    namespace.set("queue:lost", 1)
    session.sync()
    assert "queue:lost" in session.table
    for key, member in (("versions", "queue:lost"), ("max", "queue:lost"), ("overrides", "queue:lost")):
        namespace.raw.execute_command("ZREM" if key == "versions" else "HDEL", namespace.keys.key(key), member)
    namespace.raw.hincrby(namespace.keys.key("meta"), "version", -1)
    assert told(session).before == -1
    session.catch_up()
    assert session.table == configured()


def test_only_what_ends_of_all_that_was_set_is_a_change(namespace: Namespace):
    session = namespace.session("a")
    namespace.set("queue:for-good", 1)
    for limit, seconds in (("queue:soon", 60), ("queue:later", 120), ("queue:last", 180)):
        namespace.store.set(limit, 1, by="test", duration=seconds)
    for limit, before in (("queue:soon", 60), ("queue:later", 60)):
        session.catch_up()
        key = namespace.keys.key("overrides")
        for name, text in namespace.raw.hgetall(key).items():  # as if it had been set so long ago
            override = json.loads(text)
            if ends := override["set"].get("ends"):
                override["set"]["ends"] = ends - before * 1000
                namespace.raw.hset(key, name, json.dumps(override))
                namespace.raw.zincrby(namespace.keys.key("ends"), -before * 1000, name)
        end = int(namespace.raw.hget(namespace.keys.key("meta"), "next_override_end"))
        namespace.raw.hset(namespace.keys.key("meta"), "next_override_end", end - before * 1000)
        assert of(told(session).rows) == {limit: None}


# -- Limits that are lifted ------------------------------------------------------------------------------


def test_a_session_that_was_away_for_long_hears_of_limits_that_were_lifted(namespace: Namespace):
    other, away = namespace.session("a"), namespace.session("b", timeout=300.0)
    namespace.set("app", 1)
    namespace.set("queue:q", 2)
    for session in (other, away):
        session.sync()
        session.sync()
    namespace.store.reset("app", by="test")
    for _ in range(3):
        namespace.step_wall_clock(INTERVAL)
        other.state()
    assert gone(namespace) == ["app"]
    assert of(told(away).rows) == {"app": None}
    assert away.table == {"queue:q": 2}
    assert gone(namespace) == ["app"], "it has yet to go by that"
    away.sync()
    assert gone(namespace) == []
    assert not namespace.raw.zscore(namespace.keys.key("versions"), "app")


def test_a_limit_that_is_lifted_and_set_again_is_told_as_it_is(namespace: Namespace):
    session = namespace.session("a")
    namespace.set("app", 1)
    namespace.store.reset("app", by="test")
    namespace.set("app", 2)
    assert gone(namespace) == []
    session.sync()
    session.sync()
    assert session.table == {"app": 2}
    assert namespace.raw.zscore(namespace.keys.key("versions"), "app")


def test_an_unlimited_override_and_one_that_ends_are_changes_too(namespace: Namespace):
    session = namespace.session("a", config={"app": 1})
    namespace.set("app", None)
    assert of(told(session).rows) == {"app": None}
    assert gone(namespace) == [], "something is set for it"
    namespace.store.reset("app", by="test")
    assert of(told(session).rows) == {"app": 1}


def test_limits_that_are_gone_are_forgotten_when_the_last_session_that_knew_them_has_ended(namespace: Namespace):
    namespace.session("a", config=configured())
    namespace.session("b")
    namespace.store.close_session("a")
    assert len(gone(namespace)) == MANY
    namespace.store.close_session("b")
    for _ in range(MANY // WORK + 1):
        namespace.call()
    assert namespace.left_behind() == {}


def test_a_session_that_opens_anew_has_no_limit_that_was_lifted_meanwhile(namespace: Namespace):
    session = namespace.session("a", config={"app": 1})
    namespace.set("queue:q", 2)
    session.sync()
    namespace.step_wall_clock(INTERVAL)
    namespace.elapse(TIMEOUT)
    namespace.store.reset("queue:q", by="test")
    namespace.call()
    assert gone(namespace) == [], "nobody lives who knew it"
    again = namespace.session("a2", config={"app": 1}, former=session.former)
    assert again.table == {"app": 1}


# -- Who is told -----------------------------------------------------------------------------------------


def with_constant(store: SessionStore, name: str, old: int, new: int) -> None:
    for script_name, script in store._scripts.items():
        text = script.text.replace(f"  {name} = {old},", f"  {name} = {new},")
        store._scripts[script_name] = store._client.register_script(text)


@pytest.fixture
def listeners(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """Sessions that listen to four channels, of which a script tells one; and no call goes on with what is left."""
    with_constant(namespace.store, "RECEIVERS", RECEIVERS, 1)
    monkeypatch.setattr(namespace.store, "_go_on", lambda *_: None)
    by_channel: dict[str, str] = {}
    for number in range(20):
        by_channel.setdefault(namespace.keys.table_channel(f"s{number}"), f"s{number}")
    sessions = [namespace.session(name) for name in list(by_channel.values())[:4]]
    while namespace.raw.hget(namespace.keys.key("meta"), "untold") not in (None, b"0"):
        namespace.call()
    return [session.listen() for session in sessions]


def versions(sessions: list[Session]) -> list[list[int | None]]:
    return [[notice.version for notice in session.hear()] for session in sessions]


def test_each_script_tells_some_sessions_of_a_new_version_until_all_are_told(namespace: Namespace, listeners):
    version = listeners[0].version + 1
    namespace.set("app", 1)
    count, heard = 1, [False] * 4
    while True:
        for index, found in enumerate(versions(listeners)):
            assert found in ([], [version])
            assert not (found and heard[index]), "each is told once"
            heard[index] = heard[index] or bool(found)
        assert sum(heard) <= count
        if all(heard):
            break
        namespace.call()
        count += 1
    assert count in (4, 5)
    namespace.call()
    namespace.call()
    assert versions(listeners) == [[]] * 4


def test_a_version_that_comes_while_sessions_are_told_of_another_is_told_to_all_with_both_changes(
    namespace: Namespace, listeners
):
    before = listeners[0].version
    namespace.set("app", 1)
    first = [session.hear() for session in listeners]
    assert sum(map(bool, first)) == 1
    namespace.set("queue:q", 2)
    for _ in range(5):
        namespace.call()
    for session, early in zip(listeners, first, strict=True):
        for notice in early:
            session.hear_of_table(notice.changes, notice.version)
        (notice,) = session.hear()
        assert (notice.version, notice.changes.before) == (before + 2, before)
        session.hear_of_table(notice.changes, notice.version)
        assert session.table == {"app": 1, "queue:q": 2}
        assert session.sync().changes is None


def test_sessions_are_all_told_however_fast_versions_follow_each_other(namespace: Namespace, listeners):
    heard = [0] * 4
    for number in range(12):
        namespace.set("app", number)
        heard = [count + len(found) for count, found in zip(heard, versions(listeners), strict=True)]
    assert min(heard) >= 2


def test_whoever_makes_a_change_has_all_sessions_told(namespace: Namespace, listeners, monkeypatch):
    monkeypatch.undo()
    namespace.set("app", 1)
    assert [len(session.hear()) for session in listeners] == [1] * 4
    assert namespace.raw.hget(namespace.keys.key("meta"), "untold") == b"0"


def test_a_change_that_is_made_is_made_though_redis_goes_away_before_all_are_told(
    namespace: Namespace, listeners, monkeypatch
):
    monkeypatch.undo()
    run, calls = namespace.store._run, []

    def once(name: str, asked: Any) -> Any:
        calls.append(name)
        if len(calls) > 1:
            raise StoreUnavailable("it is away")
        return run(name, asked)

    monkeypatch.setattr(namespace.store, "_run", once)
    assert namespace.store.set("app", 1, by="test").applied
    assert calls == ["change", "change"]


def test_a_change_that_goes_on_and_one_that_came_between_leave_the_last_value(namespace: Namespace, monkeypatch):
    reply = namespace.store._run
    asked: list[Any] = []
    monkeypatch.setattr(namespace.store, "_run", lambda name, what: (asked.append(what), reply(name, what))[1])
    namespace.session("a")
    namespace.store.set("app", 1, by="test")
    ticket = reply("ticket", {})["ticket"]
    namespace.store.set("app", 2, by="test")
    first = next(what for what in asked if "kind" in what)
    again = reply("change", {**first, "ticket": ticket})
    assert again["applied"] is False
    assert namespace.max("app") == 2


def test_a_notice_has_the_changes_and_over_how_long_to_spread_syncs(namespace: Namespace):
    sessions = [namespace.session(f"s{number}", config={"app": 1}) for number in range(20)]
    listener = sessions[0].listen()
    for session in sessions:
        session.sync()
    before = listener.version
    namespace.set("app", 3)
    (notice,) = listener.hear()
    assert notice.changes is not None
    assert (notice.changes.before, notice.changes.version, of(notice.changes.rows)) == (before, before + 1, {"app": 3})
    assert notice.spread == 0.01


def test_a_notice_of_more_changes_than_a_piece_has_none(namespace: Namespace):
    session = namespace.session("a").listen()
    namespace.session("b", config=configured())
    session.hear()
    session.catch_up()
    assert session.table == configured()
    namespace.store._run("close", {"session": "b"})
    assert [notice.changes for notice in session.hear()] == [None]
    namespace.store.close_session("b")
    session.catch_up()
    assert session.table == {}


def test_a_raise_that_is_more_than_a_script_grants_is_granted_when_the_call_returns(namespace: Namespace):
    namespace.set("app", 0)
    count = 2 * WORK + 1
    session = namespace.session("a", slots=2 * count)
    session.sync(asks=[Ask(number, ("app",)) for number in range(1, count + 1)])
    namespace.set("app", count)
    assert namespace.units("app") == {"a": count}
    assert not namespace.look().is_serving


# -- A new epoch -----------------------------------------------------------------------------------------


def test_with_a_new_epoch_all_limits_settle_without_a_word_on_each(namespace: Namespace):
    session = namespace.session("a", slots=10 * MANY, config=configured())
    for _ in range(4):
        session.sync()
    assert namespace.look().settling == set()
    namespace.raw.hset(namespace.keys.key("meta"), "server_id", "another")
    assert session.sync().status == "closed"
    assert namespace.raw.zcard(namespace.keys.key("settling")) == 0
    assert namespace.look().settling == set(configured())
    assert namespace.store.status("queue:q0001")["queue:q0001"].settling


def test_after_a_new_epoch_lines_are_served_some_with_each_call_once_all_have_stated_what_they_run(
    namespace: Namespace,
):
    limits = dict.fromkeys(configured(2 * WORK + 10), 1)
    first = namespace.session("a", slots=10 * MANY, config=limits, timeout=300.0)
    second = namespace.session("b", slots=10 * MANY, config=limits, timeout=300.0)
    for _ in range(4):
        first.sync()
        second.sync()
    namespace.raw.hset(namespace.keys.key("meta"), "server_id", "another")
    first.sync()
    namespace.reopen()
    first = namespace.session("a2", slots=10 * MANY, config=limits, former=first.former)
    first.sync(asks=[Ask(number, (limit,)) for number, limit in enumerate(limits, 1)])
    assert namespace.look().units == {}
    second = namespace.session("b2", slots=10 * MANY, config=limits, former=second.former, states=False)
    second.catch_up()
    assert namespace.look().units == {}
    counts = []
    while not counts or counts[-1] < len(limits):
        second.sync()
        counts.append(len(namespace.look().units))
    turns = WORK // 5
    assert counts == [*range(turns, len(limits), turns), len(limits)]
    assert namespace.look().settling == set()
    assert not namespace.look().is_serving


# -- Work ------------------------------------------------------------------------------------------------


@pytest.fixture
def commands(namespace: Namespace) -> Callable[[Callable[[], Any]], int]:
    """How many commands the last script of a call has run."""
    for name, script in namespace.store._scripts.items():
        namespace.store._scripts[name] = namespace.store._client.register_script(COUNTING % script.text)

    def count(call: Callable[[], Any]) -> int:
        call()
        return int(namespace.raw.hget(namespace.keys.key("meta"), "commands") or 0)

    return count


def test_no_call_does_more_with_many_limits_than_with_few(namespace: Namespace, commands):
    calls: dict[int, list[int]] = {}
    for size in (5, 4 * WORK):
        namespace.raw.flushall()
        holder = namespace.session("a", config=configured(size))
        while namespace.look().settling:
            holder.sync()
        session = opened(namespace)
        found = [commands(session.sync)]
        session.catch_up()
        session.sync()
        holder.sync()
        found.append(commands(lambda: namespace.set("queue:q0001", 7)))
        found.append(commands(holder.sync))
        found.append(commands(lambda: namespace.store.reset("queue:q0001", by="test")))
        holder.sync()
        namespace.raw.hset(namespace.keys.key("meta"), "server_id", "another")
        found.append(commands(holder.sync))
        calls[size] = found
    assert calls[5] == calls[4 * WORK]
