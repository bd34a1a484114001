"""Connections to a coordination Redis that is ill, or only slow: how they are tried again, and what is found dead."""

from __future__ import annotations

import itertools

from tests.failures.ills import ILLS
from tests.failures.kit import complaints, ended, joined, started, time_of
from tests.failures.report import HEARTBEAT
from tests.kit.servers import patience, wait_until

INTERVAL, TIMEOUT = (float(str(value)) for value in HEARTBEAT.values())

#: The longest time between two tries, in seconds, whatever the heartbeat interval is.
LONGEST = 2.0


def test_tries_to_reach_redis_come_at_gaps_that_grow_to_a_bound_and_vary(apart, make_patient, took):
    patient = make_patient(ILLS["down"])
    cluster = apart(
        url=patient.url, global_concurrency_heartbeat_interval=4.0, global_concurrency_heartbeat_timeout=12.0
    )
    (worker,) = cluster.start("w1")
    patient.redis.kill()
    wait_until(lambda: complaints(worker), what="the worker notices")
    known = len(patient.proxy.attempts)
    wait_until(lambda: len(patient.proxy.attempts) >= known + 7, what="it has been tried again seven times")
    gaps = [b - a for a, b in itertools.pairwise(patient.proxy.attempts[known : known + 7])]
    took(max(gaps))
    assert max(gaps) <= LONGEST + patience(0.5), "the bound, and some time to be scheduled"
    assert max(gaps) > 5 * min(gaps), "they grow"
    shares = [gap / min(0.1 * 2**number, LONGEST) for number, gap in enumerate(gaps, 1)]
    assert max(shares) - min(shares) > 0.02, "they vary"
    assert len(complaints(worker)) == 1, "one line, not one a try"


def test_a_dead_connection_for_notices_is_found_and_made_anew(apart, make_patient, took):
    patient = make_patient(ILLS["silent"])
    cluster = apart(url=patient.url, global_concurrency_limits={"pool:db": 1})
    (worker,) = cluster.start("w1", queues="emails")
    cluster.conf["global_concurrency_redis_url"] = patient.redis.url
    cluster.start("w2", queues="other")
    cluster.send("pooled", 1, 1.0, queue="other")
    wait_until(lambda: started(cluster, 0), what="one runs there")
    cluster.send("pooled", 1, 0.05, first=1)
    wait_until(lambda: cluster.permits() == 2, what="one waits here")
    known, began = len(patient.proxy.attempts), cluster.oracle.now()
    assert patient.proxy.strand(b"SUBSCRIBE") == 1
    wait_until(lambda: ended(cluster, 1), what="the one that waits runs, at a heartbeat")
    assert time_of(cluster, "s", 1) - time_of(cluster, "e", 0) <= patience(INTERVAL + 1)
    wait_until(lambda: len(patient.proxy.attempts) > known, what="a new connection for notices is made")
    took(cluster.oracle.now() - began)
    assert cluster.oracle.now() - began <= patience(3 * INTERVAL + 1)
    wait_until(lambda: patient.proxy.strand(b"SUBSCRIBE") == 2, what="it listens")
    assert cluster.oracle.peak("pooled") == 1
    wait_until(lambda: cluster.permits() == 0, what="no permit has leaked")
    assert joined(worker) <= 2


def test_a_slow_redis_that_answers_in_time_delays_limited_tasks_only(apart, make_patient, took):
    patient = make_patient(ILLS["slow"])
    cluster = apart(url=patient.url, global_concurrency_limits={"pool:db": 1})
    workers = [*cluster.start("w1", queues="emails"), *cluster.start("w2", queues="other")]
    patient.proxy.delay(0.1)
    for number in range(3):
        cluster.send("pooled", 2, 0.1, first=number * 2, queue=("emails", "other")[number % 2])
    cluster.send("nap", 10, 0.01, first=100)
    wait_until(lambda: ended(cluster, *range(100, 110)), what="tasks without limits run")
    assert not ended(cluster, *range(6)), "before those under the limit"
    wait_until(lambda: ended(cluster, *range(6)), what="tasks under the limit run")
    events = [event for event in cluster.oracle.events() if event.name == "pooled"]
    waits = [b.time - a.time for a, b in itertools.pairwise(events) if (a.kind, b.kind) == ("e", "s")]
    took(max(waits))
    # Five calls; and each of the two workers may just be telling what it counted, with a heartbeat.
    assert max(waits) <= patience(1.4)
    assert cluster.oracle.peak("pooled") == 1
    assert [complaints(worker) for worker in workers] == [[], []]
    patient.proxy.heal()
    wait_until(lambda: cluster.permits() == 0, what="no permit has leaked")


def test_scripts_that_redis_forgets_are_given_to_it_again(apart, coordination, took):
    cluster = apart(global_concurrency_limits={"pool:db": 1})
    workers = [*cluster.start("w1", queues="emails"), *cluster.start("w2", queues="other")]
    for number in range(10):
        cluster.send("pooled", 2, 0.1, first=number * 2, queue=("emails", "other")[number % 2])
    for count in range(1, 18, 4):
        wait_until(lambda count=count: cluster.oracle.count("e") >= count, what="some have ended")
        coordination.do("SCRIPT", "FLUSH", "SYNC")
        began, known = cluster.oracle.now(), cluster.oracle.count("s")
        wait_until(lambda known=known: cluster.oracle.count("s") > known, what="the next starts")
        took(cluster.oracle.now() - began)
        assert cluster.oracle.now() - began <= patience(INTERVAL)
    cluster.done(20)
    assert cluster.oracle.peak("pooled") == 1
    assert [complaints(worker) for worker in workers] == [[], []]
    assert [joined(worker) for worker in workers] == [1, 1]
    wait_until(lambda: cluster.permits() == 0, what="no permit has leaked")
