"""The ledger by itself: units used again, asked for and given back, with no Redis and no worker."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field

import pytest

from celery_gconc.clock import now
from celery_gconc.limits.claims import Claim, Claims, claims_on
from celery_gconc.protocol.messages import Grant, Notice, Sync, Synced, Want
from celery_gconc.worker.ledger import asks, exchange, holdings, ledger, moves, outbox, trust
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.ledger.permit import STEPS, Permit
from tests.kit.tables import leading, whole

EMAILS = claims_on(("queue:emails",))
CANDIDATES = claims_on(("app", "queue:emails", "task:t"))


class Clock:
    """A time that passes when its test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = 1000.0
        for module in (asks, exchange, holdings, ledger, moves, outbox, trust):
            monkeypatch.setattr(module, "now", lambda: self.time)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time, and it stands still."""
    return Clock(monkeypatch)


@dataclass(eq=False)
class Request:
    """A request as the ledger sees it."""

    candidates: Claims = CANDIDATES
    claims: Claims = EMAILS
    permit: Permit | None = None
    arrived: float = field(default_factory=now)
    started_at: float = 0.0
    task_id: str = "id"
    task: str = "t"
    queue: str | None = "emails"
    may_move: bool = True


def granted(grant: int, number: int = 1, claims: Claims = EMAILS) -> Grant:
    """A grant for the set of claims with this number, as Redis tells it, with a fencing number."""
    return Grant(grant, number, claims, fence=100 + grant)


def ids(want: Want) -> list[str]:
    """The tasks that Redis is told of with a want."""
    return [row.task_id for row in want.requests]


@dataclass
class Pool:
    """A pool as the ledger sees it."""

    startable: int
    growth: int | None = None


@dataclass
class Bell:
    """A bell that counts how often it is rung."""

    rings: int = 0

    def ring(self) -> None:
        self.rings += 1


class Harness:
    """A ledger with a session open and a lease that lasts."""

    def __init__(self, slots: int = 2, lease: float = 60.0, margin: float = 0.0, **limits: int) -> None:
        self.pool, self.bell = Pool(slots), Bell()
        table = limits or {"queue:emails": 2}
        self.ledger: Ledger[Request] = Ledger(table, pool=self.pool, bell=self.bell, margin=margin)
        self.ends = now() + lease
        self.syncs = 0
        self.open("s", **table)
        self.sync()

    def open(self, session: str, **limits: int) -> None:
        """A session is opened, and told the limit table."""
        self.ledger.opened(session, 1, self.ends)
        self.sync(changes=whole(limits, 1))

    @property
    def slots(self) -> int:
        """How many tasks the pool can run at once."""
        return self.pool.startable

    @slots.setter
    def slots(self, slots: int) -> None:
        self.pool.startable = slots

    @property
    def wakes(self) -> int:
        """How often the link was woken."""
        return self.bell.rings

    def collect(self, *, full: bool = False) -> Sync:
        """The next sync, on its way."""
        self.syncs += 1
        return self.ledger.collect("e", self.syncs, confirmed=self.syncs - 1, full=full)

    def sync(self, *, full: bool = False, **reply):
        sent = self.collect(full=full)
        self.ledger.apply(Synced("ok", version=1, **reply), self.ends, self.ends)
        return sent

    def change(self, version: int = 2, **limits: int) -> None:
        """Another table holds."""
        changes = leading(self.ledger.table, limits, self.ledger.table.version, version)
        self.ledger.apply(Synced("ok", version=version, changes=changes), self.ends, self.ends)

    def wait(self, name: str = "id", claims: Claims | None = None) -> Request:
        request = Request(task_id=name) if claims is None else Request(claims, task_id=name)
        self.ledger.wait(request)
        return request

    def grant(self, *grants: int, **told) -> None:
        """Redis grants something to the first line."""
        self.ledger.notice(Notice(grants=tuple(granted(grant) for grant in grants), **told))

    def start(self, count: int = 1) -> list[Request]:
        """Have so many wait, and start with a grant each."""
        requests = [self.wait() for _ in range(count)]
        (want,) = self.sync().wants
        first = self.ledger._trust.last_grant + 1
        self.sync(grants=[granted(first + number, want.set) for number in range(count)])
        assert [self.ledger.next() for _ in requests] == requests
        return requests


def test_no_more_is_asked_for_than_there_are_free_slots():
    harness = Harness(slots=2)
    for name in "abcde":
        harness.wait(name)
    (want,) = harness.sync().wants
    assert (want.claims, want.skip, want.kept, ids(want)) == (EMAILS, 0, 0, ["a", "b"])


def test_a_grant_goes_to_the_request_that_came_first():
    harness = Harness()
    first, second = harness.wait(), harness.wait()
    harness.sync()
    harness.grant(2)
    assert harness.ledger.next() is first
    assert first.permit is not None
    assert (first.permit.claims, first.permit.grant) == (EMAILS, 2)
    assert harness.ledger.next() is None
    assert second.permit is None


def test_of_two_lines_with_grants_the_request_that_came_first_starts_first():
    harness = Harness(slots=2, **{"queue:emails": 2, "task:a": 1, "task:b": 1})
    first, second = harness.wait("b", claims_on(("task:b",))), harness.wait("a", claims_on(("task:a",)))
    wants = reversed(harness.sync().wants)
    grants = tuple(granted(2 + i, want.set, want.claims) for i, want in enumerate(wants))
    harness.ledger.notice(Notice(grants=grants))
    harness.slots = 1
    assert harness.ledger.next() is first
    assert harness.ledger.next() is None
    harness.slots = 2
    assert harness.ledger.next() is second


def test_units_pass_to_the_next_request_without_redis_while_nobody_else_waits():
    harness = Harness()
    first, second, third = harness.wait(), harness.wait(), harness.wait()
    harness.sync()
    harness.grant(2, 3)
    assert [harness.ledger.next(), harness.ledger.next()] == [first, second]
    harness.ledger.ended(first)
    assert harness.ledger.next() is third
    assert third.permit is not None
    assert third.permit.grant == 0, "no grant of its own"
    assert harness.sync().units == {}, "Redis needn't hear of it"


def test_who_comes_while_units_are_spare_starts_with_them_at_once():
    harness = Harness()
    (runs,) = harness.start()
    comes = Request()
    assert not harness.ledger.start(comes), "none are spare"
    harness.ledger.ended(runs)
    assert harness.ledger.start(comes)
    assert harness.sync().units == {}
    assert not harness.ledger.start(Request()), "each is used once"


def test_units_go_back_when_somebody_else_waits():
    harness = Harness()
    request = harness.wait()
    harness.sync()
    harness.grant(2, contended={"queue:emails": 0})
    assert harness.ledger.next() is request
    harness.ledger.ended(request)
    sent = harness.sync()
    assert sent.units == {"queue:emails": 0}
    assert sent.ended == [2]


def test_units_pass_on_to_our_own_head_of_the_line_even_where_others_wait_behind_it():
    harness = Harness(slots=1)
    first, second, third = harness.wait(), harness.wait(), harness.wait()
    harness.sync()
    harness.grant(2, contended={"queue:emails": 1})
    assert harness.ledger.next() is first
    harness.ledger.ended(first)
    assert harness.ledger.next() is second, "a streak of one"
    harness.ledger.ended(second)
    assert harness.ledger.next() is None, "then it is another's turn"
    assert third.permit is None


def test_an_idle_permit_is_recalled_at_once():
    harness = Harness()
    (request,) = harness.start()
    harness.ledger.ended(request)
    harness.sync()
    harness.ledger.notice(Notice(contended={"queue:emails": 0}))
    assert harness.sync().units == {"queue:emails": 0}


def test_nothing_starts_on_a_lease_that_may_have_ended():
    harness = Harness()
    harness.wait()
    harness.sync()
    harness.ends = now() - 0.001
    harness.sync()
    harness.grant(2)
    assert harness.ledger.next() is None


def test_nothing_starts_in_the_margin_before_the_end_of_a_lease():
    harness = Harness(margin=5.0)
    request = harness.wait()
    harness.sync()
    harness.grant(2)
    harness.ends = now() + 4.0
    harness.sync()
    assert harness.ledger.next() is None, "Redis' clock may be so much ahead"
    harness.ends = now() + 60.0
    harness.sync()
    assert harness.ledger.next() is request


def test_a_grant_told_twice_counts_once_and_a_gap_asks_for_both():
    harness = Harness()
    harness.wait(), harness.wait(), harness.wait()
    harness.sync()
    harness.grant(3)
    assert harness.ledger.next() is None, "grant 2 was lost on the way"
    assert harness.ledger.due_at is not None
    harness.sync(grants=(granted(2), granted(3)))
    harness.grant(2)
    assert harness.ledger.next() is not None
    assert harness.ledger.next() is not None
    assert harness.ledger.next() is None
    assert harness.sync(full=True).units == {"queue:emails": 2}


def test_a_grant_that_finds_no_slot_is_given_back_and_asked_for_again_with_its_age():
    harness = Harness(slots=1)
    request = harness.wait("first")
    request.arrived -= 5.0
    harness.sync()
    harness.ledger.start_unlimited(Request(claims=()))
    harness.grant(2)
    harness.ledger.slots_changed()
    sent = harness.sync()
    assert sent.units == {"queue:emails": 0}
    assert sent.ended == [2], "people don't see it run"
    (want,) = sent.wants
    assert ids(want) == ["first"]
    assert want.requests[0].age >= 5.0
    assert request.permit is None


def test_who_gives_a_grant_back_stands_before_those_that_came_later():
    harness = Harness(slots=2)
    harness.wait("first"), harness.wait("second")
    harness.sync()
    harness.grant(2)
    harness.slots = 0
    harness.ledger.slots_changed()
    (want,) = harness.sync().wants
    assert (want.kept, ids(want)) == (0, ["first"]), "of which Redis has the second"


def test_after_a_sync_that_may_be_lost_the_next_one_states_everything():
    harness = Harness()
    runs, _waits = harness.wait("runs"), harness.wait("waits")
    harness.sync()
    harness.grant(2)
    assert harness.ledger.next() is runs
    harness.ledger.sync_failed()
    sent = harness.sync()
    assert sent.full
    assert sent.units == {"queue:emails": 1}
    assert [(want.skip, want.kept, ids(want)) for want in sent.wants] == [(0, 0, ["waits"])], "Redis may know nothing"
    assert [row[1] for row in json.loads(sent.running)] == ["runs"]


def test_what_waits_is_asked_for_again_when_a_new_session_is_opened():
    harness = Harness()
    harness.wait("waits")
    harness.sync()
    harness.ledger.holdings()
    harness.ledger.opened("s2", 1, harness.ends)
    (want,) = harness.sync(changes=whole({"queue:emails": 2}, 1)).wants
    assert ids(want) == ["waits"]


def test_a_new_session_begins_with_what_tasks_use_and_all_else_is_void():
    harness = Harness(slots=3)
    (runs,) = harness.start()
    waits = harness.wait()
    (want,) = harness.sync().wants
    harness.ledger.notice(Notice(grants=(granted(3, want.set),)))
    stated = harness.ledger.holdings()
    assert stated.units == {"queue:emails": 1}
    assert [row[1] for row in json.loads(stated.running)] == [runs.task_id]
    assert stated.fence == 103
    harness.ledger.opened("s2", 1, harness.ends)
    assert harness.ledger.next() is None, "its grant was the old session's"
    sent = harness.sync(changes=whole({"queue:emails": 2}, 1))
    assert (sent.granted, sent.room, sent.version) == (1, 0, -1), "it starts nothing before it knows all limits"
    assert sent.units == {"queue:emails": 1}
    sent = harness.sync(grants=(granted(2, want.set),))
    assert (sent.granted, sent.room, sent.version) == (1, 2, 1)
    assert harness.ledger.next() is waits
    assert harness.sync(full=True).units == {"queue:emails": 2}


def test_a_limit_that_begins_takes_running_and_waiting_tasks_in():
    harness = Harness()
    running, waiting = Request(claims=()), harness.wait()
    harness.ledger.start_unlimited(running)
    harness.sync()
    harness.change(app=5)
    sent = harness.sync()
    assert [want.claims for want in sent.wants if want.requests] == [claims_on(("app",))]
    assert waiting in harness.ledger.waiting()
    assert sent.units == {"app": 1}
    assert running.permit is not None
    harness.ledger.ended(running)
    assert harness.sync().units == {"app": 0}


def test_a_limit_that_ends_while_tasks_run_under_it_counts_until_they_end():
    harness = Harness()
    (runs,) = harness.start()
    harness.change(app=5)
    assert harness.sync().units == {"app": 1, "queue:emails": 0}
    harness.change(3)
    assert harness.sync(full=True).units == {"app": 1}, "its permit ends with it"
    harness.ledger.ended(runs)
    assert harness.sync().units == {"app": 0}


def test_a_request_that_no_limit_covers_any_more_is_set_free():
    harness = Harness()
    waiting = harness.wait()
    harness.sync()
    harness.change()
    assert harness.ledger.uncovered() == [waiting]
    assert harness.ledger.waiting_count == 0
    (want,) = harness.sync().wants
    assert (want.kept, want.requests) == (0, [])


@pytest.mark.parametrize("count", [1, 3])
def test_what_leaves_the_line_is_no_longer_asked_for(count):
    harness = Harness(slots=4)
    requests = [harness.wait() for _ in range(count)]
    harness.sync()
    for request in requests:
        harness.ledger.leave(request)
    (want,) = harness.sync().wants
    assert (want.kept, want.requests) == (0, [])


def test_nothing_starts_by_a_table_older_than_the_one_that_was_told_of():
    harness = Harness(slots=2)
    (first,) = harness.start()
    harness.ledger.ended(first)
    harness.ledger.notice(Notice(version=2))
    late = Request()
    assert not harness.ledger.start(late), "its max may be lower now"
    harness.change(**{"queue:emails": 1})
    assert harness.ledger.start(late)


def test_the_end_of_an_offer_is_news_for_a_slot_was_kept_for_it():
    harness = Harness(slots=1)
    harness.ledger.notice(Notice(offer=True))
    assert harness.ledger.holds_slot
    harness.collect()
    assert harness.ledger.apply(Synced("ok", version=1), harness.ends, harness.ends)
    assert not harness.ledger.holds_slot


def test_no_permit_is_used_again_between_a_new_session_and_the_answer_to_its_first_sync():
    harness = Harness(slots=2)
    (runs,) = harness.start()
    waits = harness.wait()
    harness.ledger.holdings()
    harness.ledger.opened("s2", 1, harness.ends)
    harness.ledger.ended(runs)
    assert harness.ledger.next() is None, "more may run than the limit allows: the answer tells"
    harness.sync(changes=whole({"queue:emails": 1}, 1))
    assert waits in harness.ledger.waiting()


def test_a_request_goes_by_the_table_of_the_moment_in_which_it_starts_or_waits():
    harness = Harness(slots=2)
    app = claims_on(("app",))
    early, late = Request(app, claims=()), Request(app, claims=())
    harness.change(app=5)
    assert not harness.ledger.start_uncovered(early)
    harness.ledger.wait(early)
    assert early.claims == app
    harness.change(3)
    late.claims = app
    harness.ledger.wait(late)
    assert harness.ledger.uncovered() == [early, late]
    assert harness.ledger.start_uncovered(late)


def test_the_link_is_woken_once_for_what_is_due_and_again_for_what_is_due_sooner():
    harness = Harness(slots=0)
    harness.wait()  # without a free slot: told lazily
    assert harness.wakes == 1
    due_at = harness.ledger.due_at
    assert due_at is not None
    assert due_at > now() - 1, "not at once"
    harness.ledger.slots_changed()
    harness.ledger.slots_changed()
    assert harness.wakes == 1, "it comes by itself"
    harness.sync()
    harness.slots = 2
    harness.ledger.slots_changed()
    assert harness.wakes == 2, "after a round trip there is something new to tell"
    assert harness.ledger.due_at == 0.0, "room for one that was asked for"
    harness.wait()
    assert harness.wakes == 2


def full() -> tuple[Harness, Request, Request]:
    """A session with one slot, in which a task runs, and another request waits for it."""
    harness = Harness(slots=1)
    (runs,) = harness.start()
    return harness, runs, harness.wait()


def test_redis_hears_nothing_of_a_wait_for_a_slot_that_is_over_soon():
    harness, runs, waits = full()
    due_at, wakes = harness.ledger.due_at, harness.wakes
    assert due_at is not None
    assert due_at >= now() + 0.2
    assert harness.ledger.has_news(), "if it still waits by then"
    harness.ledger.ended(runs)
    assert harness.ledger.next() is waits, "with the units of the one before"
    assert harness.ledger.due_at == due_at, "as it was, lazily"
    assert harness.wakes == wakes
    assert not harness.ledger.has_news()
    assert harness.ledger.due_at is None
    harness.wait()
    assert harness.wakes == wakes + 1, "who comes next is a new matter"


def test_redis_hears_sooner_of_a_wait_for_a_slot_where_others_wait():
    harness = Harness(slots=1)
    harness.start()
    harness.sync(contended={"queue:emails": 0})
    harness.wait()
    assert harness.ledger.due_at is not None
    assert harness.ledger.due_at <= now() + 0.02


def test_redis_hears_what_was_put_off_together_with_what_is_news():
    harness, runs, waits = full()
    harness.ledger.ended(runs)
    assert harness.ledger.next() is waits
    harness.ledger.take_queues("source", ["emails"])
    assert harness.ledger.has_news()
    assert harness.sync().takes == ("emails",)


def test_redis_hears_at_once_that_what_it_was_asked_for_is_over():
    harness, runs, waits = full()
    assert len(harness.sync().wants) == 1
    harness.ledger.ended(runs)
    wakes = harness.wakes
    assert harness.ledger.next() is waits
    assert harness.ledger.due_at == 0.0
    assert harness.wakes == wakes, "the task goes to the pool first"
    harness.ledger.were_started()
    assert harness.wakes == wakes + 1
    assert [want.requests for want in harness.sync().wants] == [[]]


def test_who_comes_while_no_slot_is_free_adds_nothing_to_tell_unless_others_wait():
    harness, _runs, _waits = full()
    harness.sync()
    harness.wait()
    assert harness.ledger.due_at is None
    harness.sync(contended={"queue:emails": 0})
    harness.wait()
    assert harness.ledger.due_at is not None, "each has a position of its own there"


def test_units_of_a_limit_of_which_all_had_gone_are_counted_anew():
    harness = Harness()
    (first,) = harness.start()
    harness.ledger.ended(first)
    harness.ledger.notice(Notice(contended={"queue:emails": 0}))
    assert harness.sync().units == {"queue:emails": 0}
    (second,) = harness.start()
    assert harness.ledger._holdings.used("queue:emails") == 1
    harness.ledger.ended(second)
    assert harness.ledger._holdings.used("queue:emails") == 0
    assert harness.ledger.start(Request()), "with the same units"


def test_a_request_ends_once():
    harness = Harness()
    (request,) = harness.start()
    assert harness.ledger.ended(request)
    assert not harness.ledger.ended(request)
    assert not harness.ledger.ended(Request()), "it never ran"
    assert harness.ledger.running_count == 0


def test_a_grant_for_who_has_left_serves_the_next_where_redis_has_not_heard_of_it():
    harness = Harness(slots=2)
    first, second = harness.wait(), harness.wait()
    harness.sync()
    harness.ledger.leave(second)
    third = harness.wait()
    harness.ledger.leave(first)
    harness.grant(2)
    assert harness.ledger.next() is third
    sent = harness.sync()
    assert sent.units == {}, "they are in use"
    (want,) = sent.wants
    assert (want.kept, want.requests) == (0, [])


def left_behind() -> Harness:
    """Who was asked for has left, and Redis has not heard of it when it grants."""
    harness = Harness()
    request = harness.wait()
    harness.sync()
    harness.ledger.leave(request)
    harness.sync()
    return harness


def test_a_grant_for_who_has_left_is_for_the_next_where_nobody_else_waits():
    harness = left_behind()
    harness.grant(2)
    assert harness.ledger.due_at is None
    assert harness.ledger.start(Request())
    sent = harness.sync()
    assert sent.units == {}
    assert sent.ended == [2], "that task doesn't run"


def test_a_grant_for_who_has_left_goes_back_soon_where_nobody_comes(clock: Clock):
    harness = left_behind()
    rings = harness.bell.rings
    harness.grant(2)
    assert harness.bell.rings == rings + 1, "the link watches it"
    harness.ledger.retire_idle()
    clock.time += 0.11
    harness.ledger.retire_idle()
    assert harness.sync().units == {"queue:emails": 0}


def test_a_grant_for_who_has_left_goes_back_at_once_where_others_wait():
    harness = left_behind()
    harness.grant(2, contended={"queue:emails": 0})
    assert harness.ledger.due_at == 0.0
    assert harness.sync().units == {"queue:emails": 0}


def test_slots_that_are_reserved_are_no_room():
    harness = Harness(slots=3)
    harness.ledger.reserve(2)
    assert harness.sync().room == 1
    harness.ledger.reserve(3)
    assert harness.sync().room == 0
    harness.ledger.notice(Notice(offer=True))
    assert harness.sync(offer=True).room == 1, "but one for what Redis would grant"


def test_slots_for_what_was_granted_are_no_room():
    harness = Harness(slots=3)
    harness.wait(), harness.wait()
    assert harness.sync().room == 3
    harness.grant(2, 3)
    assert harness.sync().room == 1
    assert harness.ledger.next() is not None
    assert harness.sync().room == 1
    assert harness.ledger.leave(harness.ledger.waiting()[0])
    assert harness.sync().room == 2


@pytest.mark.parametrize(("growth", "is_news"), [(None, False), (0, True), (2, True)])
def test_an_offer_without_a_grant_is_news_only_where_the_pool_may_grow(growth, is_news):
    harness = Harness()
    harness.pool.growth = growth
    assert harness.ledger.notice(Notice(offer=True)) is is_news
    assert not harness.ledger.notice(Notice(contended={"queue:emails": 0}))
    assert harness.ledger.notice(Notice(grants=(granted(2, 99),)))


def test_those_that_run_on_a_lease_that_ends_soon_are_all_that_have_a_permit():
    harness = Harness(lease=60.0)
    (request,) = harness.start()
    harness.ledger.start_unlimited(Request())
    assert harness.ledger.covered() == [request]
    assert harness.ledger.covered(ends_within=1.0) == []
    assert harness.ledger.covered(ends_within=61.0) == [request]


def test_a_frozen_ledger_waits_until_it_is_thawed():
    harness = Harness()
    harness.ledger.freeze()
    other = threading.Thread(target=harness.wait)
    other.start()
    other.join(0.1)
    assert harness.ledger.waiting() == [], "only the thread that forks may look"
    harness.ledger.thaw()
    other.join(10)
    assert len(harness.ledger.waiting()) == 1


# -- Fencing numbers -------------------------------------------------------------------------------------


def test_each_task_has_a_fencing_number_above_that_of_the_one_before(monkeypatch):
    monkeypatch.setattr(trust, "STEPS", 3)
    harness = Harness(slots=1)
    requests = [harness.wait() for _ in range(5)]
    harness.sync()
    harness.grant(2)
    numbers = []
    for request in requests[:3]:
        assert harness.ledger.next() is request
        assert request.permit is not None
        numbers.append(request.permit.fencing_number)
        harness.ledger.ended(request)
    assert numbers == [102 * 3, 102 * 3 + 1, 102 * 3 + 2]
    assert harness.ledger.next() is None, "there is none left below that of the next grant"
    assert harness.sync().units == {"queue:emails": 0}
    assert requests[3] in harness.ledger.waiting()
    harness.grant(3)
    assert harness.ledger.next() is requests[3]
    assert requests[3].permit is not None
    assert requests[3].permit.fencing_number == 103 * 3


def test_nothing_starts_without_a_fencing_number(monkeypatch):
    monkeypatch.setattr(trust, "STEPS", 1)
    harness = Harness()
    first, second = harness.wait(), harness.wait()
    harness.sync()
    harness.grant(2, 3)
    assert harness.ledger.next() is first
    assert harness.ledger.next() is None, "it would have that of grant 4"
    harness.sync(full=True, fence=104)
    assert harness.ledger.next() is second


def test_a_statement_brings_a_fencing_number_for_what_starts_from_then_on():
    harness = Harness(slots=1)
    (first,) = harness.start()
    assert harness.sync(full=True, fence=900).fence == 102, "the last one that is known"
    second = harness.wait()
    harness.ledger.ended(first)
    assert harness.ledger.next() is second
    assert second.permit is not None
    assert second.permit.fencing_number == 900 * STEPS
    harness.sync(fence=800)
    third = harness.wait()
    harness.ledger.ended(second)
    assert harness.ledger.next() is third
    assert third.permit is not None
    assert third.permit.fencing_number == 900 * STEPS + 1, "an older one that comes late changes nothing"


# -- What people are told of what runs -------------------------------------------------------------------


def test_redis_hears_of_the_end_of_a_task_by_its_grant_until_that_task_was_stated_and_then_by_its_id():
    harness = Harness(slots=3, **{"queue:emails": 3})
    first, second, third = (harness.wait(name) for name in ("first", "second", "third"))
    harness.sync()
    harness.grant(2, 3, 4)
    assert [harness.ledger.next() for _ in range(3)] == [first, second, third]
    harness.ledger.ended(first)
    sent = harness.sync()
    assert (sent.ended, sent.over) == ([2], [])
    assert [row[1] for row in json.loads(harness.sync(full=True).running)] == ["second", "third"]
    harness.ledger.ended(third)
    sent = harness.sync()
    assert (sent.ended, sent.over) == ([], ["third"])
    assert harness.sync(full=True).running is not None
    assert harness.sync(full=True).running is None, "nothing has changed since"


# -- A grant that is in hand when the limit table changes ------------------------------------------------


def with_a_grant_in_hand() -> tuple[Harness, Request]:
    harness = Harness()
    first = harness.wait("first")
    harness.sync()
    harness.grant(2)
    return harness, first


def test_what_was_granted_before_a_max_was_lowered_starts_nothing_after_it():
    harness, _ = with_a_grant_in_hand()
    harness.change(**{"queue:emails": 1})
    assert harness.ledger.next() is None
    sent = harness.sync()
    assert sent.units == {"queue:emails": 0}
    (want,) = sent.wants
    assert ids(want) == ["first"], "it asks again, and its age keeps its position"


def test_what_was_granted_before_a_max_was_raised_is_used():
    harness, first = with_a_grant_in_hand()
    harness.change(**{"queue:emails": 3})
    assert harness.ledger.next() is first


def test_a_grant_in_hand_is_given_back_where_a_version_of_the_table_was_missed():
    harness, _ = with_a_grant_in_hand()  # the limit may have been lifted in between, and others may run
    harness.change(3, **{"queue:emails": 2})
    assert harness.ledger.next() is None


def test_the_units_of_a_task_that_came_under_a_limit_while_it_ran_start_no_other():
    harness = Harness()
    first, _ = harness.wait(), harness.wait()
    harness.sync()
    harness.grant(2)
    assert harness.ledger.next() is first
    harness.change(**{"app": 0, "queue:emails": 2})
    assert harness.collect().units == {"app": 1, "queue:emails": 1}
    assert first.permit is not None
    assert first.permit.claims == claims_on(("app", "queue:emails"))
    harness.ledger.ended(first)  # Redis has not answered yet whether that is above the new limit's max
    assert harness.ledger.next() is None
    assert harness.sync().units == {"app": 0, "queue:emails": 0}


# -- Order among ours, and what that has go back ---------------------------------------------------------

BOTH = claims_on(("app", "queue:emails"))
NEWS = claims_on(("app", "queue:news"))


def test_units_go_back_where_one_of_ours_that_needs_more_came_first():
    harness = Harness(slots=3, **{"app": 1, "queue:emails": 1, "queue:news": 1})
    emails, news = harness.wait("emails", BOTH), harness.wait("news", NEWS)
    first, second = harness.sync().wants
    assert (first.claims, second.claims) == (BOTH, NEWS)
    harness.ledger.notice(Notice(grants=(granted(2, first.set, BOTH),)))
    assert harness.ledger.next() is emails
    harness.wait("more emails", BOTH)
    assert not harness.ledger.start(Request(BOTH)), "nothing is spare"
    harness.ledger.ended(emails)
    assert harness.ledger.next() is None, "the news came before the other emails, and Redis knows the order of all"
    assert harness.sync().units == {"app": 0, "queue:emails": 0}
    assert news.permit is None


def test_who_comes_later_overtakes_nobody_of_ours_that_shares_a_limit():
    harness = Harness(slots=3, **{"app": 2, "queue:emails": 1, "queue:news": 1})
    emails = harness.wait("emails", BOTH)
    (want,) = harness.sync().wants
    harness.ledger.notice(Notice(grants=(granted(2, want.set, BOTH),)))
    assert harness.ledger.next() is emails
    harness.wait("news", NEWS)
    harness.ledger.ended(emails)
    assert not harness.ledger.start(Request(BOTH)), "the units of app are for the news"
    assert harness.sync().units == {"app": 0}
    assert harness.ledger.start(Request(claims_on(("queue:emails",)))), "with which this one has nothing to do"


def test_spare_units_of_one_limit_go_back_when_one_waits_that_lacks_another():
    harness = Harness(slots=3, **{"app": 2, "queue:emails": 1, "queue:news": 1})
    emails = harness.wait("emails", BOTH)
    (want,) = harness.sync().wants
    harness.ledger.notice(Notice(grants=(granted(2, want.set, BOTH),)))
    assert harness.ledger.next() is emails
    harness.ledger.ended(emails)
    harness.wait("news", NEWS)
    assert harness.sync().units == {"app": 0}, "else Redis couldn't grant it both"


def test_spare_units_go_back_when_one_of_ours_that_came_before_gives_its_grant_back():
    harness = Harness(slots=2, **{"app": 2, "queue:emails": 1, "queue:news": 1})
    news = harness.wait("news", NEWS)
    (want,) = harness.sync().wants
    harness.ledger.notice(Notice(grants=(granted(2, want.set, NEWS),)))
    assert harness.ledger.next() is news
    harness.wait("emails", BOTH)
    (want,) = harness.sync().wants
    harness.ledger.notice(Notice(grants=(granted(3, want.set, BOTH),)))
    harness.wait("more news", NEWS)
    harness.ledger.ended(news)
    assert harness.sync().units == {}, "they are for the news"
    harness.slots = 0
    harness.ledger.slots_changed()
    assert harness.sync().units == {"app": 0, "queue:emails": 0, "queue:news": 0}


def test_spare_units_go_back_when_one_of_ours_comes_under_a_limit_more():
    harness = Harness(slots=1)
    (runs,) = harness.start()
    harness.wait()
    harness.ledger.ended(runs)
    assert harness.sync().units == {}
    harness.change(**{"app": 1, "queue:emails": 1})
    assert harness.sync().units == {"queue:emails": 0}, "else Redis couldn't grant it both"


def test_who_starts_with_units_of_ours_leaves_its_position_to_the_next_unless_others_wait():
    harness = Harness(slots=1)
    requests = [harness.wait(name) for name in ("a", "b", "c")]
    harness.sync()
    harness.grant(2)
    assert harness.ledger.next() is requests[0]
    (want,) = harness.sync().wants
    assert ids(want) == ["b"]
    harness.ledger.ended(requests[0])
    assert harness.ledger.next() is requests[1]
    assert harness.sync().wants == [], "Redis has b, which stands for c"
    (want,) = harness.sync(full=True, contended={"queue:emails": 1}).wants
    assert (want.skip, want.kept, ids(want)) == (1, 0, ["c"]), "a statement says so"
    requests.append(harness.wait("d"))
    harness.sync(contended={"queue:emails": 1})
    harness.ledger.ended(requests[1])
    assert harness.ledger.next() is requests[2]
    (want,) = harness.sync().wants
    assert (want.skip, want.kept, ids(want)) == (1, 1, []), "where others wait each has its own"


def test_where_ours_of_another_set_wait_for_the_same_limit_each_has_a_position_of_its_own():
    harness = Harness(slots=1, **{"app": 1, "queue:emails": 1, "queue:news": 1})
    a, b, _c = (harness.wait(name, BOTH) for name in "abc")
    (want,) = harness.sync().wants
    harness.ledger.notice(Notice(grants=(granted(2, want.set, BOTH),)))
    assert harness.ledger.next() is a
    harness.wait("news", NEWS)
    assert [ids(want) for want in harness.sync().wants] == [["b"], ["news"]]
    harness.ledger.ended(a)
    assert harness.ledger.next() is b
    (want,) = harness.sync().wants
    assert (want.skip, want.kept, ids(want)) == (1, 0, ["c"]), "and not that of b, before the news"


def test_who_joins_another_line_with_a_new_table_stands_where_it_belongs_in_it():
    harness = Harness(slots=1, **{"app": 1, "queue:emails": 1})
    harness.wait("first", BOTH), harness.wait("second", NEWS)
    assert [ids(want) for want in harness.sync().wants] == [["first"], ["second"]]
    harness.change(app=1)
    told = {want.claims: ids(want) for want in harness.sync().wants}
    assert told == {BOTH: [], claims_on(("app",)): ["first"]}


def test_of_what_redis_has_only_the_news_is_told():
    harness = Harness(slots=4)
    a, b, _c = (harness.wait(name) for name in ("a", "b", "c"))
    (want,) = harness.sync().wants
    assert (want.skip, want.kept, ids(want)) == (0, 0, ["a", "b", "c"])
    harness.wait("d")
    (want,) = harness.sync().wants
    assert (want.skip, want.kept, ids(want)) == (0, 3, ["d"])
    harness.grant(2)
    assert harness.ledger.next() is a
    harness.ledger.leave(b)
    (want,) = harness.sync().wants
    assert (want.skip, want.kept, ids(want)) == (1, 2, []), "Redis has taken the first off itself"


def test_spare_units_that_a_streak_leaves_over_go_back_at_once():
    harness = Harness(slots=2)
    runs = harness.start(2)
    first, _second = harness.wait(), harness.wait()
    harness.slots = 0
    for request in runs:
        harness.ledger.ended(request)
    assert harness.sync(contended={"queue:emails": 1}).units == {}, "for the first, or for its streak"
    harness.slots = 2
    assert harness.ledger.next() is first
    assert harness.sync().units == {"queue:emails": 1}


# -- Weights ---------------------------------------------------------------------------------------------

HEAVY = (Claim("pool:gpu", 2),)
LIGHT = (Claim("pool:gpu", 1),)


def test_a_task_uses_as_many_units_as_it_weighs():
    harness = Harness(slots=3, **{"pool:gpu": 3})
    heavy = harness.wait("heavy", HEAVY)
    (want,) = harness.sync().wants
    harness.ledger.notice(Notice(grants=(granted(2, want.set, HEAVY),)))
    assert harness.ledger.next() is heavy
    assert harness.sync(full=True).units == {"pool:gpu": 2}
    harness.ledger.ended(heavy)
    one, other = Request(LIGHT), Request(LIGHT)
    assert harness.ledger.start(one)
    assert harness.ledger.start(other)
    assert not harness.ledger.start(Request(LIGHT))


def test_units_that_are_too_few_for_the_first_of_ours_go_back_rather_than_to_a_lighter_one():
    harness = Harness(slots=3, **{"pool:gpu": 3})
    light = harness.wait("light", LIGHT)
    (want,) = harness.sync().wants
    harness.ledger.notice(Notice(grants=(granted(2, want.set, LIGHT),)))
    assert harness.ledger.next() is light
    harness.wait("heavy", HEAVY), harness.wait("lighter", LIGHT)
    harness.ledger.ended(light)
    assert harness.ledger.next() is None
    assert harness.sync().units == {"pool:gpu": 0}


def test_spare_units_are_for_as_many_as_they_are_enough_for():
    harness = Harness(slots=3, **{"pool:gpu": 3})
    lights = [harness.wait("light", LIGHT) for _ in range(3)]
    (want,) = harness.sync().wants
    harness.sync(grants=[granted(2 + number, want.set, LIGHT) for number in range(3)])
    assert [harness.ledger.next() for _ in range(3)] == lights
    harness.slots = 0
    for light in lights:
        harness.ledger.ended(light)
    harness.wait("heavy", HEAVY), harness.wait("heavier", HEAVY)
    assert [ids(want) for want in harness.sync().wants if want.requests] == [["heavier"]]


def test_what_waits_is_stuck_where_its_weight_is_not_free():
    harness = Harness(slots=3, **{"pool:gpu": 3})
    heavy = harness.wait("heavy", HEAVY)
    (want,) = harness.sync(offer=True).wants
    assert harness.ledger.stuck() == 0
    harness.sync(grants=(granted(2, want.set, HEAVY),), offer=True)
    assert harness.ledger.next() is heavy
    assert harness.ledger.is_stuck(HEAVY)
    assert not harness.ledger.is_stuck(LIGHT)


def test_a_task_that_runs_takes_no_less_of_a_limit_whose_max_is_lowered_below_its_weight():
    harness = Harness(**{"pool:gpu": 2})
    heavy = harness.wait("heavy", HEAVY)
    (want,) = harness.sync().wants
    harness.sync(grants=[granted(2, want.set, HEAVY)])
    assert harness.ledger.next() is heavy
    harness.change(2, **{"pool:gpu": 1})
    assert harness.sync(full=True).units == {"pool:gpu": 2}
    harness.change(3, **{"pool:gpu": 2})
    assert harness.sync(full=True).units == {"pool:gpu": 2}, "no other was to start meanwhile"
    harness.ledger.ended(heavy)
    assert harness.ledger.start(Request(HEAVY)), "it had been granted them all the time"


def test_a_task_that_took_all_of_a_limit_keeps_as_many_units_when_the_max_is_raised():
    harness = Harness(**{"pool:gpu": 1})
    heavy = harness.wait("heavy", HEAVY)
    (want,) = harness.sync().wants
    assert want.claims == LIGHT
    harness.sync(grants=[granted(2, want.set, LIGHT)])
    assert harness.ledger.next() is heavy
    harness.change(**{"pool:gpu": 3})
    assert harness.sync(full=True).units == {"pool:gpu": 1}
    harness.ledger.ended(heavy)
    assert not harness.ledger.start(Request(HEAVY)), "from now on it takes two"


# -- What goes back though nobody else waits -------------------------------------------------------------


def test_spare_units_go_back_after_a_tenth_of_a_second_and_before_two(clock: Clock):
    harness = Harness(slots=2, lease=1000.0)
    (request,) = harness.start()
    harness.ledger.retire_idle()
    clock.time += 0.06
    harness.ledger.ended(request)
    clock.time += 0.06
    assert harness.ledger.retire_idle() == pytest.approx(0.1)
    assert harness.sync().units == {}
    clock.time += 0.11
    assert harness.ledger.retire_idle() is None
    assert harness.sync().units == {"queue:emails": 0}


def test_units_that_are_used_now_and_then_stay(clock: Clock):
    harness = Harness(slots=1, lease=1000.0)
    (runs,) = harness.start()
    for _ in range(10):
        clock.time += 0.04
        harness.ledger.retire_idle()
        harness.ledger.ended(runs)
        clock.time += 0.04
        harness.ledger.retire_idle()
        runs = Request()
        assert harness.ledger.start(runs)
    assert harness.sync().units == {}


def test_of_units_that_are_used_as_many_go_back_as_were_never_needed(clock: Clock):
    harness = Harness(slots=3, lease=1000.0, **{"queue:emails": 3})
    one, *others = harness.start(3)
    for request in others:
        harness.ledger.ended(request)
    harness.ledger.retire_idle()
    harness.ledger.start(Request())
    clock.time += 0.1
    harness.ledger.retire_idle()
    assert harness.sync().units == {"queue:emails": 2}
    harness.ledger.ended(one)
    assert harness.ledger.start(Request())


def test_what_was_granted_and_finds_no_start_goes_back_after_a_tenth_of_a_second(clock: Clock):
    harness = Harness(slots=2, lease=1000.0)
    harness.wait("first"), harness.wait("second")
    harness.sync()
    harness.grant(2)
    clock.time += 0.06
    harness.grant(3)
    assert harness.ledger.retire_idle() == pytest.approx(0.04)
    clock.time += 0.05
    assert harness.ledger.retire_idle() == pytest.approx(0.05)
    sent = harness.sync()
    assert sent.units == {"queue:emails": 1}, "the other one may still be used"
    assert sent.ended == [2]


@pytest.mark.parametrize("is_recalled", [False, True])
def test_who_waits_for_a_slot_beside_spare_units_is_in_line_again_when_those_go_back(clock: Clock, is_recalled):
    harness = Harness(slots=2, lease=1000.0)
    first, _ = harness.start(2)
    harness.slots = 1
    harness.ledger.ended(first)
    harness.wait("waits")
    assert harness.sync().wants == [], "units are spare for it"
    if is_recalled:
        harness.ledger.notice(Notice(contended={"queue:emails": 0}))
    for _ in range(2):
        harness.ledger.retire_idle()
        clock.time += 0.1
    harness.ledger.retire_idle()
    sent = harness.sync()
    assert sent.units == {"queue:emails": 1}
    assert [ids(want) for want in sent.wants] == [["waits"]]


def test_spare_units_that_one_of_ours_leaves_go_back_at_once_where_others_wait():
    harness = Harness(slots=2)
    first, _ = harness.start(2)
    harness.slots = 1
    harness.sync(contended={"queue:emails": 1})
    waits = harness.wait("waits")
    harness.ledger.ended(first)
    assert harness.sync(contended={"queue:emails": 1}).units == {}
    harness.ledger.leave(waits)
    assert harness.sync().units == {"queue:emails": 1}


def test_when_the_worker_stops_all_that_no_task_uses_goes_back_and_the_rest_as_they_end():
    harness = Harness(slots=4, **{"queue:emails": 4})
    first, second = harness.start(2)
    harness.wait("granted"), harness.wait("waits")
    (want,) = harness.sync().wants
    harness.sync(grants=(granted(4, want.set),))
    harness.ledger.ended(first)
    harness.ledger.stop()
    assert harness.ledger.waiting() == []
    sent = harness.sync()
    assert sent.units == {"queue:emails": 1}
    assert [(want.kept, ids(want)) for want in sent.wants] == [(0, [])]
    harness.ledger.ended(second)
    assert harness.sync().units == {"queue:emails": 0}
