"""The ledger by itself: permits used again, asked for and given back, with no Redis and no worker."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from celery_gconc.clock import now
from celery_gconc.protocol.messages import Grant, Notice, Synced
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.ledger.permit import STEPS, Permit

EMAILS = ("queue:emails",)


@dataclass(eq=False)
class Request:
    """A request as the ledger sees it."""

    names: tuple[str, ...] = ("app", "queue:emails", "task:t")
    limits: tuple[str, ...] = EMAILS
    permit: Permit | None = None
    arrived: float = field(default_factory=now)
    started_at: float = 0.0
    task_id: str = "id"
    task: str = "t"
    queue: str | None = "emails"
    may_move: bool = True


def granted(grant: int, number: int) -> Grant:
    """A grant as Redis tells it, with a fencing number."""
    return Grant(grant, number, fence=100 + grant)


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

    def __init__(self, slots: int = 2, lease: float = 60.0, margin: float = 0.0) -> None:
        self.pool, self.bell = Pool(slots), Bell()
        self.ledger: Ledger[Request] = Ledger({"queue:emails": 2}, pool=self.pool, bell=self.bell, margin=margin)
        self.ends = now() + lease
        self.ledger.opened("s", {"queue:emails": 2}, 1, self.ends)
        self.syncs = 0
        self.sync()

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

    def sync(self, **reply):
        self.syncs += 1
        sent = self.ledger.collect("e", self.syncs, confirmed=self.syncs - 1, full=False)
        self.ledger.apply(Synced("ok", version=1, **reply), self.ends, self.ends)
        return sent

    def wait(self) -> Request:
        request = Request()
        self.ledger.wait(request)
        return request


def test_only_as_many_permits_are_asked_for_as_there_are_free_slots():
    harness = Harness(slots=2)
    for _ in range(5):
        harness.wait()
    assert len(harness.sync().asks) == 2


def test_a_grant_goes_to_the_request_that_came_first():
    harness = Harness()
    first, second = harness.wait(), harness.wait()
    asks = harness.sync().asks
    harness.ledger.notice(Notice(grants=(granted(2, asks[1].number),)))
    assert harness.ledger.next() is first
    assert harness.ledger.next() is None
    assert second.permit is None


def test_of_two_lines_with_permits_the_request_that_came_first_starts_first():
    harness = Harness(slots=2)
    limits = {"queue:emails": 2, "task:a": 1, "task:b": 1}
    harness.ledger.apply(Synced("ok", version=2, table=limits), harness.ends, harness.ends)
    first, second = Request(names=("task:b",)), Request(names=("task:a",))
    for request in (first, second):
        harness.ledger.wait(request)
    asks = harness.sync().asks
    harness.ledger.notice(Notice(grants=tuple(granted(2 + i, ask.number) for i, ask in enumerate(reversed(asks)))))
    harness.slots = 1
    assert harness.ledger.next() is first
    assert harness.ledger.next() is None
    harness.slots = 2
    assert harness.ledger.next() is second


def test_a_permit_passes_to_the_next_request_without_redis_while_nobody_else_waits():
    harness = Harness()
    first, second, third = harness.wait(), harness.wait(), harness.wait()
    asks = harness.sync().asks
    harness.ledger.notice(Notice(grants=tuple(granted(2 + i, ask.number) for i, ask in enumerate(asks))))
    assert [harness.ledger.next(), harness.ledger.next()] == [first, second]
    permit = first.permit
    harness.ledger.ended(first)
    assert harness.ledger.next() is third
    assert third.permit is permit


def test_a_permit_goes_back_when_somebody_else_waits():
    harness = Harness()
    request = harness.wait()
    (ask,) = harness.sync().asks
    harness.ledger.notice(Notice(grants=(granted(2, ask.number),), contended={"queue:emails": 0}))
    assert harness.ledger.next() is request
    harness.ledger.ended(request)
    assert ask.number in harness.sync().ended


def test_a_permit_passes_on_to_our_own_head_of_the_line_even_where_others_wait_behind_it():
    harness = Harness(slots=1)
    first, second, third = harness.wait(), harness.wait(), harness.wait()
    ask, *_ = harness.sync().asks
    harness.ledger.notice(Notice(grants=(granted(2, ask.number),), contended={"queue:emails": 1}))
    assert harness.ledger.next() is first
    harness.ledger.ended(first)
    assert harness.ledger.next() is second, "a streak of one"
    harness.ledger.ended(second)
    assert harness.ledger.next() is None, "then it is another's turn"
    assert third.permit is None


def test_an_idle_permit_is_recalled_at_once():
    harness = Harness()
    request = harness.wait()
    (ask,) = harness.sync().asks
    harness.ledger.notice(Notice(grants=(granted(2, ask.number),)))
    assert harness.ledger.next() is request
    harness.ledger.ended(request)
    harness.sync()
    harness.ledger.notice(Notice(contended={"queue:emails": 0}))
    assert harness.sync().ended == (ask.number,)


def test_nothing_starts_on_a_lease_that_may_have_ended():
    harness = Harness()
    harness.wait()
    (ask,) = harness.sync().asks
    harness.ends = now() - 0.001
    harness.sync()
    harness.ledger.notice(Notice(grants=(granted(2, ask.number),)))
    assert harness.ledger.next() is None


def test_nothing_starts_in_the_margin_before_the_end_of_a_lease():
    harness = Harness(margin=5.0)
    request = harness.wait()
    (ask,) = harness.sync().asks
    harness.ledger.notice(Notice(grants=(granted(2, ask.number),)))
    harness.ends = now() + 4.0
    harness.sync()
    assert harness.ledger.next() is None, "Redis' clock may be so much ahead"
    harness.ends = now() + 60.0
    harness.sync()
    assert harness.ledger.next() is request


def test_a_grant_told_twice_counts_once_and_a_gap_asks_for_both():
    harness = Harness()
    harness.wait(), harness.wait()
    first, second = harness.sync().asks
    harness.ledger.notice(Notice(grants=(granted(3, second.number),)))
    assert harness.ledger.next() is None, "grant 2 was lost on the way"
    assert harness.ledger.due_at is not None
    harness.sync(grants=(granted(2, first.number), granted(3, second.number)))
    harness.ledger.notice(Notice(grants=(granted(2, first.number),)))
    assert harness.ledger.next() is not None
    assert harness.ledger.next() is not None


def test_a_grant_that_finds_no_slot_is_given_back_and_asked_for_again_with_its_age():
    harness = Harness(slots=1)
    request = harness.wait()
    (ask,) = harness.sync().asks
    harness.ledger.start_unlimited(Request(limits=()))
    harness.ledger.notice(Notice(grants=(granted(2, ask.number),)))
    harness.ledger.slots_changed()
    sent = harness.sync()
    assert ask.number in sent.ended
    assert len(sent.asks) == 1
    assert request.permit is None


def test_after_a_sync_that_may_be_lost_the_next_one_states_everything():
    harness = Harness()
    request = harness.wait()
    (ask,) = harness.sync().asks
    harness.ledger.notice(Notice(grants=(granted(2, ask.number),)))
    assert harness.ledger.next() is request
    harness.ledger.sync_failed()
    sent = harness.sync()
    assert sent.full
    assert [held.number for held in sent.held] == [ask.number]


def test_what_waits_is_asked_for_again_when_a_new_session_is_opened():
    harness = Harness()
    harness.wait()
    harness.sync()
    harness.ledger.holdings()
    harness.ledger.opened("s2", {"queue:emails": 2}, 1, harness.ends)
    assert len(harness.sync().asks) == 1


def test_a_limit_that_begins_takes_running_and_waiting_tasks_in():
    harness = Harness()
    running, waiting = Request(limits=()), harness.wait()
    harness.ledger.start_unlimited(running)
    harness.sync()
    harness.ledger.apply(Synced("ok", version=2, table={"app": 5}), harness.ends, harness.ends)
    sent = harness.sync()
    assert [ask.limits for ask in sent.asks] == [("app",)]
    assert waiting in harness.ledger.waiting()
    assert [held.limits for held in sent.held] == [("app",)]
    assert running.permit is not None


def test_a_request_that_no_limit_covers_any_more_is_set_free():
    harness = Harness()
    waiting = harness.wait()
    harness.sync()
    harness.ledger.apply(Synced("ok", version=2, table={}), harness.ends, harness.ends)
    assert harness.ledger.uncovered() == [waiting]
    assert harness.ledger.waiting_count == 0


@pytest.mark.parametrize("count", [1, 3])
def test_what_leaves_the_line_is_no_longer_asked_for(count):
    harness = Harness(slots=4)
    requests = [harness.wait() for _ in range(count)]
    asked = {ask.number for ask in harness.sync().asks}
    for request in requests:
        harness.ledger.leave(request)
    assert set(harness.sync().ended) == asked


def test_nothing_starts_by_a_table_older_than_the_one_that_was_told_of():
    harness = Harness(slots=2)
    first = harness.wait()
    harness.sync(grants=[granted(2, 1)])
    assert harness.ledger.next() is first
    harness.ledger.ended(first)
    harness.ledger.notice(Notice(version=2))
    late = Request()
    assert not harness.ledger.take(late), "its max may be lower now"
    harness.ledger.apply(Synced("ok", version=2, table={"queue:emails": 1}), harness.ends, harness.ends)
    assert harness.ledger.take(late)


def test_the_end_of_an_offer_is_news_for_a_slot_was_kept_for_it():
    harness = Harness(slots=1)
    harness.ledger.notice(Notice(offer=True))
    assert harness.ledger.holds_slot
    harness.ledger.collect("e", 9, confirmed=0, full=False)
    assert harness.ledger.apply(Synced("ok", version=1), harness.ends, harness.ends)
    assert not harness.ledger.holds_slot


def test_no_permit_is_used_again_between_a_new_session_and_the_answer_to_its_first_sync():
    harness = Harness(slots=2)
    runs, waits = harness.wait(), harness.wait()
    (ask, _) = harness.sync().asks
    harness.ledger.notice(Notice(grants=(granted(2, ask.number),)))
    assert harness.ledger.next() is runs
    harness.ledger.holdings()
    harness.ledger.opened("s2", {"queue:emails": 1}, 1, harness.ends)
    harness.ledger.ended(runs)
    assert harness.ledger.next() is None, "more may run than the limit allows: the answer tells"
    harness.sync()
    assert waits in harness.ledger.waiting()


def test_a_request_goes_by_the_table_of_the_moment_in_which_it_starts_or_waits():
    harness = Harness(slots=2)
    early, late = Request(names=("app",), limits=()), Request(names=("app",), limits=())
    harness.ledger.apply(Synced("ok", version=2, table={"app": 5}), harness.ends, harness.ends)
    assert not harness.ledger.start_uncovered(early)
    harness.ledger.wait(early)
    assert early.limits == ("app",)
    harness.ledger.apply(Synced("ok", version=3, table={}), harness.ends, harness.ends)
    late.limits = ("app",)
    harness.ledger.wait(late)
    assert harness.ledger.uncovered() == [early, late]
    assert harness.ledger.start_uncovered(late)


def test_a_permit_has_a_greater_fencing_number_each_time_that_it_is_used_and_goes_back_when_there_is_none_left():
    harness = Harness(slots=1)
    first, second, third = (harness.wait() for _ in range(3))
    (ask,) = harness.sync().asks
    harness.ledger.notice(Notice(grants=(granted(2, ask.number),)))
    assert harness.ledger.next() is first
    permit = first.permit
    before = permit.fencing_number
    harness.ledger.ended(first)
    assert harness.ledger.next() is second
    assert second.permit is permit
    assert permit.fencing_number == before + 1
    permit.step = STEPS - 1
    harness.ledger.ended(second)
    assert harness.ledger.next() is None
    assert permit.number in harness.sync().ended
    assert third in harness.ledger.waiting()


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


def test_a_request_ends_once():
    harness = Harness()
    request = harness.wait()
    (ask,) = harness.sync().asks
    harness.ledger.notice(Notice(grants=(granted(2, ask.number),)))
    assert harness.ledger.next() is request
    assert harness.ledger.ended(request)
    assert not harness.ledger.ended(request)
    assert not harness.ledger.ended(Request()), "it never ran"
    assert harness.ledger.running_count == 0


def test_a_grant_for_who_has_left_serves_the_next_where_redis_has_not_heard_of_it():
    harness = Harness(slots=2)
    first, second = harness.wait(), harness.wait()
    asks = harness.sync().asks
    harness.ledger.leave(second)  # withdraws the last ask
    third = harness.wait()
    harness.ledger.leave(first)
    harness.ledger.notice(Notice(grants=(granted(2, asks[1].number),)))
    assert harness.ledger.next() is third
    sent = harness.sync()
    assert asks[1].number not in sent.ended, "it is in use"
    assert asks[0].number in sent.ended
    assert sent.asks == []


def test_a_grant_for_who_has_left_goes_back_where_nobody_else_waits():
    harness = Harness()
    request = harness.wait()
    (ask,) = harness.sync().asks
    harness.ledger.leave(request)
    harness.sync()
    harness.ledger.notice(Notice(grants=(granted(2, ask.number),)))
    assert harness.sync().ended == (ask.number,), "both messages were under way"


def test_slots_that_are_reserved_are_no_room():
    harness = Harness(slots=3)
    harness.ledger.reserve(2)
    assert harness.sync().room == 1
    harness.ledger.reserve(3)
    assert harness.sync().room == 0
    harness.ledger.notice(Notice(offer=True))
    assert harness.sync(offer=True).room == 1, "but one for what Redis would grant"


@pytest.mark.parametrize(("growth", "is_news"), [(None, False), (0, True), (2, True)])
def test_an_offer_without_a_grant_is_news_only_where_the_pool_may_grow(growth, is_news):
    harness = Harness()
    harness.pool.growth = growth
    assert harness.ledger.notice(Notice(offer=True)) is is_news
    assert not harness.ledger.notice(Notice(contended={"queue:emails": 0}))
    assert harness.ledger.notice(Notice(grants=(granted(2, 99),)))


def test_those_that_run_on_a_lease_that_ends_soon_are_all_that_have_a_permit():
    harness = Harness(lease=60.0)
    request = harness.wait()
    (ask,) = harness.sync().asks
    harness.ledger.notice(Notice(grants=(granted(2, ask.number),)))
    assert harness.ledger.next() is request
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


# -- A permit that is in hand when the limit table changes -----------------------------------------------


def with_permit_in_hand() -> tuple[Harness, Request, int]:
    harness = Harness()
    first = harness.wait()
    number = harness.sync().asks[0].number
    harness.ledger.notice(Notice(grants=(granted(2, number),)))
    return harness, first, number


def test_a_permit_that_was_granted_before_a_max_was_lowered_starts_nothing_after_it():
    harness, _, number = with_permit_in_hand()
    harness.ledger.apply(Synced("ok", version=2, table={"queue:emails": 1}), harness.ends, harness.ends)
    assert harness.ledger.next() is None
    sent = harness.sync()
    assert sent.ended == (number,)
    assert len(sent.asks) == 1, "it asks again, and its age keeps its position"


def test_a_permit_that_was_granted_before_a_max_was_raised_is_used():
    harness, first, _ = with_permit_in_hand()
    harness.ledger.apply(Synced("ok", version=2, table={"queue:emails": 3}), harness.ends, harness.ends)
    assert harness.ledger.next() is first


def test_a_permit_in_hand_is_given_back_where_a_version_of_the_table_was_missed():
    harness, _, _ = with_permit_in_hand()  # the limit may have been lifted in between, and others may run
    harness.ledger.apply(Synced("ok", version=3, table={"queue:emails": 2}), harness.ends, harness.ends)
    assert harness.ledger.next() is None


def test_a_permit_whose_task_came_under_a_limit_while_it_ran_starts_no_other():
    harness = Harness()
    first, _ = harness.wait(), harness.wait()
    number = harness.sync().asks[0].number
    harness.ledger.notice(Notice(grants=(granted(2, number),)))
    assert harness.ledger.next() is first
    table = {"app": 0, "queue:emails": 2}
    harness.ledger.apply(Synced("ok", version=2, table=table), harness.ends, harness.ends)
    (held,) = harness.ledger.collect("e", 9, confirmed=0, full=False).held
    assert held.limits == ("app", "queue:emails")
    harness.ledger.ended(first)  # Redis has not answered yet whether that is above the new limit's max
    assert harness.ledger.next() is None
