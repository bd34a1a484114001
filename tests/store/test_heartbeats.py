"""Short heartbeats: they renew a lease where Redis and the session agree and nothing is due, or change nothing at all.

What a heartbeat leaves to the statement is told by "more", here None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .namespace import INTERVAL, TIMEOUT, Ask, Namespace, Session

CONFIG = {"app": 4, "queue:a": 2}


def begin(namespace: Namespace, name: str, **how: Any) -> Session:
    return namespace.session(name, config=CONFIG, **how)


def dump(namespace: Namespace) -> dict[bytes, Any]:
    """Every key with its content."""
    raw = namespace.raw
    hashes = [key for key in raw.keys("*") if raw.type(key) == b"hash"]
    return {key: raw.hgetall(key) if key in hashes else raw.dump(key) for key in raw.keys("*")}


@pytest.fixture
def session(namespace: Namespace) -> Session:
    """One that holds a unit of two limits, has said so, and has nothing more to say."""
    session = begin(namespace, "one")
    session.ask("app", "queue:a")
    assert session.state().status == "ok"
    assert session.state().status == "ok", "nothing is left of what its opening began"
    return session


def test_a_heartbeat_renews_the_lease_and_all_else_stays(namespace: Namespace, session: Session):
    before = namespace.look()
    for _ in range(3):
        namespace.step_wall_clock(INTERVAL)
        assert session.beat() is not None
        assert session.lease - namespace.clock() == TIMEOUT * 1000
    after = namespace.look()
    assert after.leases["one"] > before.leases["one"]
    assert (after.units, after.held, after.rooms, after.wants) == (
        before.units,
        before.held,
        before.rooms,
        before.wants,
    )
    namespace.elapse(TIMEOUT * 2)
    assert namespace.live() == [], "without one, the lease ends"


def test_syncs_go_on_from_a_heartbeat_and_heartbeats_from_a_sync(namespace: Namespace, session: Session):
    assert session.beat() is not None
    number = session.ask("app")
    assert ("one", number) in namespace.holders("app")
    session.release(number)
    assert session.beat() is not None


def test_it_tells_the_longest_lease_of_any_session(namespace: Namespace, session: Session):
    begin(namespace, "slow", interval=20.0, timeout=60.0).state()
    assert session.beat() is not None
    assert session.longest == 60.0


def test_it_says_what_runs_which_units_are_idle_and_how_much_room_there_is(namespace: Namespace, session: Session):
    session.ask("app")
    running = '[[[["app",1]],"id-9","proj.task",1500]]'
    assert namespace.raw.zcard(namespace.keys.key("grants")) == 1
    assert session.beat(running=running, idle={"app": 1, "queue:a": 1}, room=7, growth=2) is not None
    (status,) = namespace.store.status("app")
    assert status.idle == 1
    assert [holder.task_id for holder in namespace.store.holders("app", 10)] == ["id-9"]
    assert namespace.room("one") == 7
    assert session.beat(idle={}, room=7) is not None
    (status,) = namespace.store.status("app")
    assert status.idle == 0
    assert not namespace.raw.hexists(namespace.keys.key("session"), "one:idle")
    assert not namespace.raw.zcard(namespace.keys.key("grants")), "what runs is in the statement of it"
    assert session.beat(room=6) is not None
    assert namespace.room("one") == 6


def is_old(namespace: Namespace, session: Session) -> dict[str, Any]:
    session.sync()
    return {"number": session.syncs}


def overtaken(namespace: Namespace, session: Session) -> dict[str, Any]:
    session.store.sync(session.prepare())  # whose answer was lost
    return {}


def has_a_grant_to_hear_of(namespace: Namespace, session: Session) -> dict[str, Any]:
    session.sync(asks=[Ask(90, ("app",))])
    return {"granted": session.granted - 1}


def forgotten(namespace: Namespace, session: Session) -> dict[str, Any]:
    before = namespace.raw.hget(namespace.keys.key("session"), "one:sync")
    session.sync()
    namespace.raw.hset(namespace.keys.key("session"), "one:sync", before)
    return {}


def of_another_epoch(namespace: Namespace, session: Session) -> dict[str, Any]:
    return {"epoch": "another:1"}


def closed(namespace: Namespace, session: Session) -> dict[str, Any]:
    namespace.store.close_session("one")
    return {}


def awaited_by_another(namespace: Namespace, session: Session) -> dict[str, Any]:
    other = begin(namespace, "other")
    other.ask("queue:a")
    other.ask("queue:a")
    return {}


def offered(namespace: Namespace, session: Session) -> dict[str, Any]:
    session.slots = 1
    session.sync(asks=[Ask(91, ("app",))])
    session.asked.clear()
    session._told_wants.clear()
    return {}


def set_anew(namespace: Namespace, session: Session) -> dict[str, Any]:
    namespace.set("app", 3)
    return {}


def set_for_a_time_that_is_over(namespace: Namespace, session: Session) -> dict[str, Any]:
    namespace.store.set("app", 3, by="test", duration=60.0)
    session.catch_up()
    session.state()
    assert session.beat() is not None
    namespace.raw.hset(namespace.keys.key("meta"), "next_override_end", 1)
    return {}


def another_has_ended(namespace: Namespace, session: Session) -> dict[str, Any]:
    other = begin(namespace, "other")
    other.ask("app")
    for _ in range(int(TIMEOUT / INTERVAL)):
        namespace.step_wall_clock(INTERVAL * 0.99)
        assert session.beat() is not None
    namespace.step_wall_clock(INTERVAL)
    return {}


def above_the_max(namespace: Namespace, session: Session) -> dict[str, Any]:
    begin(namespace, "other", held={80: ("queue:a",), 81: ("queue:a",)})
    return {}


def on_another_server(namespace: Namespace, session: Session) -> dict[str, Any]:
    namespace.raw.hset(namespace.keys.key("meta"), "server_id", "another")
    return {}


@pytest.mark.parametrize(
    "comes",
    [
        is_old,
        overtaken,
        has_a_grant_to_hear_of,
        forgotten,
        of_another_epoch,
        closed,
        awaited_by_another,
        offered,
        set_anew,
        set_for_a_time_that_is_over,
        another_has_ended,
        above_the_max,
        on_another_server,
    ],
)
def test_it_leaves_all_else_to_the_statement_and_changes_nothing(
    namespace: Namespace, session: Session, comes: Callable[[Namespace, Session], dict[str, Any]]
):
    assert session.beat() is not None
    how = comes(namespace, session)
    before = dump(namespace)
    assert session.beat(**how) is None
    assert dump(namespace) == before


@pytest.mark.parametrize("key", ["todo", "settling", "gone", "unused"])
def test_it_leaves_what_scripts_have_put_off_to_the_statement(namespace: Namespace, session: Session, key: str):
    namespace.raw.zadd(namespace.keys.key(key), {"some": 1})
    assert session.beat() is None


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [
        ("meta", "closed_until", 10**15),
        ("meta", "served_to", "app"),
        ("meta", "all_settle", 1),
        ("meta", "untold", 3),
        ("session", "one:aside", 1),
    ],
)
def test_it_leaves_what_goes_on_to_the_statement(
    namespace: Namespace, session: Session, key: str, field: str, value: str | int
):
    namespace.raw.hset(namespace.keys.key(key), field, value)
    assert session.beat() is None


def test_a_limit_above_its_max_has_all_make_statements_and_so_each_hears_of_it(namespace: Namespace, session: Session):
    begin(namespace, "other", held={80: ("queue:a",), 81: ("queue:a",)})
    assert session.beat() is None
    assert session.state(interests=["queue:a"]).contended == {"queue:a": 0}


def test_heartbeats_are_short_again_when_that_is_over(namespace: Namespace, session: Session):
    other = begin(namespace, "other", held={80: ("queue:a",), 81: ("queue:a",)})
    other.release(80)
    for _ in range(int(TIMEOUT / INTERVAL) + 1):
        namespace.step_wall_clock(INTERVAL)
        assert session.state().status == other.state().status == "ok"
    assert session.beat() is not None
