"""What ``inspect stats`` shows of the limits, and what it costs."""

from __future__ import annotations

import hashlib

from redis import Redis

from celery_gconc.protocol.scripts import script
from celery_gconc.worker import stats
from tests.kit.servers import wait_until


def test_a_worker_reads_no_status_until_its_stats_are_asked_for_and_the_first_have_it(
    make_app, run_worker, redis_url, monkeypatch
):
    monkeypatch.setattr(stats, "FIRST_SECONDS", 30.0)  # as long as a busy machine needs
    app = make_app(global_concurrency_limits={"emails": 3})
    with Redis.from_url(redis_url) as client:
        client.script_flush()
        worker = run_worker(app)
        step = worker.consumer.global_concurrency
        wait_until(lambda: step.parts.health.connected, what="its session is open")
        digest = hashlib.sha1(script("status").encode()).hexdigest()
        assert client.script_exists(digest) == [False]
        assert step.info(worker.consumer)["gconc queue:emails"] == "0 of 3 running"
        assert client.script_exists(digest) == [True]
