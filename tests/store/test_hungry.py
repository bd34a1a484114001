"""sync.lua: sessions that would read more of a queue whose limit is full, and whose messages wait at the broker."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_gconc.limits.claims import Claim
from celery_gconc.protocol.messages import Row, Want

from .namespace import TIMEOUT, Namespace, Session

EMAILS = "queue:emails"


@pytest.fixture
def emails(namespace: Namespace) -> Namespace:
    """A namespace in which four messages of a queue may be worked on at once."""
    namespace.set(EMAILS, 4)
    return namespace


def hungry(session: Session, wanted: int, limit: str = EMAILS, **rarely: object) -> int:
    """Have a session say that it would read so many more; return how many units it has by then."""
    assert session.sync(hungry={limit: wanted}, **rarely).status == "ok"
    return session.spare.get(limit, 0)


def catch_up(*sessions: Session) -> list[int]:
    """How many units these have, once they have heard of their grants."""
    for session in sessions:
        session.sync()
    return [session.spare.get(EMAILS, 0) for session in sessions]


def test_free_units_go_to_a_hungry_session_at_once(emails: Namespace):
    reader = emails.session("reader", slots=8)
    assert hungry(reader, 3) == 3
    assert reader.sync(hungry={EMAILS: 0}).grants == ()
    assert emails.units(EMAILS) == {"reader": 3}


def test_of_a_limit_that_is_taken_away_nobody_gets_any(emails: Namespace):
    holder, reader = emails.session("holder", slots=8), emails.session("reader", slots=8)
    hungry(holder, 4)
    hungry(reader, 3)
    emails.set(EMAILS, None)
    reader.sync()
    assert reader.spare == {}


def test_it_gets_no_more_than_it_has_room_for(emails: Namespace):
    reader = emails.session("reader", slots=2)
    assert hungry(reader, 8, room=2) == 2


def test_with_a_unit_of_the_queue_comes_one_of_the_app(emails: Namespace):
    emails.set("app", 2)
    reader = emails.session("reader", slots=8)
    assert hungry(reader, 3) == 3
    assert reader.spare == {EMAILS: 3, "app": 2}, "as many as there are: what is read waits for the others"


def test_units_go_to_who_has_fewest_and_among_those_to_who_waits_longest(emails: Namespace):
    holder = emails.session("holder", slots=8)
    assert hungry(holder, 4) == 4
    first, second, third = (emails.session(name, slots=8) for name in ("c", "b", "a"))
    assert [hungry(one, 2) for one in (first, second, third)] == [0, 0, 0]
    for left in (3, 2, 1, 0):
        holder.spare[EMAILS] = left
        holder.sync()
    assert catch_up(first, second, third) == [2, 1, 1]


def test_one_without_room_is_passed_over_until_it_has_some(emails: Namespace):
    holder = emails.session("holder", slots=8)
    hungry(holder, 4)
    full, idle = emails.session("full", slots=8), emails.session("idle", slots=8)
    hungry(full, 2, room=0)
    hungry(idle, 1)
    holder.spare[EMAILS] = 2
    holder.sync()
    full.sync(room=0)
    assert (full.spare, idle.sync().status, idle.spare) == ({}, "ok", {EMAILS: 1})
    full.sync(room=1)
    assert full.spare == {EMAILS: 1}


def test_requests_come_before_hungry_sessions(emails: Namespace):
    holder = emails.session("holder", slots=8)
    hungry(holder, 4)
    reader, asker = emails.session("reader", slots=8), emails.session("asker", slots=8)
    hungry(reader, 1)
    asker.ask(EMAILS)
    holder.spare[EMAILS] = 3
    holder.sync()
    asker.sync()
    reader.sync()
    assert (asker.holding, reader.spare) == ({1: (EMAILS,)}, {})


@pytest.mark.parametrize(("most", "held", "keeps"), [(4, 4, 2), (4, 3, 2), (4, 2, 1), (4, 1, 1), (9, 9, 5), (9, 1, 3)])
def test_who_has_two_more_than_a_hungry_one_keeps_half_of_them(namespace: Namespace, most: int, held: int, keeps: int):
    namespace.set(EMAILS, most)
    holder, rest = namespace.session("holder", slots=99), namespace.session("rest", slots=99)
    assert hungry(holder, held) == held
    if held < most:
        assert hungry(rest, most - held) == most - held
    hungry(namespace.session("newcomer", slots=8), 8)
    reply = holder.sync(interests=[EMAILS])
    assert (reply.contended, reply.shares) == ({}, {EMAILS: keeps})


def test_holders_hear_of_the_first_that_is_hungry(emails: Namespace):
    holder, other = (emails.session(name, slots=8).listen() for name in ("holder", "other"))
    hungry(holder, 3)
    hungry(other, 1)
    holder.hear()
    hungry(emails.session("newcomer", slots=8), 2)
    assert [(notice.shares, notice.contended) for notice in holder.hear()] == [({EMAILS: 2}, {})]
    assert [(notice.shares, notice.contended) for notice in other.hear()] == [({EMAILS: 1}, {})]


def test_each_that_joins_makes_the_shares_of_the_others_smaller_at_once(namespace: Namespace):
    namespace.set(EMAILS, 12)
    holder = namespace.session("holder", slots=99).listen()
    hungry(holder, 12)
    for number in range(3):
        hungry(namespace.session(f"newcomer-{number}", slots=8), 8)
        assert [notice.shares for notice in holder.hear()] == [{EMAILS: 6}], "half of what is between them"


def test_nobody_keeps_a_share_where_nobody_is_hungry_any_more(emails: Namespace):
    holder, reader = emails.session("holder", slots=8), emails.session("reader", slots=8)
    hungry(holder, 4)
    hungry(reader, 1)
    assert holder.sync(interests=[EMAILS]).shares
    hungry(reader, 0)
    assert not holder.sync(interests=[EMAILS]).shares
    assert holder.beat() is not None, "so its heartbeats are short again"


@pytest.mark.parametrize("may_go_back", [True, False])
def test_for_a_request_that_may_go_back_units_in_use_stay_where_they_are(emails: Namespace, may_go_back: bool):
    emails.set(EMAILS, 1)
    holder, asker = emails.session("holder", slots=8), emails.session("asker", slots=8)
    hungry(holder, 1)
    want = Want(1, (Claim(EMAILS),), requests=[Row()], queue_limit=EMAILS if may_go_back else None)
    assert asker.sync(wants=[want]).stands == ((1, EMAILS),)
    reply = holder.sync(interests=[EMAILS])
    assert (reply.contended, reply.shares) == (({}, {EMAILS: 1}) if may_go_back else ({EMAILS: 0}, {}))
    asker.sync(wants=[Want(1, (Claim(EMAILS),), kept=1)])
    assert holder.sync(interests=[EMAILS]).contended == {EMAILS: 0}, "it may not go back any more"


def test_a_request_is_told_in_which_line_it_stands_as_long_as_it_does(emails: Namespace):
    emails.set("app", 0)
    asker = emails.session("asker", slots=8)
    want = Want(1, (Claim(EMAILS), Claim("app")), requests=[Row()])
    assert asker.sync(wants=[want]).stands == ((1, "app"),)
    emails.set("app", 1)
    assert asker.sync(wants=[]).stands == ()
    assert emails.units("app") == {"asker": 1}


@pytest.mark.parametrize("end", ["closes", "dies", "states nothing"])
def test_a_session_that_ends_is_hungry_no_more(emails: Namespace, end: str):
    holder, reader = emails.session("holder", slots=8), emails.session("reader", slots=8)
    hungry(holder, 4)
    hungry(reader, 1)
    if end == "closes":
        reader.store.close_session(reader.name)
    elif end == "dies":
        emails.elapse(2 * TIMEOUT)
        return
    else:
        reader.state()
    assert not holder.sync(interests=[EMAILS]).shares
    assert emails.raw.exists(emails.keys.key("hungry")) == 0
    assert emails.store.audit(repair=False) == ()


def test_audit_takes_away_what_no_session_has_said(emails: Namespace):
    hungry(emails.session("holder", slots=8), 4)
    reader = emails.session("reader", slots=8)
    hungry(reader, 1)
    assert emails.store.audit(repair=False) == ()
    key, before = emails.keys.key("hungry"), emails.left_behind()
    emails.raw.zadd(key, {f"{EMAILS}\x1f000000000000\x1f0000000000000001\x1fghost": 0, "junk": 0})
    emails.raw.zadd(key, {f"\x1freader\x1f{EMAILS}\x1f000000000003\x1f0000000000000001\x1f1": 0})
    assert len(emails.store.audit(repair=True)) == 3
    assert emails.left_behind() == before


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_units_come_to_rest_each_session_with_its_share(redis_url: str, data: st.DataObject):
    """Sessions that always have something to read come and go; each gives one back as a task of it ends."""
    most, count = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 6))
    namespace = Namespace(redis_url)
    try:
        namespace.raw.flushall()
        namespace.store.close_session(namespace.session("first").name)
        namespace.reopen()
        namespace.set(EMAILS, most)
        sessions = [namespace.session(f"s{number}", slots=16) for number in range(count)]
        shares: dict[Session, int | None] = {}
        for session in sessions:
            session.sync(hungry={EMAILS: 16})
        for turn in range(60):
            before = namespace.units(EMAILS)
            for session in data.draw(st.permutations(sessions)) if turn < 4 else sessions:
                has, keeps = session.spare.get(EMAILS, 0), shares.get(session)
                if keeps is not None and has > keeps:
                    session.spare[EMAILS] = has - 1
                wanted = 16 - session.spare.get(EMAILS, 0)
                shares[session] = session.sync(hungry={EMAILS: wanted}, interests=[EMAILS]).shares.get(EMAILS)
            if namespace.units(EMAILS) == before and turn > 1:
                break
        units = [namespace.units(EMAILS).get(session.name, 0) for session in sessions]
        assert sum(units) == most
        assert max(units) - min(units) <= 1
        assert turn < 59, "they come to rest"
        assert namespace.store.audit(repair=False) == ()
    finally:
        namespace.close()
