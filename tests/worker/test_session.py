"""A session's steps over a real Redis, with no thread and a clock of the test's: what is due, and what comes of it."""

from __future__ import annotations

import pytest

from celery_gconc.errors import SessionRefused, StoreUnavailable
from celery_gconc.protocol.counted import RECORDED
from celery_gconc.protocol.scripts import PIECE
from celery_gconc.protocol.session_store import MAX_NOTICES
from celery_gconc.worker.ledger.holdings import IDLE_SECONDS, LAZY_SECONDS
from celery_gconc.worker.ledger.permit import STEPS
from celery_gconc.worker.session.health import LostLeases
from celery_gconc.worker.session.session import MAX_OPENINGS, STATEMENT_SECONDS
from tests.kit.servers import wait_until
from tests.store.namespace import Namespace

from .session_parts import APP, INTERVAL, TIMEOUT, Request, Running

#: How long a step and what stands around it may take on a loaded machine, in seconds.
SLACK = 2.0


def syncs(namespace: Namespace, running: Running) -> int:
    """How many syncs of the present session Redis has heard."""
    return int(namespace.raw.hget(namespace.keys.key("session"), f"{running.session.id}:sync") or 0)


def started(running: Running) -> Request:
    """A request that runs with a permit."""
    request = Request()
    running.ledger.wait(request)
    running.run_once()
    assert running.ledger.next() is request
    return request


def given_back(running: Running, namespace: Namespace) -> None:
    """Wait until the session has given back what it doesn't use; its ledger goes by the real time."""

    def is_given_back() -> bool:
        running.run_once()
        return not namespace.holders("app")

    wait_until(is_given_back, what="its permit is free")


# -- Opening ---------------------------------------------------------------------------------------------


def test_a_session_is_opened_in_the_first_step_and_syncs_in_the_next(running, namespace):
    assert running.run_once() == 0.0, "the next step is due at once"
    assert namespace.live() == [running.session.id]
    assert (syncs(namespace, running), running.notices.is_open, running.session.is_synced) == (0, False, False)
    assert running.run_once() <= 0.0, "it is to say what it runs, by the limits that it was told"
    assert (syncs(namespace, running), running.notices.is_open, running.session.is_synced) == (1, True, True)
    assert 0.0 < running.run_once() <= INTERVAL
    assert syncs(namespace, running) == 2


def test_an_open_session_goes_by_what_holds_in_redis(running, namespace):
    namespace.set("queue:other", 7)
    running.open()
    assert dict(running.ledger.table) == {"app": 1, "queue:other": 7}
    assert running.ledger.session == running.session.id
    assert TIMEOUT - SLACK < running.ledger.lease_left() <= TIMEOUT
    assert running.consumer.wakes >= 1


def test_a_session_is_synced_when_it_was_told_all_limits_in_as_many_syncs_as_that_takes_one_after_the_other(
    make, namespace
):
    many = {f"queue:q{number:04}": 3 for number in range(2 * PIECE + 1)}
    namespace.session("other", config=many)
    running = make(global_concurrency_commit_interval=4.0)
    running.run_once()
    for piece in range(3):
        assert not running.session.is_synced
        assert dict(running.ledger.table) == {"app": 1}, "its own configuration"
        assert running.run_once() <= 0.0, f"piece {piece}"
    assert running.session.is_synced
    assert dict(running.ledger.table) == {"app": 1, **many}


def test_a_change_holds_in_a_session_as_soon_as_it_hears_of_it(running, namespace):
    running.open()
    before = syncs(namespace, running)
    namespace.set("app", 0)
    while running.ledger.table["app"]:
        assert running.hear()
    assert syncs(namespace, running) == before
    running.run_once(after=1.0)
    assert syncs(namespace, running) == before + 1


def test_a_session_that_missed_a_notice_hears_of_the_change_with_its_next_heartbeat(running, namespace):
    running.open()
    namespace.raw.client_kill_filter(_type="pubsub")
    namespace.set("app", 7)
    running.session.disconnected()
    running.run_once(after=INTERVAL)
    assert running.ledger.table["app"] == 7


def test_a_redis_that_may_evict_keys_refuses_a_worker_before_it_writes_anything(running, namespace):
    namespace.raw.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(SessionRefused, match="maxmemory-policy is allkeys-lru"):
            running.run_once()
    finally:
        namespace.raw.config_set("maxmemory-policy", "noeviction")
    assert namespace.live() == []


# -- Syncs -----------------------------------------------------------------------------------------------


def test_a_session_with_nothing_to_say_is_due_with_the_next_heartbeat_and_says_nothing_before(running, namespace):
    running.open()
    before = syncs(namespace, running)
    assert INTERVAL - SLACK < running.run_once() <= INTERVAL
    assert running.run_once(after=INTERVAL / 2) > 0
    assert syncs(namespace, running) == before


def test_a_request_that_waits_is_asked_for_and_its_grant_wakes_the_consumer(running, namespace):
    running.open()
    woken = running.consumer.wakes
    request = Request()
    running.ledger.wait(request)
    running.run_once()
    assert len(namespace.holders("app")) == 1
    assert running.consumer.wakes > woken
    assert running.ledger.next() is request


def test_a_permit_that_nobody_uses_goes_back_in_a_moment(running, namespace):
    running.open()
    request = started(running)
    running.ledger.ended(request)
    assert running.run_once() <= IDLE_SECONDS + LAZY_SECONDS
    given_back(running, namespace)


def test_syncs_are_a_commit_interval_apart(make, namespace):
    running = make(global_concurrency_commit_interval=1.0)
    running.open()
    before = syncs(namespace, running)
    running.ledger.wait(Request())
    assert 1.0 - SLACK < running.run_once() <= 1.0
    assert syncs(namespace, running) == before
    running.run_once(after=1.0)
    assert syncs(namespace, running) == before + 1


def test_a_heartbeat_states_everything_and_renews_the_lease(running, namespace):
    running.open()
    started(running)
    (holder,) = namespace.holders("app")
    for name in ("units", "held", "holders", "wants", "roll", "waiters", "turns"):  # as if Redis had forgotten it
        namespace.raw.delete(namespace.keys.key(name))
    before = namespace.look().leases[running.session.id]
    namespace.step_wall_clock(INTERVAL)
    assert running.run_once(after=INTERVAL) <= INTERVAL
    assert namespace.holders("app") == [holder]
    assert namespace.look().leases[running.session.id] - before >= 1000 * INTERVAL
    assert running.ledger.lease_left() > TIMEOUT + INTERVAL - SLACK, "by the clock that it is called with"


def test_what_was_counted_goes_with_a_heartbeat(running, namespace):
    running.open()
    running.counters.granted(("app",), 0.1)
    running.run_once()
    assert not namespace.store.totals().limits
    running.run_once(after=INTERVAL)
    assert namespace.store.totals().limits[0].grants == 1


def test_much_that_was_counted_goes_in_pieces_in_steps_of_their_own(running, namespace):
    running.open()
    for number in range(2 * RECORDED + 1):
        running.counters.granted((f"pool:{number}",), 0.1)
    assert running.run_once(after=INTERVAL) == 0.0, "there is more"
    told = len(namespace.store.totals().limits)
    request = Request()
    running.ledger.wait(request)
    running.run_once()
    assert running.ledger.next() is request, "what a task waits for comes first"
    while running.run_once() == 0.0:
        pass
    assert told == RECORDED, "some at a time"
    assert len(namespace.store.totals().limits) == 2 * RECORDED + 1, "and all in the end"


def test_a_session_that_is_closed_tells_all_that_was_counted(running, namespace):
    running.open()
    for number in range(2 * RECORDED + 1):
        running.counters.granted((f"pool:{number}",), 0.1)
    running.session.close(running.moment)
    assert len(namespace.store.totals().limits) == 2 * RECORDED + 1


def test_a_sync_that_came_too_late_is_followed_at_once_by_one_that_states_everything(running, namespace):
    running.open()
    assert running.hear(), "Redis answers on the connection for notices"
    started(running)
    first = running.session.id
    key, field, before = namespace.keys.key("session"), f"{first}:sync", syncs(namespace, running)
    namespace.raw.hset(key, field, 1000)  # a later one came first
    running.ledger.wait(Request())
    running.run_once()
    assert namespace.line("app") == []
    for name in ("units", "held", "holders", "wants", "roll", "waiters", "turns"):
        namespace.raw.delete(namespace.keys.key(name))
    namespace.raw.hset(key, field, before)
    running.run_once()
    assert len(namespace.holders("app")) == len(namespace.line("app")) == 1
    assert running.session.id == first


# -- The end of a session, and the next ------------------------------------------------------------------


def test_a_session_whose_lease_ran_out_is_opened_anew_with_what_runs_and_says_that_it_was_lost(running, namespace):
    lost = LostLeases()
    running.health.listen(lost)
    running.open()
    request = started(running)
    first, other = running.session.id, namespace.session("other")
    for _ in range(4):
        namespace.step_wall_clock(INTERVAL)
        other.state()
    assert namespace.live() == ["other"]
    woken = running.consumer.wakes
    assert running.run_once(after=4 * INTERVAL) == 0.0, "Redis says that it has ended"
    assert running.run_once() == 0.0
    assert running.session.id != first
    assert namespace.live() == sorted(["other", running.session.id])
    assert len(namespace.holders("app")) == 1, "what runs is stated when it is opened"
    running.run_once()
    assert running.session.is_synced
    found = lost.take()
    assert found is not None
    assert (found.session, found.holders, found.running) == (first, (request,), 1)
    assert running.health.lease_losses == 1
    assert running.consumer.wakes > woken
    assert namespace.store.totals().lease_losses == 1


def test_a_session_whose_redis_lost_all_data_is_opened_anew_and_brings_back_what_was_set(running, namespace):
    running.open()
    namespace.set("app", 3)
    running.run_once(after=INTERVAL)
    started(running)
    first = running.session.id
    namespace.raw.flushall()
    assert running.run_once(after=INTERVAL) == 0.0
    running.run_once()
    running.run_once()
    assert running.session.id != first
    assert namespace.max("app") == 3
    assert len(namespace.holders("app")) == 1
    assert running.health.lease_losses == 0, "its lease had not run out"


def statements(namespace: Namespace) -> int:
    """What grows with each statement, and with nothing else while nothing is granted: the fencing number."""
    return int(namespace.raw.hget(namespace.keys.key("meta"), "fence"))


def beat(running: Running) -> float:
    """A heartbeat; return in how many seconds the session is due again."""
    due_in = running.run_once(after=INTERVAL)
    assert running.hear(), "the connection for notices answers: it lives"
    return due_in


def quiet(running: Running, namespace: Namespace) -> None:
    """Open a session, and let it say all that is to be said at first."""
    running.open()
    assert running.hear()
    namespace.reopen()
    beat(running)
    running.run_once()


def test_heartbeats_of_a_session_with_nothing_to_say_are_short_but_for_one_a_minute(running, namespace):
    quiet(running, namespace)
    before = statements(namespace)
    for _ in range(int(STATEMENT_SECONDS / INTERVAL) - 2):
        lease = namespace.look().leases[running.session.id]
        namespace.step_wall_clock(INTERVAL)
        assert 0 < beat(running) <= INTERVAL
        assert namespace.look().leases[running.session.id] > lease
        assert running.ledger.lease_left() > running.ahead + TIMEOUT - SLACK
    assert statements(namespace) == before
    beat(running)
    assert statements(namespace) > before


def test_a_short_heartbeat_says_what_runs_and_which_units_are_idle(running, namespace):
    quiet(running, namespace)
    request = started(running)
    running.run_once()
    beat(running)
    before = statements(namespace)
    beat(running)
    assert statements(namespace) == before
    assert [holder.task_id for holder in namespace.store.holders("app", 10)] == [request.task_id]
    running.ledger.ended(request)
    assert running.ledger.start(Request(task_id="id-2"))
    beat(running)
    assert [holder.task_id for holder in namespace.store.holders("app", 10)] == ["id-2"]
    assert statements(namespace) == before


def test_where_redis_has_more_to_do_a_statement_follows_at_once(running, namespace):
    quiet(running, namespace)
    request = started(running)
    beat(running)
    other = namespace.session("other", config={"app": 1})
    other.ask("app")
    before = statements(namespace)
    running.run_once(after=INTERVAL)  # it has not read the notice of that
    assert statements(namespace) > before
    running.ledger.ended(request)
    assert not running.ledger.start(Request()), "it has heard that another waits"


def test_what_was_started_without_a_permit_is_stated_with_the_next_heartbeat(running, namespace):
    quiet(running, namespace)
    request = Request(claims=APP)
    running.ledger.start_unlimited(request)  # in the moment in which Redis was back
    running.run_once(after=INTERVAL)
    assert [holder.task_id for holder in namespace.store.holders("app", 10)] == [request.task_id]


def test_a_session_that_has_given_many_fencing_numbers_is_given_others_with_a_statement(running, namespace):
    quiet(running, namespace)
    before = statements(namespace)
    running.ledger._trust.next_number += STEPS // 8
    beat(running)
    assert statements(namespace) > before


def test_a_session_of_an_earlier_epoch_is_opened_anew_in_the_one_that_is_now(running, namespace):
    running.open()
    started(running)
    first = running.session.id
    namespace.raw.hset(namespace.keys.key("meta"), "server_id", "another")  # as if another server had loaded the data
    assert running.run_once(after=INTERVAL) == 0.0
    running.open()
    assert running.session.id != first
    assert namespace.live() == [running.session.id]
    assert len(namespace.holders("app")) == 1
    second = running.session.id
    running.run_once(after=INTERVAL)
    assert namespace.live() == [second], "it is of the epoch that is now"


def test_a_session_whose_redis_lost_all_data_says_the_longest_lease_that_it_has_heard_of(running, namespace):
    namespace.session("other", timeout=4 * TIMEOUT)
    running.open()
    running.run_once(after=INTERVAL)
    namespace.raw.flushall()
    assert running.run_once(after=INTERVAL) == 0.0
    running.run_once()
    meta = namespace.raw.hgetall(namespace.keys.key("meta"))
    shut = (int(meta[b"closed_until"]) - int(meta[b"epoch_began"])) / 1000
    assert shut == 4 * TIMEOUT, "for the other may run tasks on that lease"


def test_a_redis_that_ends_each_session_at_once_is_taken_to_be_away(running, namespace):
    for _ in range(MAX_OPENINGS):
        assert running.run_once() == 0.0
        namespace.store.close_session(running.session.id)
        assert running.run_once() == 0.0
    with pytest.raises(StoreUnavailable, match="as soon as they were open"):
        running.run_once()
    running.session.disconnected()
    running.open()


def test_a_session_that_is_closed_leaves_nothing_behind(running, namespace):
    running.open()
    running.counters.count("redis_errors")
    running.session.close(running.moment)
    assert namespace.live() == []
    assert namespace.store.totals().redis_errors == 1
    assert not running.notices.is_open


# -- Redis is away ---------------------------------------------------------------------------------------


def test_a_session_goes_on_where_redis_was_away_and_states_everything(make, namespace, way):
    running = make(f"redis://127.0.0.1:{way.port}/0")
    running.open()
    request = started(running)
    first, before = running.session.id, syncs(namespace, running)
    running.ledger.ended(request)
    way.cut()
    with pytest.raises(StoreUnavailable):
        running.run_once(after=INTERVAL)
    running.session.disconnected()
    assert (running.notices.is_open, running.session.is_synced) == (False, False)
    way.restore()
    running.run_once()
    assert running.session.id == first, "its lease lasted"
    assert (running.notices.is_open, running.session.is_synced) == (True, True)
    assert syncs(namespace, running) > before
    given_back(running, namespace)


def test_the_ids_under_which_a_session_was_tried_are_said_when_it_is_opened(make, namespace, way):
    running = make(f"redis://127.0.0.1:{way.port}/0")
    way.cut()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            running.run_once()
        running.session.disconnected()
    way.restore()
    running.open()
    assert namespace.live() == [running.session.id]


# -- Others ----------------------------------------------------------------------------------------------


def test_what_a_dead_session_holds_is_reclaimed_as_soon_as_its_lease_ends(running, namespace):
    lease = 2.0
    dead = namespace.session("dead", interval=1.0, timeout=lease, config={"app": 1})
    dead.ask("app")
    assert namespace.holders("app") == [("dead", 1)]
    running.open()
    request = Request()
    running.ledger.wait(request)
    due_in, passed = running.run_once(), 0.0
    while running.ledger.next() is None:
        assert due_in > 0
        passed += due_in
        namespace.step_wall_clock(due_in)
        due_in = running.run_once(after=due_in)
    assert lease - 0.5 < passed < INTERVAL - 1.0, "it doesn't wait for the heartbeat"


def test_a_grant_that_redis_gives_unasked_is_heard(running, namespace):
    running.open()
    other = namespace.session("other")
    held = other.ask("app")
    request = Request()
    running.ledger.wait(request)
    running.run_once()
    assert running.ledger.next() is None
    woken = running.consumer.wakes
    other.release(held)
    while running.ledger.next() is None:
        assert running.hear(), "nothing came"
    assert running.consumer.wakes > woken


def test_notices_that_came_in_one_go_are_all_read(running, namespace):
    running.open()
    channel = namespace.keys.channel(running.session.id)
    running.hear(0)
    with namespace.raw.pipeline() as pipe:
        for number in range(2 * MAX_NOTICES):
            pipe.publish(channel, f'{{"recall": {{"queue:{number}": 0}}}}')
        pipe.execute()
    goes = 0
    while running.notices.has_more or running.hear(1.0):
        goes += 1
        if running.notices.has_more:
            running.notices.read()
    interests = running.ledger.collect("", 0, confirmed=0, full=False).interests
    assert len(interests) == 2 * MAX_NOTICES, "all of them are contended"
    assert goes >= 2


def test_a_connection_for_notices_that_is_silent_for_an_interval_is_replaced(running):
    running.open()
    first = running.notices.socket
    for _ in range(2):
        assert running.hear(), "Redis answers on it"
        running.run_once(after=INTERVAL)
        assert running.notices.socket is first
    running.run_once(after=INTERVAL)  # nobody has read the answer
    assert running.notices.socket is not first
    assert running.ledger.due_at is not None, "what it may have missed comes with the next sync"
