"""audit.lua: what doesn't fit together is found, and removed if wished; what fits is never touched."""

from __future__ import annotations

import pytest

from .namespace import Namespace


def fill(namespace: Namespace) -> None:
    """Sessions with holders, waiters, and a request for which permits are held back."""
    namespace.set("app", 2)
    namespace.set("queue:q", 1)
    one, other = namespace.session("a"), namespace.session("b")
    one.ask("app", "queue:q")
    other.ask("app")
    one.ask("app")
    waiter = other.ask("app", "queue:q")
    for _ in range(4):  # it misses its turns: in one line, then in the other
        other.release(other.ask("queue:q")) if waiter in other.holding else one.state()


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


@pytest.mark.parametrize(
    ("key", "member", "finding"),
    [
        ("holders", b"app\x1fghost:1", "a permit is held by no task: app ghost:1"),
        ("waiters", b"app\x1f0000000000000001\x1fghost:1", "a position in line belongs to no request"),
        ("reserved", b"app\x1f0000000000000001\x1fghost:1", "a permit is reserved for no request"),
        ("roll", b"ghost:000000000001:1", "the list of requests has one that doesn't exist"),
    ],
)
def test_what_belongs_to_no_request_is_found_and_removed(namespace: Namespace, key: str, member: bytes, finding: str):
    fill(namespace)
    before = dump(namespace)
    namespace.raw.zadd(namespace.keys.key(key), {member: 0})
    (found,) = namespace.store.audit(repair=False)
    assert found.startswith(finding)
    assert dump(namespace) != before
    assert namespace.store.audit(repair=True) == (found,)
    assert namespace.store.audit(repair=False) == ()
    assert dump(namespace)["holders"] == before["holders"]
    assert dump(namespace)["waiters"] == before["waiters"]


def test_a_holder_without_a_live_session_is_found_and_its_place_goes_to_who_waits(namespace: Namespace):
    namespace.set("app", 1)
    namespace.session("a").ask("app")
    session = namespace.session("b")
    waiting = session.ask("app")
    namespace.raw.zrem(namespace.keys.key("sessions"), "a")  # no script of ours leaves its requests behind
    assert namespace.holders("app") == [("a", 1)]
    found = namespace.store.audit(repair=False)
    assert any("request a:1 belongs to no live session" in finding for finding in found)
    assert any("session a has ended" in finding for finding in found)
    namespace.store.audit(repair=True)
    assert namespace.holders("app") == [("b", waiting)]
    assert namespace.store.audit(repair=False) == ()


def test_a_record_that_cannot_be_read_is_found_and_removed(namespace: Namespace):
    fill(namespace)
    namespace.raw.hset(namespace.keys.key("requests"), "a:77", "no JSON")
    assert any("a:77" in finding for finding in namespace.store.audit(repair=True))
    assert namespace.store.audit(repair=False) == ()
