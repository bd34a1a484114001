"""What a ledger does with the limit table as Redis tells it: in pieces, by answers and by notices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_gconc.clock import now
from celery_gconc.limits.claims import claims_on
from celery_gconc.protocol.changes import Changed, Changes
from celery_gconc.protocol.messages import Notice, Synced
from celery_gconc.worker.ledger.ledger import Ledger
from tests.kit.tables import leading, whole

from .test_ledger import Clock, Harness, Request, clock  # noqa: F401

LIMIT = "queue:emails"


def changed(
    harness: Harness, version: int = 2, *, spread: float = 0.0, before: int | None = None, **limits: int | None
):
    """A notice of a new version, with what has changed."""
    known = harness.ledger.table.version if before is None else before
    rows = tuple(Changed(limit, maximum) for limit, maximum in limits.items())
    return Notice(version=version, changes=Changes(known, version, rows), spread=spread)


def answer(harness: Harness, changes: Changes, newest: int) -> None:
    """Redis answers a sync with these."""
    harness.ledger.apply(Synced("ok", version=newest, changes=changes), harness.ends, harness.ends)


# -- Pieces ----------------------------------------------------------------------------------------------


def test_until_all_limits_are_told_those_of_before_hold_and_nothing_starts_under_them():
    harness = Harness(slots=4, **{LIMIT: 2, "queue:gone": 1})
    (runs,) = harness.start()
    waits = harness.wait()
    harness.ledger.holdings()
    harness.ledger.opened("s2", 7, harness.ends)
    pieces = whole({"queue:other": 1, LIMIT: 5}, 7)
    answer(harness, replace(pieces, version=6, rows=pieces.rows[:1]), 7)
    assert not harness.ledger.is_table_whole
    assert dict(harness.ledger.table) == {LIMIT: 2, "queue:gone": 1}
    assert not harness.ledger.start_uncovered(Request()), "a limit of before covers it"
    assert harness.ledger.next() is None
    sent = harness.collect()
    assert (sent.version, sent.known, sent.room, sent.units) == (-1, 6, 0, {LIMIT: 1})
    answer(harness, Changes(6, 7, pieces.rows[1:]), 7)
    assert harness.ledger.is_table_whole
    assert dict(harness.ledger.table) == {"queue:other": 1, LIMIT: 5}, "what was lifted is gone"
    assert harness.ledger.due_at is not None
    sent = harness.collect()
    assert (sent.version, sent.known, sent.room) == (7, None, 3)
    assert runs in harness.ledger.running()
    assert waits in harness.ledger.waiting()


def test_a_limit_that_was_lifted_while_a_session_was_opened_frees_who_waits_when_the_table_is_whole():
    harness = Harness(slots=2)
    waits = harness.wait()
    harness.ledger.holdings()
    harness.ledger.opened("s2", 3, harness.ends)
    assert harness.ledger.uncovered() == []
    answer(harness, whole({}, 3), 3)
    assert harness.ledger.uncovered() == [waits]


def test_the_first_table_of_a_worker_is_its_own_until_redis_has_told_all():
    harness = Harness(slots=2)
    ledger: Ledger[Request] = Ledger({LIMIT: 2}, pool=harness.pool, bell=harness.bell)
    ledger.opened("s", 0, now() + 60)
    assert not ledger.start(Request())
    assert not ledger.start_uncovered(Request())
    assert (ledger.table.version, ledger.is_table_whole) == (-1, False)


def test_where_redis_begins_anew_nothing_starts_until_all_is_told_again():
    harness = Harness(slots=2)
    (runs,) = harness.start()
    harness.ledger.ended(runs)
    piece = replace(whole({LIMIT: 9}, 4), version=3)
    answer(harness, piece, 4)
    assert not harness.ledger.start(Request())
    assert (harness.ledger.table.version, dict(harness.ledger.table)) == (-1, {LIMIT: 2})
    answer(harness, Changes(3, 4), 4)
    assert dict(harness.ledger.table) == {LIMIT: 9}
    assert harness.ledger.start(Request())


def test_what_operators_had_set_is_known_by_the_last_table_that_was_whole():
    harness = Harness()
    rows = (Changed(LIMIT, 2, '{"max": 2}'),)
    answer(harness, Changes(1, 5, rows, 50), 5)
    assert harness.ledger.known_overrides() == (5, 50, {LIMIT: '{"max": 2}'})
    harness.ledger.opened("s2", 9, harness.ends)
    answer(harness, Changes(-1, 8, (), 80), 9)
    assert harness.ledger.known_overrides() == (5, 50, {LIMIT: '{"max": 2}'}), "it may be lost there"
    answer(harness, Changes(8, 9, (), 90), 9)
    assert harness.ledger.known_overrides() == (9, 90, {})


def test_changes_that_do_not_follow_on_what_is_known_are_asked_for_again():
    harness = Harness()
    harness.collect()
    answer(harness, Changes(5, 9, (Changed("app", 1),)), 9)
    assert harness.ledger.table.version == 1
    assert harness.ledger.due_at is not None
    assert not harness.ledger.start(Request())


# -- Notices ---------------------------------------------------------------------------------------------


def test_a_notice_of_what_has_changed_since_our_version_holds_at_once():
    harness = Harness(slots=3)
    harness.ledger.notice(changed(harness, app=4))
    assert dict(harness.ledger.table) == {LIMIT: 2, "app": 4}
    assert harness.ledger.table.version == 2
    assert harness.collect().version == 2


def test_a_notice_that_leads_on_from_an_earlier_version_than_ours_holds_as_well():
    harness = Harness()
    harness.ledger.notice(changed(harness, 4, app=4))
    harness.ledger.notice(changed(harness, 6, before=1, app=4, **{LIMIT: None}))
    assert (harness.ledger.table.version, dict(harness.ledger.table)) == (6, {"app": 4})


@pytest.mark.parametrize("notice", [Notice(version=3), Notice(version=3, changes=Changes(2, 3, (Changed(LIMIT, 9),)))])
def test_a_notice_of_a_version_that_we_can_not_make_stops_starts_until_redis_has_told_more(notice: Notice):
    harness = Harness()
    (runs,) = harness.start()
    harness.ledger.ended(runs)
    harness.collect()
    harness.ledger.notice(notice)
    assert harness.ledger.table.version == 1
    assert not harness.ledger.start(Request())
    assert harness.ledger.due_at is not None
    answer(harness, leading({}, {LIMIT: 9}, 1, 3), 3)
    assert harness.ledger.start(Request())


def test_a_notice_of_a_version_that_is_known_is_no_news():
    harness = Harness()
    harness.ledger.notice(changed(harness, app=4))
    harness.collect()
    harness.ledger.apply(Synced("ok", version=2), harness.ends, harness.ends)
    harness.ledger.notice(changed(harness, before=1, app=9))
    assert harness.ledger.table["app"] == 4
    assert harness.ledger.due_at is None


def test_a_max_that_was_lowered_is_obeyed_on_hearing_so():
    harness = Harness(slots=3)
    first, second = harness.start(2)
    harness.ledger.ended(first)
    harness.ledger.notice(changed(harness, spread=5.0, **{LIMIT: 1}))
    assert not harness.ledger.start(Request()), "what was spare goes back"
    assert harness.collect().units == {LIMIT: 1}
    harness.ledger.ended(second)
    assert not harness.ledger.start(Request()), "Redis has not said yet that we may keep it"
    assert harness.collect().units == {LIMIT: 0}


def test_a_pause_starts_nothing_on_hearing_of_it():
    harness = Harness(slots=3)
    (first,) = harness.start()
    waits = harness.wait()
    harness.sync(grants=())
    harness.ledger.notice(changed(harness, **{LIMIT: 0}))
    harness.ledger.ended(first)
    assert harness.ledger.next() is None
    assert waits in harness.ledger.waiting()


def test_a_raise_leaves_units_that_are_spare_to_the_next():
    harness = Harness(slots=3)
    (first,) = harness.start()
    harness.ledger.ended(first)
    harness.ledger.notice(changed(harness, spread=5.0, **{LIMIT: 5}))
    assert harness.ledger.start(Request())


def test_sessions_sync_at_different_times_within_the_spread_of_a_notice(clock: Clock):  # noqa: F811
    dues = []
    for number in range(50):
        harness = Harness(lease=1000.0)
        harness.open(f"session-{number}", **{LIMIT: 2})
        harness.sync()
        harness.wait()
        harness.sync()
        harness.ledger.notice(changed(harness, spread=5.0, app=4))
        assert harness.ledger.due_at is not None
        dues.append(max(harness.ledger.due_at - clock.time, 0.0))
    assert max(dues) <= 5.0
    assert len({int(due) for due in dues}) == 5
    assert sum(due < 0.5 for due in dues) < 15


def test_with_two_sessions_a_notice_has_them_sync_at_once():
    harness = Harness()
    before = now()
    harness.ledger.notice(changed(harness, spread=0.001, app=4))
    assert harness.ledger.due_at is not None
    assert harness.ledger.due_at <= before + 0.1


def test_a_limit_that_begins_with_a_notice_takes_in_what_runs_and_is_said_with_the_next_sync():
    harness = Harness(slots=3)
    free = Request(claims_on(("app",)))
    assert harness.ledger.start_uncovered(free)
    harness.ledger.notice(changed(harness, app=1))
    late = Request(claims_on(("app",)))
    assert not harness.ledger.start_uncovered(late)
    assert harness.collect().units == {"app": 1}


def test_the_version_of_an_earlier_session_is_none_of_the_new_one():
    harness = Harness(slots=2)
    answer(harness, Changes(1, 9), 9)
    (first,) = harness.start()
    harness.ledger.holdings()
    harness.ledger.opened("s2", 3, harness.ends)  # Redis has lost its data, and begun to count anew
    assert harness.collect().version == -1
    harness.ledger.apply(Synced("ok", version=3), harness.ends, harness.ends)
    harness.ledger.ended(first)
    assert not harness.ledger.start(Request())
