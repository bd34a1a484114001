"""record.lua, recent.lua, totals.lua: what sessions have counted, for all of the namespace and of late."""

from __future__ import annotations

import json

import pytest

from celery_gconc.errors import StoreUnavailable
from celery_gconc.protocol.counted import BUCKETS, RECORDED, Record, Stall
from celery_gconc.worker.session.counts import MAX_SAMPLES, Counters

from .namespace import TIMEOUT, Namespace


def send(namespace: Namespace, session: str, counters: Counters, parked: dict[str, int] | None = None) -> None:
    """As a session does with a heartbeat."""
    with counters.collect(1000.0, parked or {}) as record:
        assert record is not None
        namespace.store.record(session, record)


def tell(namespace: Namespace, session: str, counters: Counters, parked: dict[str, int] | None = None) -> list[Record]:
    """The same, in as many pieces as it takes; return them."""
    told: list[Record] = []
    while not told or counters.is_more:
        with counters.collect(1000.0, parked or {}) as record:
            if record is None:
                break
            namespace.store.record(session, record)
            told.append(record)
    return told


def test_what_a_session_counted_under_many_limits_is_told_in_pieces(namespace: Namespace):
    namespace.session("a")
    limits = [f"pool:{number:03}" for number in range(2 * RECORDED + 3)]
    parked = dict.fromkeys(limits[: RECORDED + 1], 4)
    for limit in parked:
        namespace.set(limit, 0)
    counters = Counters()
    for limit in limits:
        counters.granted((limit,), 0.1)
        counters.released((limit,), 999.0, 0.1, 1.0)
    counters.count("redis_errors")
    told = tell(namespace, "a", counters, parked)
    assert [len(record.limits) for record in told] == [RECORDED, RECORDED, 3]
    totals = namespace.store.totals()
    assert {limit.limit: (limit.grants, limit.hold.count) for limit in totals.limits} == dict.fromkeys(limits, (1, 1))
    assert totals.redis_errors == 1
    status = namespace.store.status()
    assert {limit: status[limit].parked for limit in parked} == parked
    assert not tell(namespace, "a", counters, parked), "all was told"
    assert namespace.store.audit(repair=False) == ()


def test_a_piece_that_may_not_have_arrived_is_told_again_and_the_others_are_not(namespace: Namespace):
    namespace.session("a")
    limits = [f"pool:{number:03}" for number in range(RECORDED + 5)]
    counters = Counters()
    for limit in limits:
        namespace.set(limit, 0)
        counters.granted((limit,), 0.1)
    send(namespace, "a", counters, dict.fromkeys(limits, 1))
    with pytest.raises(StoreUnavailable), counters.collect(1.0, dict.fromkeys(limits, 1)) as record:
        assert record is not None
        namespace.store.record("a", record)
        raise StoreUnavailable
    told = tell(namespace, "a", counters)
    assert [len(record.limits) for record in told] == [5]
    tell(namespace, "a", counters)  # with the next heartbeat what has changed meanwhile of the others
    status = namespace.store.status()
    assert {limit: status[limit].parked for limit in limits} == dict.fromkeys(limits, 0)
    assert namespace.store.audit(repair=False) == ()


def test_a_new_session_is_told_of_all_that_is_parked(namespace: Namespace):
    namespace.set("app", 0)
    namespace.session("a")
    counters = Counters()
    send(namespace, "a", counters, {"app": 3})
    namespace.store.close_session("a")
    namespace.session("b")
    counters.opened()
    send(namespace, "b", counters, {"app": 3})
    assert namespace.store.status("app")["app"].parked == 3


def test_totals_add_up_over_sessions_and_heartbeats(namespace: Namespace):
    namespace.session("a")
    namespace.session("b")
    for name in ("a", "b"):
        counters = Counters()
        for _ in range(2):
            counters.granted(("app", "queue:q"), 0.2)
            counters.released(("app", "queue:q"), 999.0, 0.2, 7.0)
            counters.count("redis_errors")
            send(namespace, name, counters)
    totals = namespace.store.totals()
    assert [limit.limit for limit in totals.limits] == ["app", "queue:q"]
    for limit in totals.limits:
        assert limit.grants == 4
        assert [(bound, count) for bound, count in limit.wait.buckets if count] == [(0.25, 4)]
        assert [(bound, count) for bound, count in limit.hold.buckets if count] == [(10.0, 4)]
        assert limit.wait.sum == pytest.approx(0.8)
        assert limit.hold.sum == pytest.approx(28.0)
        assert limit.wait.count == limit.hold.count == 4
        assert tuple(bound for bound, _ in limit.wait.buckets) == BUCKETS
    assert (totals.redis_errors, totals.lease_losses, totals.without_redis, totals.reclaims) == (4, 0, 0, 0)


def test_a_value_on_a_bound_belongs_to_that_bound_and_what_is_above_all_to_the_last(namespace: Namespace):
    namespace.session("a")
    counters = Counters()
    for waited in (0.0, 0.005, 0.0051, 1800.0, 1e6):
        counters.granted(("app",), waited)
    send(namespace, "a", counters)
    counts = dict(namespace.store.totals().limits[0].wait.buckets)
    assert {bound: count for bound, count in counts.items() if count} == {0.005: 2, 0.01: 1, 1800.0: 1, BUCKETS[-1]: 1}


def test_permits_of_a_session_whose_lease_ran_out_are_counted_as_reclaimed(namespace: Namespace):
    namespace.set("app", 5)
    session = namespace.session("a")
    session.ask("app")
    session.ask("app")
    namespace.elapse(20)
    assert namespace.store.totals().reclaims == 2
    namespace.session("b").ask("app")
    namespace.store.close_session("b")
    assert namespace.store.totals().reclaims == 2


def test_what_has_ended_is_kept_as_samples_with_the_time_of_its_end(namespace: Namespace):
    namespace.session("a")
    counters = Counters()
    counters.released(("app",), 990.0, 1.5, 0.25)
    counters.released(("app",), 998.0, 0.0, 2.0)
    send(namespace, "a", counters)
    at = namespace.store.status().at
    first, second = namespace.store.history("app", 60)
    assert (first.waited, first.held, first.weight) == (1.5, 0.25, 1.0)
    assert first.ended == pytest.approx(at - 10, abs=3)
    assert (second.waited, second.held) == (0.0, 2.0)
    assert second.ended == pytest.approx(at - 2, abs=3)
    assert namespace.store.history("queue:other", 60) == ()
    assert namespace.store.status("app")["app"].per_minute == 2


def test_of_many_ends_some_are_kept_and_stand_for_all(namespace: Namespace):
    namespace.session("a")
    counters = Counters()
    for number in range(1000):
        counters.released(("app",), 999.0, 0.0, number / 1000)
    send(namespace, "a", counters)
    history = namespace.store.history("app", 60)
    assert len(history) == MAX_SAMPLES
    assert sum(sample.weight for sample in history) == pytest.approx(1000)
    assert sum(sample.held for sample in history) / MAX_SAMPLES == pytest.approx(0.5, abs=0.2)
    assert namespace.store.status("app")["app"].per_minute == 1000


def test_recent_is_bounded_and_leaves_by_itself(namespace: Namespace):
    namespace.session("a")
    counters = Counters()
    counters.released(("app",), 999.0, 0.0, 1.0)
    send(namespace, "a", counters)
    assert 0 < namespace.raw.ttl(namespace.keys.key("recent")) <= 15 * 60
    with namespace.raw.pipeline() as pipe:
        for _ in range(6000):
            pipe.xadd(namespace.keys.key("recent"), {"limits": "{}"})
        pipe.execute()
    counters.released(("app",), 999.0, 0.0, 1.0)
    send(namespace, "a", counters)
    assert namespace.raw.xlen(namespace.keys.key("recent")) < 5500
    assert len(namespace.store.history("app", 60)) == 1  # the older ones made room


def test_what_workers_hold_behind_the_line_is_summed_over_sessions_and_goes_with_them(namespace: Namespace):
    namespace.set("app", 0)
    namespace.session("a")
    namespace.session("b")
    send(namespace, "a", Counters(), {"app": 3})
    send(namespace, "b", Counters(), {"app": 4})
    assert namespace.store.status("app")["app"].parked == 7
    namespace.store.close_session("a")
    assert namespace.store.status("app")["app"].parked == 4


def test_what_is_held_behind_waits_for_the_limits_that_have_no_unit_free_and_not_for_others(namespace: Namespace):
    session = namespace.session("a", config={"app": 5, "queue:q": 1})
    session.ask("app", "queue:q")
    send(namespace, "a", Counters(), {"app": 3, "queue:q": 3})
    status = namespace.store.status()
    assert (status["queue:q"].running, status["queue:q"].parked) == (1, 3)
    assert (status["app"].running, status["app"].parked) == (1, 0)
    namespace.store.pause("app", True, by="test")
    assert namespace.store.status()["app"].parked == 3


def test_tasks_a_minute_are_counted_however_many_sessions_send(namespace: Namespace):
    namespace.session("a")
    counters = Counters()
    for _ in range(3):
        counters.released(("app",), 999.0, 0.0, 1.0)
        send(namespace, "a", counters)
    with namespace.raw.pipeline() as pipe:
        for _ in range(6000):
            pipe.xadd(namespace.keys.key("recent"), {"limits": "{}"})
        pipe.execute()
    tell_end(namespace, "a")
    assert namespace.store.status("app")["app"].per_minute == 4
    age(namespace, 50)
    assert namespace.store.status("app")["app"].per_minute == 4
    tell_end(namespace, "a")
    age(namespace, 20)
    assert namespace.store.status("app")["app"].per_minute == 1
    for _ in range(2):
        tell_end(namespace, "a")
    assert namespace.store.status("app")["app"].per_minute == 3


def age(namespace: Namespace, seconds: int) -> None:
    """Let so much time have passed since tasks ended (a multiple of the five seconds in which they are counted)."""
    key = namespace.keys.key("totals")
    total = json.loads(namespace.raw.hget(key, "app"))
    total["lately"] = [[slot - seconds // 5, count] for slot, count in total["lately"]]
    namespace.raw.hset(key, "app", json.dumps(total))


def tell_end(namespace: Namespace, session: str) -> None:
    """One more task has ended."""
    counters = Counters()
    counters.released(("app",), 999.0, 0.0, 1.0)
    send(namespace, session, counters)


def test_limits_that_are_no_more_make_room_for_others(namespace: Namespace):
    namespace.session("a", config={"queue:kept": 3})
    tell_end(namespace, "a")
    total = namespace.raw.hget(namespace.keys.key("totals"), "app")
    names = [f"pool:{number}" for number in range(10_000)] + ["queue:kept"]
    namespace.raw.hset(namespace.keys.key("totals"), mapping=dict.fromkeys(names, total))
    counters = Counters()
    counters.granted(("queue:new",), 0.0)
    send(namespace, "a", counters)
    totals = {limit.limit for limit in namespace.store.totals().limits}
    assert {"queue:kept", "queue:new"} <= totals
    assert len(totals) <= 10_000
    for number in range(20_000):  # each time that there is no room for one, some of the others are looked at
        counters.granted((f"task:{number}",), 0.0)
        if number % RECORDED == 0:
            send(namespace, "a", counters)
    totals = {limit.limit for limit in namespace.store.totals().limits}
    assert not [limit for limit in totals if limit.startswith("pool:")]
    assert "queue:kept" in totals
    assert len(totals) <= 10_000


def test_nothing_is_sent_where_nothing_has_changed():
    counters = Counters()
    with counters.collect(1.0, {}) as record:
        assert record is None
    with counters.collect(1.0, {"app": 1}) as record:
        assert record is not None
    with counters.collect(1.0, {"app": 1}) as record:
        assert record is None
    with counters.collect(1.0, {}) as record:
        assert record is not None


def test_what_may_not_have_arrived_is_sent_again_with_what_came_after(namespace: Namespace):
    namespace.session("a")
    counters = Counters()
    counters.granted(("app",), 0.1)
    namespace.set("app", 0)
    with pytest.raises(StoreUnavailable), counters.collect(1.0, {"app": 1}):
        raise StoreUnavailable
    counters.granted(("app",), 0.1)
    send(namespace, "a", counters, {"app": 1})
    assert namespace.store.totals().limits[0].grants == 2
    assert namespace.store.status("app")["app"].parked == 1


def test_a_stall_is_sent_with_each_heartbeat_and_so_is_its_end(namespace: Namespace):
    namespace.session("a")
    counters = Counters()
    counters.stall = Stall("nobody knows", 3, 12.0)
    for _ in range(2):
        send(namespace, "a", counters)
        (session,) = namespace.store.status().sessions
        assert (session.stalled_why, session.stalled_slots) == ("nobody knows", 3)
    counters.stall = None
    send(namespace, "a", counters)
    (session,) = namespace.store.status().sessions
    assert session.stalled_since is None


def test_counters_that_nobody_collects_add_up_what_they_keep(namespace: Namespace):
    counters = Counters()
    for _ in range(25_000):
        counters.released(("app",), 1.0, 0.0, 0.1)
    assert len(counters._events) <= 10_001
    namespace.session("a")
    send(namespace, "a", counters)
    assert namespace.store.status("app")["app"].per_minute == 25_000


def test_what_waits_at_the_broker_is_shown_as_the_last_to_count_it_told_and_not_twice(namespace: Namespace):
    namespace.set("queue:q", 1)
    counters = {name: Counters() for name in ("a", "b")}
    for name in counters:
        namespace.session(name)

    def tell(name: str, **at_broker: int) -> None:
        with counters[name].collect(
            1000.0, {}, {f"queue:{queue}": count for queue, count in at_broker.items()}
        ) as record:
            assert record is not None
            namespace.store.record(name, record)

    tell("a", q=300)
    tell("b", q=298)
    told = namespace.store.status("queue:q")["queue:q"]
    assert (told.parked, told.at_broker) == (298, 298)
    assert namespace.store.audit(repair=False) == ()
    tell("b")
    assert namespace.store.status("queue:q")["queue:q"].parked == 0, "it is read as any other"
    with counters["b"].collect(1000.0, {}, {}) as record:
        assert record is None, "that is told once"


def test_what_nobody_counts_any_more_is_forgotten_with_a_lease(namespace: Namespace):
    namespace.session("a")
    with Counters().collect(1000.0, {}, {"queue:q": 5}) as record:
        namespace.store.record("a", record)
    assert namespace.store.status("queue:q")["queue:q"].parked == 5
    namespace.session("b")
    namespace.elapse(2 * TIMEOUT)
    assert namespace.store.status("queue:q")["queue:q"].parked == 0
