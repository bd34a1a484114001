"""What the pages on monitoring and on limits tell people to count on: what waits adds up, and late runs expire."""

from __future__ import annotations

import json

import pytest
from celery.result import AsyncResult

from tests.kit.servers import wait_until

HELD = "tests.cluster.app.held"


@pytest.mark.wild("workers", "scaling by `LLEN`", result="`LLEN` plus what workers hold is everything that waits")
def test_the_length_of_a_queue_and_what_workers_hold_add_up_to_what_waits_for_its_limit(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"emails": 2}, global_concurrency_heartbeat_interval=0.5)
    cluster.start("w1", "w2", concurrency=4)
    cluster.send("nap", 200, 60)
    wait_until(lambda: cluster.oracle.count("s") == 2, what="two run")

    def adds_up() -> bool:
        held = json.loads(cluster.celery("gconc", "status", "emails", "--json").stdout)["limits"][0]
        return held["waiting"] + held["parked"] > 0 and (
            held["running"] + held["waiting"] + held["parked"] + cluster.waiting_in("emails") == 200
        )

    wait_until(adds_up, 30, "running, waiting in workers and at the broker are all 200")


@pytest.mark.wild("workers", "a periodic task that outlasts its interval", result="limit 1 and `expires`: no overlap")
def test_runs_of_a_periodic_task_never_overlap_and_those_that_came_too_early_expire(make_cluster):
    cluster = make_cluster(global_concurrency_limits={f"task:{HELD}": 1})
    cluster.start("w1", "w2", concurrency=2)
    app = cluster.app()
    first = app.send_task(HELD, (0,), queue="emails")
    wait_until(lambda: cluster.oracle.count("s") == 1, what="the first run has begun")
    late: list[AsyncResult] = [app.send_task(HELD, (number,), queue="emails", expires=1) for number in (1, 2, 3)]
    wait_until(lambda: all(one.state == "REVOKED" for one in late), what="those sent meanwhile have expired")
    assert cluster.oracle.count("e") == 0, "while the first still runs"
    cluster.oracle.let_go()
    first.get(timeout=30)
    app.send_task(HELD, (4,), queue="emails", expires=30).get(timeout=30)
    assert cluster.oracle.starts() == [0, 4]
    assert cluster.oracle.peak() == 1
    app.close()
