"""sync.lua: who takes a queue, and whether another session has room for what a session without room has of it."""

from __future__ import annotations

from celery_gconc.protocol.messages import Synced

from .namespace import TIMEOUT, Namespace, Session

HERE, THERE = "digest of one broker", "digest of another"


def takes(session: Session, *queues: str, source: str = HERE, room: int | None = None) -> Session:
    """Have a session say which queues it takes messages of."""
    assert session.sync(takes=queues, source=source, room=room).status == "ok"
    return session


def weak(session: Session, claims: int, *queues: str, source: str = HERE) -> Synced:
    """Have a session say that the turn of a set of claims came for which it has no room."""
    return session.sync(weak=[(claims, queues)], source=source, room=0)


def full_session(namespace: Namespace, name: str = "full") -> tuple[Session, int]:
    """A session that takes the queue and has no room, and the set of claims of a request that there is a unit for."""
    namespace.set("queue:emails", 1)
    session = namespace.session(name, slots=0)
    takes(session, "emails")
    session.ask("queue:emails")
    return session, session.set_of("queue:emails")


def test_a_full_session_is_told_of_one_that_takes_its_queue_and_has_room(namespace: Namespace):
    full, claims = full_session(namespace)
    takes(namespace.session("idle"), "emails", "other")
    assert weak(full, claims, "emails").elsewhere == {"emails"}


def test_a_session_alone_with_its_queue_is_told_of_none(namespace: Namespace):
    full, claims = full_session(namespace)
    takes(namespace.session("idle"), "other")
    takes(namespace.session("elsewhere"), "emails", source=THERE)
    assert weak(full, claims, "emails").elsewhere == frozenset()


def test_a_session_without_room_is_none_to_be_told_of_until_it_has_some_or_may_grow(namespace: Namespace):
    full, claims = full_session(namespace)
    busy = takes(namespace.session("busy", slots=0), "emails")
    assert not weak(full, claims, "emails").elsewhere
    busy.sync(growth=3)
    assert weak(full, claims, "emails").elsewhere
    busy.sync(growth=0)
    assert not weak(full, claims, "emails").elsewhere
    busy.slots = 1
    busy.sync()
    assert weak(full, claims, "emails").elsewhere


def test_a_request_whose_turn_has_not_come_stays_where_it_is(namespace: Namespace):
    full, claims = full_session(namespace)
    full.release(1)
    other = takes(namespace.session("other"), "emails")
    held = other.ask("queue:emails")
    full.ask("queue:emails")
    assert not weak(full, claims, "emails").elsewhere
    other.release(held)
    assert weak(full, claims, "emails").elsewhere == {"emails"}


def test_a_request_that_later_ones_have_overtaken_for_want_of_room_may_go_too(namespace: Namespace):
    full, claims = full_session(namespace)
    full.ask("queue:emails")
    other = takes(namespace.session("other"), "emails")
    other.ask("queue:emails")
    assert other.holding, "it came later, and has room"
    assert weak(full, claims, "emails").elsewhere == {"emails"}


def test_whoever_leaves_a_queue_alone_hears_whether_others_have_room(namespace: Namespace):
    full, _ = full_session(namespace)
    other = takes(namespace.session("other"), "emails")
    assert weak(full, 0, "emails").elsewhere == {"emails"}
    other.sync(room=0)
    assert not weak(full, 0, "emails").elsewhere


def test_queues_that_a_session_takes_no_more_and_sessions_that_have_ended_are_forgotten(namespace: Namespace):
    full, claims = full_session(namespace)
    other = takes(namespace.session("other"), "emails", "news")
    takes(other, "news")
    assert not weak(full, claims, "emails", "news").elsewhere - {"news"}
    takes(other, "emails")
    assert weak(full, claims, "emails", "news").elsewhere == {"emails"}
    namespace.store.close_session("other")
    assert not weak(full, claims, "emails").elsewhere
    namespace.store.close_session("full")
    assert not namespace.raw.exists(namespace.keys.key("takers"))
    assert not namespace.raw.exists(namespace.keys.key("session"))


def test_a_session_whose_lease_ran_out_takes_nothing(namespace: Namespace):
    full, claims = full_session(namespace)
    takes(namespace.session("dead"), "emails")
    for _ in range(4):
        namespace.elapse(TIMEOUT / 3)
        full.sync()
    assert not weak(full, claims, "emails").elsewhere


def test_among_many_that_are_full_the_one_with_room_is_found(namespace: Namespace):
    full, claims = full_session(namespace)
    for sid in range(40):
        takes(namespace.session(f"{sid:02x}", slots=0), "emails")
    takes(namespace.session("c0"), "emails")
    assert any(weak(full, claims, "emails").elsewhere for _ in range(50))


def test_an_audit_finds_a_taker_that_is_not_live_and_takes_it_away(namespace: Namespace):
    full_session(namespace)
    namespace.raw.zadd(namespace.keys.key("takers"), {"x\x1femails\x1fgone": 0})
    assert namespace.store.audit(repair=True) == (
        "a queue is marked as consumed by a session that has ended: x emails gone",
    )
    assert namespace.store.audit(repair=False) == ()
