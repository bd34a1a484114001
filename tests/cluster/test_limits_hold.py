"""Promise 1 over real workers: never more than the limit, at a good pace, on every pool, and through deaths."""

from __future__ import annotations

import os
import signal

from tests.kit.keys import key
from tests.kit.servers import wait_until

LIMIT = 3


def test_three_prefork_workers_never_run_a_fourth_task_and_keep_up_the_pace(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": LIMIT})
    cluster.send("nap", 150, 0.05)
    cluster.start("w1", "w2", "w3", concurrency=4)
    cluster.done(150)
    assert cluster.oracle.peak() == LIMIT
    assert cluster.oracle.pace() >= 0.4 * LIMIT / 0.05, "no slot waits for somebody to look: that would be 0.2 or less"


def test_app_and_queue_limits_hold_together_over_all_pools_at_once(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2, "app": 4})
    cluster.cold = True
    started = [
        cluster.spawn("prefork", pool="prefork"),
        cluster.spawn("threads", pool="threads"),
        cluster.spawn("gevent", pool="gevent"),
        cluster.spawn("solo", pool="solo"),
    ]
    cluster.ready(*started)
    cluster.send("nap", 60, 0.05, queue="emails")
    cluster.send("two", 60, 0.05, queue="celery", first=100)
    cluster.send("pooled", 60, 0.05, queue="celery", first=200)
    cluster.done(180)
    assert cluster.oracle.peak("nap") == 2
    assert cluster.oracle.peak("two") == 2
    assert cluster.oracle.peak() == 4
    pids = {event.pid for event in cluster.oracle.events()}
    assert len(pids) >= 4, "each pool took part"


def test_a_limit_shared_by_name_covers_tasks_of_several_queues(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"pool:db": 1})
    cluster.send("pooled", 15, 0.02, queue="emails")
    cluster.send("pooled", 15, 0.02, queue="other", first=100)
    cluster.start("w1", "w2", queues="emails,other")
    cluster.done(30)
    assert cluster.oracle.peak() == 1


def test_a_killed_worker_gives_its_permits_back_within_its_lease_and_no_more_run_than_may(make_cluster):
    cluster = make_cluster(
        global_concurrency_limits={"queue:emails": LIMIT},
        global_concurrency_heartbeat_interval=0.5,
        global_concurrency_heartbeat_timeout=2.5,
    )
    victim, *_ = cluster.start("w1", "w2", "w3", concurrency=4)
    cluster.send("nap", 400, 0.1)

    def runs_on_victim() -> bool:
        children = set(victim.children())
        started = {(e.number, e.pid) for e in cluster.oracle.events() if e.kind == "s" and e.pid in children}
        ended = {(e.number, e.pid) for e in cluster.oracle.events() if e.kind == "e"}
        return len(started - ended) >= 1 and cluster.oracle.count("e") > 15

    wait_until(runs_on_victim, seconds=30, what="the victim holds a permit")
    lost = frozenset(victim.children())
    victim.kill()
    killed = cluster.oracle.now()
    ended = {(e.number, e.pid) for e in cluster.oracle.events() if e.kind == "e"}
    held = [e for e in cluster.oracle.events() if e.kind == "s" and e.pid in lost and (e.number, e.pid) not in ended]

    def full_pace() -> float | None:
        running = 0
        for event in cluster.oracle.events():
            if event.pid in lost:
                continue
            running += {"s": 1, "e": -1}[event.kind]
            if event.time > killed and running == LIMIT:
                return event.time
        return None

    if held:
        wait_until(lambda: full_pace() is not None, seconds=20, what="full pace again")
        recovered = full_pace()
        assert recovered is not None
        assert recovered - killed <= 4.0
    known = cluster.oracle.count("e")
    wait_until(lambda: cluster.oracle.count("e") >= known + 30, seconds=40, what="work goes on")
    assert cluster.oracle.peak(lost=lost) <= LIMIT


def test_a_killed_child_lets_the_next_task_start_within_two_seconds(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1})
    cluster.start("w1", "w2", concurrency=2)
    cluster.send("nap", 1, 60)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="the long task runs")
    cluster.send("nap", 3, 0.01, first=1)
    holder = cluster.oracle.events()[0].pid
    killed = cluster.oracle.now()
    os.kill(holder, signal.SIGKILL)
    cluster.done(3, seconds=15)
    after = [e.time for e in cluster.oracle.events() if e.kind == "s" and e.time > killed]
    assert after[0] - killed <= 2.0


def test_a_task_that_ignores_sigterm_keeps_its_permit_until_its_child_is_dead(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, task_time_limit=1)
    cluster.start("w1", "w2", concurrency=2)
    cluster.send("stubborn", 1, 20)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="the stubborn task runs")
    cluster.send("nap", 1, 0.01, first=1)
    cluster.done(1, name="nap", seconds=20)
    events = cluster.oracle.events()
    last_tick = max(e.time for e in events if e.name == "stubborn")
    next_start = min(e.time for e in events if e.name == "nap" and e.kind == "s")
    assert next_start > last_tick, "the next task started while the last one still ran"


def test_permits_come_back_whatever_way_a_task_ends(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, task_soft_time_limit=1)
    cluster.start("w1", concurrency=2)
    ways = ["success", "failure", "ignore", "reject", "retry", "exit", "soft"]
    for number, way in enumerate(ways):
        cluster.send("outcome", 1, way, first=number)
    cluster.send("nap", 1, 0.01, first=100)
    cluster.done(1, name="nap", seconds=30)
    wait_until(lambda: cluster.oracle.count("e", "retry") == 2, what="the retried task ran again")
    assert cluster.oracle.peak() == 1


def test_a_terminated_and_a_revoked_task_free_the_line(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1})
    cluster.start("w1", concurrency=2)
    app = cluster.app()
    running = app.send_task("tests.cluster.app.nap", (0, 60), queue="emails")
    wait_until(lambda: cluster.oracle.count("s") == 1, what="the long task runs")
    parked = app.send_task("tests.cluster.app.nap", (1, 0.01), queue="emails")
    app.send_task("tests.cluster.app.nap", (2, 0.01), queue="emails")
    app.control.revoke(parked.id)
    app.control.revoke(running.id, terminate=True)
    wait_until(lambda: any(e.number == 2 for e in cluster.oracle.events()), what="the third task runs")
    assert not any(e.number == 1 for e in cluster.oracle.events()), "the revoked task ran"
    assert parked.state == "REVOKED"
    app.close()


def test_an_idle_cluster_holds_no_permits(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": LIMIT})
    cluster.start("w1", "w2")
    cluster.send("nap", 20, 0.01)
    cluster.done(20)
    client = cluster.client
    wait_until(
        lambda: not client.exists(key("holders")) and not client.exists(key("waiters")),
        seconds=5,
        what="all permits are back",
    )
    client.close()
