"""audit.lua: what doesn't fit together is found, and removed if wished; what fits is never touched."""

from __future__ import annotations

import pytest

from .namespace import Namespace


def fill(namespace: Namespace) -> None:
    """Sessions with units, waiters, one that was set aside, and a request for which units are held back."""
    for limit in ("app", "pool:a", "pool:b"):
        namespace.set(limit, 1)
    one, other, full = namespace.session("a"), namespace.session("b"), namespace.session("c", slots=0)
    held = [one.ask(limit) for limit in ("pool:a", "pool:b")]
    other.ask("pool:a", "pool:b")
    for limit in ("pool:a", "pool:b"):  # it misses its turn in one line, then in the other
        one.release(held.pop(0))
        held.append(one.ask(limit))
    one.release(held.pop(0))
    held.append(one.ask("app"))
    full.ask("app")
    other.ask("app")
    other.ask("app")
    one.release(held.pop())
    for name in ("units", "held", "holders", "grants", "wants", "roll", "waiters", "turns", "aside", "reserved"):
        assert namespace.raw.exists(namespace.keys.key(name)), name


def dump(namespace: Namespace) -> dict[str, object]:
    """Every key but bookkeeping."""
    return namespace.left_behind()


def test_a_namespace_that_is_well_has_no_findings_and_a_repair_changes_nothing(namespace: Namespace):
    fill(namespace)
    assert namespace.store.audit(repair=False) == ()
    before = dump(namespace)
    assert namespace.store.audit(repair=True) == ()
    assert dump(namespace) == before


def test_an_empty_redis_has_no_findings(namespace: Namespace):
    namespace.raw.flushall()
    assert namespace.store.audit(repair=True) == ()


UNLISTED = '{"c":[["app",1]],"r":[["0000000000000001","id","task"]],"at":"app","k":0}'

GHOST = b"app\x1f0000000000000001\x1fghost:1"


@pytest.mark.parametrize(
    ("key", "member", "finding"),
    [
        ("holders", b"app\x1fghost", "a session is listed as a holder, but holds nothing: app ghost"),
        ("holders", b"\x1fa\x1fqueue:x", "a session is listed as a holder, but holds nothing:  a queue:x"),
        ("waiters", GHOST, "a position in line belongs to no request: app 0000000000000001 ghost:1"),
        ("turns", GHOST, "a position in line belongs to no request"),
        ("aside", b"ghost\x1f" + GHOST, "a position in line belongs to no request"),
        ("reserved", GHOST, "a permit is reserved for no request"),
        ("roll", b"ghost:1", "the list of waiting requests has some that don't exist: ghost:1"),
        ("grants", b"ghost:000000000002:[]", "a grant is kept for a session that has ended"),
    ],
)
def test_a_member_that_belongs_to_nothing_is_found_and_removed(
    namespace: Namespace, key: str, member: bytes, finding: str
):
    fill(namespace)
    before = dump(namespace)
    namespace.raw.zadd(namespace.keys.key(key), {member: 0})
    (found,) = namespace.store.audit(repair=False)
    assert found.startswith(finding)
    assert dump(namespace) != before
    assert namespace.store.audit(repair=True) == (found,)
    assert namespace.store.audit(repair=False) == ()
    assert dump(namespace) == before


@pytest.mark.parametrize(
    ("key", "field", "value", "finding"),
    [
        ("units", "app\x1fghost", 2, "permits are held by no live session: app ghost"),
        ("units", "pool:x\x1fa", "many", "permits are held by no live session: pool:x a"),
        ("held", "app", 7, "more or fewer permits are counted than sessions hold: app"),
        ("held", "pool:x", 1, "more or fewer permits are counted than sessions hold: pool:x"),
        ("wants", "a:77", "no JSON", "waiting requests belong to no live session, or are unreadable: a:77"),
        (
            "wants",
            "a:77",
            '{"c":[["app",1]],"k":0}',
            "waiting requests belong to no live session, or are unreadable: a:77",
        ),
        ("wants", "a:77", UNLISTED, "waiting requests belong to no live session, or are unreadable: a:77"),
        ("session", "ghost:info", "{}", "session ghost has ended, but some of its fields are left"),
        ("running", "ghost", "1 []", "session ghost has ended, but some of its fields are left"),
    ],
)
def test_a_field_that_belongs_to_nothing_or_is_wrong_is_found_and_put_right(
    namespace: Namespace, key: str, field: str, value: object, finding: str
):
    fill(namespace)
    before = dump(namespace)
    namespace.raw.hset(namespace.keys.key(key), field, value)
    assert namespace.store.audit(repair=False) == (finding,)
    assert namespace.store.audit(repair=True) == (finding,)
    assert namespace.store.audit(repair=False) == ()
    assert dump(namespace) == before


def test_units_of_no_live_session_are_found_and_go_to_who_waits(namespace: Namespace):
    namespace.set("app", 1)
    namespace.session("a").ask("app")
    session = namespace.session("b")
    waiting = session.ask("app")
    namespace.raw.zrem(namespace.keys.key("sessions"), "a")  # no script of ours leaves its units behind
    assert namespace.units("app") == {"a": 1}
    found = namespace.store.audit(repair=False)
    assert "permits are held by no live session: app a" in found
    assert "session a has ended, but some of its fields are left" in found
    namespace.store.audit(repair=True)
    assert namespace.holders("app") == [("b", waiting)]
    assert namespace.store.audit(repair=False) == ()


def test_where_fewer_units_are_held_than_was_counted_a_repair_grants_the_others(namespace: Namespace):
    namespace.set("app", 2)
    first, second = namespace.session("a"), namespace.session("b")
    first.ask("app")
    namespace.raw.hset(namespace.keys.key("held"), "app", 2)
    waiting = second.ask("app")
    assert namespace.line("app") == [("b", waiting)]
    namespace.store.audit(repair=True)
    assert namespace.holders("app") == [("a", 1), ("b", waiting)]
    assert namespace.look().held == {"app": 2}


def test_a_repair_counts_what_a_session_had_that_runs_out_with_the_same_call(namespace: Namespace):
    namespace.set("app", 2)
    dead, second, third = (namespace.session(name) for name in "abc")
    for session in (dead, second):
        session.ask("app")
    waiting = [third.ask("app"), third.ask("app")]
    namespace.raw.hset(namespace.keys.key("meta"), "epoch_began", 1)
    namespace.raw.zadd(namespace.keys.key("sessions"), {"a": 1})
    namespace.raw.hset(namespace.keys.key("held"), "app", 1)
    namespace.store.audit(repair=True)
    assert namespace.holders("app") == [("b", 1), ("c", waiting[0])]
    assert namespace.look().held == {"app": 2}
