"""A worker that starts or stops while its coordination Redis is ill, other pools, and a Redis that may evict."""

from __future__ import annotations

import pytest

from tests.failures.ills import ILLS
from tests.failures.kit import complaints, ended, joined, started, time_of, warnings
from tests.failures.report import HEARTBEAT
from tests.kit.servers import patience, wait_until

INTERVAL, TIMEOUT = (float(str(value)) for value in HEARTBEAT.values())

LIMITS = {"pool:db": 1}

#: Of a worker that may not start (sysexits.h).
EX_CONFIG = 78


#: A worker of each pool, and its queue.
POOLS = {"prefork": "emails", "threads": "other", "gevent": "custom", "solo": "celery"}


def test_a_worker_of_any_pool_starts_while_redis_is_silent(apart, make_patient, took):
    patient = make_patient(ILLS["silent"])
    cluster = apart(url=patient.url, is_empty=True, global_concurrency_limits=LIMITS)
    patient.proxy.silence()
    workers = [cluster.spawn(pool, queues=queue, pool=pool) for pool, queue in POOLS.items()]
    for number, queue in enumerate(POOLS.values()):
        cluster.send("pooled", 1, 0.05, queue=queue, first=number)
    cluster.ready()
    for number, queue in enumerate(POOLS.values(), start=1):
        cluster.send("nap", 5, 0.01, queue=queue, first=10 * number)
    wait_until(
        lambda: ended(cluster, *(10 * number + n for number in (1, 2, 3, 4) for n in range(5))),
        what="tasks without limits run in each of them",
    )
    wait_until(lambda: all(complaints(worker) for worker in workers), what="the workers notice")
    app = cluster.app()
    nodes = [worker.node for worker in workers]
    assert len(app.control.ping(nodes, timeout=20.0)) == 4, "the event loops are free"
    app.close()
    assert not any(started(cluster, number) for number in range(4))
    patient.proxy.heal()
    healed = cluster.oracle.now()
    wait_until(lambda: ended(cluster, 0, 1, 2, 3), what="those that waited run")
    for number, pool in enumerate(POOLS):
        took(time_of(cluster, "s", number) - healed)
        assert time_of(cluster, "s", number) - healed <= patience(2 * INTERVAL + 1), f"{pool}: none for one + 1 s"
    assert cluster.oracle.peak("pooled") == 1
    assert [len(complaints(worker)) for worker in workers] == [1, 1, 1, 1]
    wait_until(lambda: cluster.permits() == 0, what="no permit has leaked")


def test_a_worker_is_shut_down_in_time_while_redis_is_silent(apart, make_patient, took):
    patient = make_patient(ILLS["silent"])
    cluster = apart(url=patient.url, global_concurrency_limits=LIMITS)
    (worker,) = cluster.start("w1")
    cluster.send("pooled", 1, 1.0)
    cluster.send("pooled", 1, first=1)
    wait_until(lambda: started(cluster, 0) and cluster.permits() == 2, what="one runs, one waits")
    patient.proxy.silence()
    wait_until(lambda: complaints(worker), what="the worker notices")
    cluster.conf["global_concurrency_redis_url"] = patient.redis.url
    cluster.spawn("w2")
    assert worker.stop() == 0
    stopped = cluster.oracle.now()
    assert ended(cluster, 0), "the task has run to its end"
    took(stopped - time_of(cluster, "e", 0))
    assert stopped - time_of(cluster, "e", 0) <= patience(6)
    wait_until(lambda: ended(cluster, 1), what="the one that waited runs elsewhere")
    assert cluster.oracle.peak() == 1
    wait_until(lambda: cluster.permits() == 0, what="no permit has leaked")


def test_what_ran_without_a_permit_counts_once_redis_is_back(apart, make_patient, took):
    patient = make_patient(ILLS["down"])
    cluster = apart(url=patient.url, global_concurrency_limits=LIMITS, global_concurrency_on_redis_error="run")
    (worker,) = cluster.start("w1")
    cluster.send("pooled", 3, 3.0)
    wait_until(lambda: started(cluster, 0) and cluster.permits() >= 2, what="one runs, others wait")
    fell_ill = cluster.oracle.now()
    patient.redis.kill()
    wait_until(lambda: started(cluster, 0, 1, 2), what="they run all the same")
    took(cluster.oracle.now() - fell_ill)
    assert cluster.oracle.now() - fell_ill <= patience(2 * INTERVAL + 1)
    answer = cluster.celery("inspect", "global_concurrency")
    assert "coordination Redis unavailable" in answer.stdout
    assert "Traceback" not in answer.stdout + answer.stderr
    ILLS["down"].heals(patient)
    wait_until(lambda: joined(worker) == 2, what="the worker is back")
    cluster.send("pooled", 1, 0.05, first=3)
    wait_until(lambda: ended(cluster, 3), what="the next runs")
    assert time_of(cluster, "s", 3) >= max(time_of(cluster, "e", number) for number in range(3)), "after all of them"
    wait_until(lambda: cluster.permits() == 0, what="no permit has leaked")


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_redis_that_may_evict_is_refused_where_it_was_named(apart, coordination, policy):
    coordination.do("CONFIG", "SET", "maxmemory-policy", policy)
    cluster = apart(global_concurrency_limits=LIMITS)
    cluster.send("pooled", 1)
    worker = cluster.spawn("w1")
    assert worker.process.wait(20) == EX_CONFIG
    (said,) = complaints(worker)
    assert f"maxmemory-policy is {policy}" in said
    assert "set it to noeviction" in said
    assert "Traceback" not in worker.output()
    assert cluster.oracle.events() == []


def test_a_redis_that_may_evict_is_warned_of_where_it_is_the_brokers(apart, coordination):
    coordination.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
    cluster = apart(broker=coordination.url, global_concurrency_redis_url=None, global_concurrency_limits=LIMITS)
    (worker,) = cluster.start("w1")
    cluster.send("pooled", 2)
    cluster.done(2)
    assert any("maxmemory-policy is allkeys-lfu" in said for said in warnings(worker))


def test_a_redis_that_evicts_only_keys_with_an_expiry_evicts_nothing_that_limits_rest_on(apart, coordination, took):
    coordination.do("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    cluster = apart(global_concurrency_limits=LIMITS)
    (worker,) = cluster.start("w1")
    cluster.send("pooled", 1, 1.5)
    cluster.send("pooled", 1, 0.1, first=1)
    wait_until(lambda: started(cluster, 0) and cluster.permits() == 2, what="one runs, one waits")
    assert not any("policy" in said for said in warnings(worker))
    coordination.do("CONFIG", "SET", "maxmemory", "1")
    wait_until(lambda: complaints(worker), what="the worker notices")
    wait_until(lambda: ended(cluster, 0), what="the first has run to its end")
    coordination.do("CONFIG", "SET", "maxmemory", "0")
    healed = cluster.oracle.now()
    wait_until(lambda: joined(worker) == 2, what="the worker is back")
    took(cluster.oracle.now() - healed)
    assert cluster.oracle.now() - healed <= patience(INTERVAL + 1)
    cluster.done(2)
    assert cluster.oracle.peak() == 1
    with cluster.client as client:
        may_go = {key.decode().rpartition(":")[2] for key in client.scan_iter("{gconc}:*") if client.ttl(key) != -1}
        assert may_go <= {"totals", "recent"}, "what limits rest on has no expiry; what was counted has one"
