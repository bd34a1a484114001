"""Epochs: Redis loses its data, or goes back in time, and nobody is granted a permit that another still uses.

Each case that a server brings about by itself (a restart, a failover) is brought about here by what scripts can see of
it: another run id in ``meta``, keys that are older, or none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from celery_gconc.protocol.keys import Keys
from celery_gconc.protocol.session_store import RESTORED
from celery_gconc.protocol.status import Totals
from celery_gconc.worker.session.counts import Counters
from tests.kit.servers import wait_until

from .look import check_sound, looker
from .namespace import INTERVAL, TIMEOUT, Namespace, Session

ONE = {"app": 1}


class Snapshot:
    """Every key as it is now."""

    def __init__(self, namespace: Namespace) -> None:
        self._raw = namespace.raw
        self._kept = {key: self._raw.dump(key) for key in self._raw.keys("*")}

    def restore(self) -> None:
        """Go back to it."""
        self._raw.flushall()
        for key, value in self._kept.items():
            self._raw.restore(key, 0, value)


def another_server(namespace: Namespace) -> None:
    """Let the data have been written by another server process than this one."""
    namespace.raw.hset(namespace.keys.key("meta"), "server_id", "another")


def again(session: Session, name: str, **how: object) -> Session:
    """The session that follows another of the same worker."""
    found = session.namespace.session(
        name,
        config=ONE,
        former=session.former,
        held=session.holding,
        fence=session.fence,
        **how,
    )
    found.numbers = session.numbers
    return found


@pytest.fixture
def pair(namespace: Namespace) -> Iterator[tuple[Session, Session]]:
    """The first holds the only unit, the second has nothing."""
    first, second = (namespace.session(name, config=ONE) for name in "ab")
    first.ask("app")
    assert namespace.holders("app") == [("a", 1)]
    yield first, second


def pass_time(namespace: Namespace, seconds: float, *sessions: Session) -> None:
    """Let time pass in which these sessions go on saying what they hold."""
    while seconds > 0:
        namespace.step_wall_clock(min(seconds, INTERVAL))
        seconds -= INTERVAL
        for session in sessions:
            session.state()


def test_counters_begin_anew_with_another_server_or_older_data(namespace, pair):
    counters = Counters()
    counters.granted(("app",), 0.1)
    counters.count("lease_losses")
    with counters.collect(1000.0, {}) as record:
        assert record is not None
        namespace.store.record("a", record)
    assert namespace.store.totals().lease_losses == 1
    another_server(namespace)
    assert namespace.store.totals() == Totals(), "a step back to anything else would be taken for a step up from 0"


# -- All data lost ---------------------------------------------------------------------------------------


def test_after_a_loss_of_all_data_whoever_comes_first_waits_for_those_who_may_still_run_tasks(namespace, pair):
    first, second = pair
    namespace.raw.flushall()
    second = again(second, "b2")
    second.ask("app")
    pass_time(namespace, TIMEOUT - INTERVAL, second)
    assert namespace.holders("app") == [], "the first still runs its task"
    first = again(first, "a2")
    assert namespace.holders("app") == [("a2", 1)]
    first.release(1)
    assert namespace.holders("app") == [], "a third could still come back"
    pass_time(namespace, INTERVAL, first, second)
    assert namespace.holders("app") == [("b2", 1)]


def test_survivors_do_not_make_the_others_wait_for_longer_than_a_lease_from_the_loss(namespace, pair):
    first, second = pair
    namespace.raw.flushall()
    second = again(second, "b2")
    second.ask("app")
    pass_time(namespace, TIMEOUT - INTERVAL, second)
    first = again(first, "a2")
    first.release(1)
    pass_time(namespace, INTERVAL, second)
    assert namespace.holders("app") == [("b2", 1)]


def test_a_newcomer_waits_while_somebody_listens_who_has_not_noticed_the_loss(namespace, pair):
    first, _ = pair
    first.listen()
    namespace.raw.flushall()
    new = namespace.session("new", config=ONE)
    assert new.opened.shut == TIMEOUT
    new.ask("app")
    assert namespace.holders("app") == []


@pytest.mark.parametrize("database", [1, 7])
def test_a_newcomer_does_not_wait_for_who_listens_in_another_database(namespace, database):
    elsewhere = Keys("gconc", database)
    pubsub = namespace.raw.pubsub()
    pubsub.subscribe(elsewhere.lease_channel("stranger", 60.0), elsewhere.channel("stranger"))
    assert pubsub.get_message(timeout=5) is not None
    namespace.raw.flushdb()
    assert namespace.session("new", config=ONE).opened.shut == 3.0
    pubsub.close()


def test_a_newcomer_to_an_empty_redis_waits_until_others_could_be_back(namespace):
    namespace.raw.flushall()
    new = namespace.session("new", config=ONE)
    assert new.opened.shut == 3.0, "a second more than any worker lets pass between two tries"
    number = new.ask("app")
    assert namespace.holders("app") == []
    pass_time(namespace, 3.0, new)
    assert namespace.holders("app") == [("new", number)]


def test_a_newcomer_to_an_empty_redis_waits_however_long_the_server_has_been_up(namespace):
    namespace.raw.flushall()
    new = namespace.session("new", config=ONE, interval=0.5, timeout=2.0)  # others try again within its hold
    wait_until(lambda: namespace.raw.info("server")["uptime_in_seconds"] > new.opened.shut, what="it is up for long")
    namespace.raw.flushall()
    assert namespace.session("newer", config=ONE, interval=0.5, timeout=2.0).opened.shut == new.opened.shut > 1.0


def test_a_session_that_comes_when_all_leases_must_have_ended_has_lost_its_own(namespace, pair):
    first, second = pair
    namespace.raw.flushall()
    second = again(second, "b2")
    pass_time(namespace, TIMEOUT, second)
    assert second.ask("app") == 1
    first = again(first, "a2")
    assert first.opened.lapsed
    assert namespace.holders("app") == [("a2", 1), ("b2", 1)], "it counts all the same, and drains"


# -- Data that went back in time -------------------------------------------------------------------------


def test_another_server_with_the_same_data_grants_when_each_session_has_stated_what_it_runs(namespace, pair):
    first, second = pair
    another_server(namespace)
    number = second.ask("app")
    assert second.sync().status == "closed"
    second = again(second, "b2")
    second.ask("app")
    assert not second.opened.lapsed
    pass_time(namespace, INTERVAL + 1, second)
    assert namespace.is_settling("app")
    first = again(first, "a2")
    assert namespace.holders("app") == [("a2", 1)]
    first.release(1)
    assert namespace.holders("app") == [("b2", number + 1)]


def test_grants_that_a_replica_has_not_heard_of_count_when_it_takes_over(namespace, pair):
    first, second = pair
    first.release(1)
    stale = Snapshot(namespace)
    first.ask("app")
    assert namespace.holders("app") == [("a", 2)]
    stale.restore()
    another_server(namespace)
    second = again(second, "b2")
    second.ask("app")
    pass_time(namespace, INTERVAL + 1, second)
    assert namespace.holders("app") == []
    first = again(first, "a2")
    assert namespace.holders("app") == [("a2", 2)]
    first.release(2)
    assert namespace.holders("app") == [("b2", 1)]


def test_a_session_of_the_old_data_that_is_gone_holds_the_others_up_for_its_lease(namespace, pair):
    _, second = pair
    another_server(namespace)
    second = again(second, "b2")
    second.ask("app")
    pass_time(namespace, TIMEOUT - INTERVAL, second)
    assert namespace.holders("app") == [("a", 1)]
    pass_time(namespace, INTERVAL, second)
    assert namespace.holders("app") == [("b2", 1)]


def test_a_session_that_the_data_does_not_know_shows_that_others_may_be_missing_too(namespace):
    first = namespace.session("a", config=ONE)
    stale = Snapshot(namespace)
    late, later = (namespace.session(name, config=ONE) for name in ("late", "later"))
    later.ask("app")
    stale.restore()
    another_server(namespace)
    first, late = again(first, "a2"), again(late, "late2")
    first.ask("app")
    pass_time(namespace, TIMEOUT - INTERVAL, first, late)
    assert namespace.holders("app") == [], "the third runs a task, and nothing here tells of it"
    again(later, "later2")
    assert namespace.holders("app") == [("later2", 1)]


def test_data_that_went_back_on_the_same_server_is_noticed_by_whoever_was_answered_since(namespace, pair):
    first, second = pair
    first.release(1)
    stale = Snapshot(namespace)
    first.ask("app")
    second.sync()
    stale.restore()
    assert second.sync(asks=[]).status == "closed"
    second = again(second, "b2")
    second.ask("app")
    assert namespace.holders("app") == []
    assert first.sync().status == "closed"
    first = again(first, "a2")
    assert namespace.holders("app") == [("a2", 2)]


def test_a_session_that_was_deleted_by_hand_is_no_lapsed_one(namespace, pair):
    first, second = pair
    for name in ("sessions", "session", "units", "held", "holders", "grants", "running", "wants", "roll"):
        namespace.raw.delete(namespace.keys.key(name))
    assert second.sync().status == "closed"
    second = again(second, "b2")
    assert not second.opened.lapsed
    second.ask("app")
    assert namespace.holders("app") == []
    first = again(first, "a2")
    assert namespace.holders("app") == [("a2", 1)]


def test_a_lease_that_ran_out_in_the_same_epoch_is_told_as_such(namespace, pair):
    first, second = pair
    pass_time(namespace, TIMEOUT, second)
    assert first.sync().status == "closed"
    assert again(first, "a2").opened.lapsed


def test_data_of_an_earlier_epoch_is_no_reason_to_go_on_at_once(namespace, pair):
    first, second = pair
    first.release(1)
    earlier = Snapshot(namespace)
    another_server(namespace)
    first, second = again(first, "a2"), again(second, "b2")
    pass_time(namespace, INTERVAL + 1, first, second)
    number = first.ask("app")
    assert namespace.holders("app") == [("a2", number)]
    earlier.restore()
    namespace.elapse(TIMEOUT)
    second = again(second, "b3")
    second.ask("app")
    assert namespace.holders("app") == []
    again(first, "a3")
    assert namespace.holders("app") == [("a3", number)]


def test_an_open_that_was_not_heard_of_leaves_nothing_behind(namespace, pair):
    first, _ = pair
    another_server(namespace)
    former = first.former
    namespace.session("unheard", config=ONE, former=former, held=first.holding, states=False)
    first = namespace.session(
        "heard", config=ONE, held=first.holding, former=replace(former, sessions=("a", "unheard"))
    )
    assert namespace.live() == ["b", "heard"]
    assert namespace.holders("app") == [("heard", 1)]


# -- What operators set, and the version of the table ----------------------------------------------------


def test_what_operators_set_comes_back_with_the_survivors(namespace, pair):
    first, second = pair
    namespace.set("app", 3)
    namespace.set("queue:slow", 1)
    namespace.store.pause("queue:slow", True, by="me@there")
    first.sync()
    version = first.version
    namespace.raw.flushall()
    second = again(second, "b2")  # it had not heard of the change
    assert second.table == {"app": 1}
    first = again(first, "a2")
    assert first.table == {"app": 3, "queue:slow": 0}
    assert first.version > version, "what a session was told of is never newer than what holds"
    status = namespace.store.status()
    assert (status["app"].max, status["app"].set_by) == (3, "test")
    assert (status["queue:slow"].paused, status["queue:slow"].paused_by) == (True, "me@there")


def test_what_was_set_since_the_loss_stays(namespace, pair):
    first, _ = pair
    stale = Snapshot(namespace)
    namespace.set("app", 5)
    namespace.store.pause("queue:slow", True, by="test")
    first.sync()
    stale.restore()
    another_server(namespace)
    namespace.set("app", 2)
    namespace.store.pause("queue:slow", False, by="test")
    again(first, "a2")
    assert namespace.max("app") == 2
    assert not namespace.store.status("queue:slow")["queue:slow"].paused


@pytest.mark.parametrize("changed", ["set", "reset", "paused", "another"])
def test_what_was_set_in_data_that_went_back_on_the_same_server_stays(namespace, pair, changed):
    first, second = pair
    namespace.set("queue:slow", 4)
    stale = Snapshot(namespace)
    namespace.set("app", 3)
    namespace.set("queue:slow", 2)
    for session in pair:
        session.sync()
    stale.restore()
    namespace.step_wall_clock(1)
    if changed == "set":
        namespace.set("queue:slow", 1)
    elif changed == "reset":
        namespace.store.reset("queue:slow", by="test")
    elif changed == "paused":
        namespace.store.pause("queue:slow", True, by="test")
    else:
        for maximum in range(1, 5):
            namespace.set("pool:new", maximum)
    assert second.sync(asks=[]).status == "closed", "it notices first, after the change"
    second, first = again(second, "b2"), again(first, "a2")
    assert namespace.max("app") == 3, "this was lost"
    assert namespace.max("queue:slow") == {"set": 1, "reset": None, "paused": 0, "another": 2}[changed]
    assert namespace.max("pool:new") == (4 if changed == "another" else None)


def test_what_a_survivor_never_heard_of_is_not_undone_by_what_it_remembers(namespace, pair):
    first, second = pair
    namespace.set("app", 5)
    first.sync()
    namespace.step_wall_clock(1)
    namespace.set("app", 2)
    namespace.set("queue:slow", 1)
    namespace.set("queue:slow", 3)
    second.sync()
    namespace.raw.hset(namespace.keys.key("session"), "b:sync", 0)
    assert second.sync(asks=[]).status == "closed"
    again(first, "a2")
    assert namespace.max("app") == 2
    assert namespace.max("queue:slow") == 3


def test_what_was_set_between_a_loss_of_all_data_and_the_first_survivor_stays(namespace, pair):
    first, _ = pair
    namespace.set("app", 5)
    first.sync()
    namespace.raw.flushall()
    namespace.set("app", 2)
    again(first, "a2")
    assert namespace.max("app") == 2


def test_what_was_reset_before_the_loss_does_not_come_back_with_old_data(namespace, pair):
    first, _ = pair
    namespace.set("app", 5)
    stale = Snapshot(namespace)
    namespace.store.reset("app", by="test")
    first.sync()
    stale.restore()
    another_server(namespace)
    again(first, "a2")
    assert namespace.max("app") == 1


def test_much_that_operators_set_comes_back_in_pieces_and_what_was_reset_does_not(namespace, pair):
    first, _ = pair
    limits = [f"pool:{number}" for number in range(2 * RESTORED + 10)]
    for limit in limits:
        namespace.set(limit, 3)
    stale = Snapshot(namespace)
    for number, limit in enumerate(limits):
        namespace.set(limit, 4) if number % 2 else namespace.store.reset(limit, by="test")
    newest = int(namespace.raw.hget(namespace.keys.key("meta"), "version"))
    while first.version < newest:  # it is told some changes by each
        first.sync()
    stale.restore()
    another_server(namespace)
    again(first, "a2")
    assert namespace.look().maxima == {"app": 1, **dict.fromkeys(limits[1::2], 4)}
    check_sound(looker(namespace)())


# -- Fencing numbers -------------------------------------------------------------------------------------


def granted_fence(session: Session) -> int:
    """Have the session granted a unit, and return the fencing number that came with it."""
    session.ask("app")
    (grant,) = session.sync(granted=session.granted - 1).grants
    return grant.fence


def test_fencing_numbers_grow_with_each_grant_and_follow_redis_clock(namespace, pair):
    first, second = pair
    seconds, micros = namespace.raw.time()
    first.release(1)
    fences = [first.fence]
    for session in (second, first, second):
        fences.append(granted_fence(session))
        session.release(*session.holding)
    assert fences == sorted(set(fences))
    assert fences[-1] >= seconds * 10_000 + micros // 100


def test_each_statement_is_answered_with_a_fencing_number_above_all_before(namespace, pair):
    """Tasks that are started with units from before have numbers of their own, above those of whoever had them."""
    first, second = pair
    fences = [first.fence, second.state().fence, first.state().fence]
    first.release(1)
    fences += [granted_fence(second), first.state().fence, second.state().fence]
    assert fences == sorted(set(fences))


def test_only_a_statement_is_answered_with_a_fencing_number(namespace, pair):
    first, _ = pair
    assert first.sync().fence == 0


def test_fencing_numbers_go_on_growing_when_all_data_is_lost(namespace, pair):
    first, second = pair
    before = first.fence
    first.release(1)
    namespace.raw.flushall()
    second = again(second, "b2")
    namespace.reopen()
    assert granted_fence(second) > before


@pytest.mark.parametrize("how", ["open", "statement"])
def test_fencing_numbers_never_fall_behind_one_that_is_restated(namespace, pair, how):
    first, second = pair
    far = first.fence + 10**9  # a day ahead of Redis' clock, as after a step back
    namespace.raw.flushall()
    fence = far if how == "open" else 0
    how_it_opens = {"former": first.former, "held": first.holding, "states": False, "fence": fence}
    first = namespace.session("a2", config=ONE, **how_it_opens)
    first.catch_up()
    if how == "statement":
        first.state(fence=far)
    second = again(second, "b2")
    first.release(1)
    namespace.reopen()
    assert granted_fence(second) > far


def test_a_session_that_older_data_know_has_a_whole_lease_from_then_on(namespace, pair):
    """It may have renewed it just before the loss, and trusts it, where it is cut off now."""
    first, second = pair
    pass_time(namespace, TIMEOUT - 2 * INTERVAL, second)  # the first has half of its lease left
    snapshot = Snapshot(namespace)
    first.state()
    snapshot.restore()
    another_server(namespace)
    second = again(second, "c")
    pass_time(namespace, TIMEOUT - INTERVAL, second)
    assert namespace.holders("app") == [("a", 1)]
    pass_time(namespace, 2 * INTERVAL, second)
    assert namespace.holders("app") == []
