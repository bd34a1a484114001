"""Sessions with heartbeat settings of their own: the lease clock, and for how long a loss of data shuts Redis."""

from __future__ import annotations

import pytest

from celery_gconc.protocol.openings import Former

from .namespace import INTERVAL, TIMEOUT, Namespace, Session

ONE = {"app": 1}
#: Interval and timeout of sessions before a deploy and after it, in seconds.
SLOW, QUICK = (20.0, 60.0), (2.0, 6.0)


def begin(namespace: Namespace, name: str, beats: tuple[float, float], **how: object) -> Session:
    interval, timeout = beats
    return namespace.session(name, config=ONE, interval=interval, timeout=timeout, **how)


def again(session: Session, name: str) -> Session:
    """The session that follows another of the same worker."""
    return begin(
        session.namespace, name, (session.interval, session.timeout), former=session.former,
        held=session.holding, fence=session.fence,
    )  # fmt: skip


def meta(namespace: Namespace, field: str) -> int:
    return int(namespace.raw.hget(namespace.keys.key("meta"), field))


# -- Leases and the lease clock --------------------------------------------------------------------------


def test_each_sync_renews_a_lease_by_the_timeout_of_its_own_session(namespace):
    slow, quick = begin(namespace, "slow", SLOW), begin(namespace, "quick", QUICK)
    for session, (_, timeout) in ((slow, SLOW), (quick, QUICK)):
        session.sync()
        assert session.lease - namespace.clock() == timeout * 1000


@pytest.mark.parametrize("last", ["slow", "quick"])
def test_a_step_of_redis_clock_takes_no_more_than_the_least_interval_of_any_lease_whoever_opened_last(namespace, last):
    for name in {"slow": ("quick", "slow"), "quick": ("slow", "quick")}[last]:
        begin(namespace, name, {"slow": SLOW, "quick": QUICK}[name])
    before = namespace.clock()
    namespace.step_wall_clock(3600)
    namespace.call()
    assert namespace.clock() - before == QUICK[0] * 1000
    assert namespace.live() == ["quick", "slow"]


def test_the_lease_clock_takes_longer_steps_again_when_the_session_with_the_least_interval_is_closed(namespace):
    begin(namespace, "slow", SLOW)
    begin(namespace, "quick", QUICK)
    namespace.store.close_session("quick")
    before = namespace.clock()
    namespace.step_wall_clock(3600)
    namespace.call()
    assert namespace.clock() - before == SLOW[0] * 1000


def test_a_killed_session_holds_the_lease_clock_back_until_its_lease_has_ended_and_no_longer(namespace):
    begin(namespace, "slow", SLOW)
    begin(namespace, "quick", QUICK)
    namespace.elapse(QUICK[1], interval=QUICK[0])
    assert namespace.live() == ["slow"]
    assert meta(namespace, "interval") == SLOW[0] * 1000


def test_whoever_waits_is_told_to_come_again_in_a_step_of_the_clock_while_nobody_else_calls_that_often(namespace):
    begin(namespace, "killed", QUICK).ask("app")
    slow = begin(namespace, "slow", SLOW)
    number = slow.ask("app")
    for _ in range(10):
        namespace.step_wall_clock(SLOW[0])
        expires = slow.sync().expires
        if expires is None:
            break
        assert expires <= QUICK[0] * 1.1
    assert namespace.holders("app") == [("slow", number)]


def test_a_replaced_session_no_longer_counts_with_its_settings(namespace):
    old = begin(namespace, "old", QUICK)
    begin(namespace, "new", SLOW, former=old.former)
    assert meta(namespace, "interval") == SLOW[0] * 1000
    assert namespace.raw.zcard(namespace.keys.key("heartbeats")) == 2


# -- The longest lease -----------------------------------------------------------------------------------


def test_every_answer_tells_the_longest_lease_of_any_live_session(namespace):
    quick = begin(namespace, "quick", QUICK)
    assert quick.longest == QUICK[1]
    slow = begin(namespace, "slow", SLOW)
    assert slow.opened.longest == SLOW[1]
    quick.sync()
    assert quick.longest == SLOW[1]


def test_a_session_that_has_ended_is_no_longer_the_one_with_the_longest_lease(namespace):
    quick = begin(namespace, "quick", QUICK)
    begin(namespace, "slow", SLOW)
    namespace.store.close_session("slow")
    quick.sync()
    assert quick.longest == QUICK[1]


def test_nor_is_one_whose_lease_has_ended(namespace):
    quick = begin(namespace, "quick", QUICK)
    begin(namespace, "slow", SLOW)
    for _ in range(int(SLOW[1] / QUICK[0]) + 1):
        namespace.step_wall_clock(QUICK[0])
        quick.sync()
    assert namespace.live() == ["quick"]
    assert quick.longest == QUICK[1]


def test_after_a_loss_of_all_data_grants_wait_for_the_longest_lease_that_the_first_to_come_has_heard_of(namespace):
    slow = begin(namespace, "slow", SLOW)
    slow.ask("app")
    quick = begin(namespace, "quick", QUICK)
    namespace.raw.flushall()
    quick = again(quick, "quick2")
    assert quick.opened.shut == SLOW[1]
    quick.ask("app")
    namespace.elapse(SLOW[1] - 2 * QUICK[0], interval=QUICK[0])
    assert namespace.holders("app") == [], "the other is cut off, and may still start tasks"
    slow = again(slow, "slow2")
    assert namespace.holders("app") == [("slow2", 1)]


def test_a_lease_that_was_heard_of_is_told_on_until_it_has_ended_for_data_may_be_lost_again(namespace):
    begin(namespace, "slow", SLOW)
    quick = begin(namespace, "quick", QUICK)
    namespace.raw.flushall()
    quick = again(quick, "quick2")
    assert quick.longest == SLOW[1]
    namespace.raw.flushall()
    quick = again(quick, "quick3")
    assert quick.opened.shut == SLOW[1]
    for _ in range(int(SLOW[1] / QUICK[0]) + 1):
        namespace.step_wall_clock(QUICK[0])
        quick.sync()
    assert quick.longest == QUICK[1]


def test_a_newcomer_to_an_empty_redis_waits_for_the_longest_lease_of_those_who_listen(namespace):
    begin(namespace, "quick", QUICK).listen()
    begin(namespace, "slow", SLOW).listen()
    namespace.raw.flushall()
    assert begin(namespace, "new", QUICK).opened.shut == SLOW[1]


def test_whoever_listens_holds_grants_up_for_no_longer_than_a_lease_may_be(namespace):
    namespace.raw.flushall()
    pubsub = namespace.raw.pubsub()
    pubsub.subscribe(namespace.keys.lease_channel("stranger", 10**6))
    assert pubsub.get_message(timeout=5) is not None
    assert begin(namespace, "new", QUICK).opened.shut == 300
    pubsub.close()


def test_a_newcomer_with_a_short_interval_waits_until_those_with_a_long_one_have_tried_again(namespace):
    namespace.raw.flushall()
    assert begin(namespace, "new", (0.1, 0.3)).opened.shut > 1.5


def test_after_a_restart_with_its_data_grants_wait_for_the_longest_interval(namespace):
    begin(namespace, "slow", SLOW)
    quick = begin(namespace, "quick", QUICK)
    namespace.raw.hset(namespace.keys.key("meta"), "server_id", "another")
    assert again(quick, "quick2").opened.shut == SLOW[0] + 0.5


def test_a_session_that_the_data_does_not_know_holds_grants_up_for_the_longest_lease_that_it_has_heard_of(namespace):
    begin(namespace, "known", QUICK)
    unknown = Former(("gone",), "run:1", 5, longest=SLOW[1])
    assert begin(namespace, "new", QUICK, former=unknown).opened.shut == pytest.approx(SLOW[1], abs=1)


# -- A new namespace, and a loss -------------------------------------------------------------------------


def test_a_new_namespace_is_told_from_a_loss(namespace):
    namespace.raw.flushall()
    first = begin(namespace, "first", (INTERVAL, TIMEOUT))
    second = begin(namespace, "second", (INTERVAL, TIMEOUT))
    for session in (first, second):
        assert session.opened.shut
        assert not session.opened.lost


def test_so_is_a_loss_that_shows_by_a_worker_that_lived_or_listens(namespace):
    first = begin(namespace, "first", QUICK).listen()
    namespace.raw.flushall()
    assert begin(namespace, "newcomer", QUICK).opened.lost
    first.deaf()
    namespace.raw.flushall()
    assert not begin(namespace, "other", QUICK).opened.lost
    assert again(first, "first2").opened.lost
    assert begin(namespace, "third", QUICK).opened.lost
