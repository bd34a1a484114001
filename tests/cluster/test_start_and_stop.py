"""How a worker starts and how it ends: settings, refusals, shutdowns, a Redis that is away."""

from __future__ import annotations

import signal

import pytest

from tests.kit.keys import key
from tests.kit.servers import wait_until
from tests.kit.workers import SHORT_POLLS


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        (
            {"global_concurrency_heartbeat_timeout": 1},
            "global_concurrency_heartbeat_timeout=1.0: must be a number of seconds",
        ),
        ({"global_concurrency_heartbeat_timeout": 301}, "<= 300, and >= 2 x"),
        ({"global_concurrency_limts": {}}, "global_concurrency_limts={}: there is no such setting"),
        ({"global_concurrency_limits": {"emails": -1}}, "a max must be between 0 and"),
        ({"global_concurrency_on_redis_error": "panic"}, "must be 'wait' or 'run'"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(make_cluster, conf, said):
    cluster = make_cluster(**conf)
    result = cluster.celery("worker", "-P", "solo", timeout=30)
    assert result.returncode != 0
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_warm_shutdown_lets_tasks_end_and_frees_everything_at_once(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2})
    first, _ = cluster.start("w1", "w2", concurrency=2)
    cluster.send("nap", 16, 0.3)
    wait_until(lambda: cluster.oracle.count("e") >= 4, what="some ran")
    assert first.stop() == 0
    client = cluster.client
    assert client.zcard(key("sessions")) == 1
    cluster.done(16)
    assert cluster.oracle.peak() == 2
    assert cluster.oracle.count("s") == 16, "no task ran twice, none was lost"
    client.close()


def test_every_pool_stops_cleanly_with_tasks_parked(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 0}, broker_transport_options=SHORT_POLLS)
    workers = [cluster.spawn(pool, pool=pool) for pool in ("prefork", "threads", "gevent", "solo")]
    cluster.ready()
    cluster.send("nap", 60, 0.01)
    for worker in workers:
        wait_until(lambda worker=worker: "] received" in worker.output(), what=f"some are parked at {worker.name}")
    for worker in workers:
        worker.process.send_signal(signal.SIGTERM)
    assert {worker.name: worker.process.wait(30) for worker in workers} == dict.fromkeys(
        ("prefork", "threads", "gevent", "solo"), 0
    )
    with cluster.client as client:
        assert client.llen("emails") == 60, "all are back in their queue"
        assert client.zcard(key("sessions")) == 0


def test_with_redis_away_tasks_without_limits_run_and_limited_ones_wait_for_it(make_cluster, oracle_url):
    from tests.kit.servers import free_port, redis_server

    port = free_port()
    cluster = make_cluster(
        global_concurrency_limits={"queue:emails": 1}, global_concurrency_redis_url=f"redis://127.0.0.1:{port}/0"
    )
    cluster.start("w1", queues="emails,other")
    cluster.send("nap", 3, 0.01)
    cluster.send("nap", 5, 0.01, queue="other", first=100)
    cluster.done(5)
    assert all(event.number >= 100 for event in cluster.oracle.events())
    with redis_server(port=port):
        cluster.done(8, seconds=30)
        assert cluster.oracle.peak("nap", since=max(e.time for e in cluster.oracle.events() if e.number >= 100)) <= 2
        cluster.stop()


def test_with_run_on_redis_error_limited_tasks_run_too(make_cluster):
    cluster = make_cluster(
        global_concurrency_limits={"queue:emails": 1},
        global_concurrency_redis_url="redis://127.0.0.1:1/0",
        global_concurrency_on_redis_error="run",
    )
    (worker,) = cluster.start("w1")
    cluster.send("nap", 6, 0.05)
    cluster.done(6)
    assert "tasks under limits run without a permit until it is back" in worker.output()


def test_waiting_tasks_go_on_after_redis_has_lost_everything(make_cluster, oracle_url):
    cluster = make_cluster(
        global_concurrency_limits={"queue:emails": 1},
        global_concurrency_redis_url=oracle_url.replace("/0", "/1"),
        global_concurrency_heartbeat_interval=0.5,
        global_concurrency_heartbeat_timeout=2.0,
    )
    import redis

    with redis.Redis.from_url(oracle_url.replace("/0", "/1")) as coordination:
        coordination.flushdb()
        holder, _ = cluster.start("w1", "w2", concurrency=2)
        cluster.send("nap", 60, 0.2)
        wait_until(lambda: cluster.oracle.count("e") >= 3, what="some ran")
        coordination.flushdb()
        before = cluster.oracle.count("e")
        wait_until(lambda: cluster.oracle.count("e") >= before + 5, what="work goes on")
        assert holder.stop() == 0
        before = cluster.oracle.count("e")
        wait_until(lambda: cluster.oracle.count("e") >= before + 5, what="the other worker goes on alone")
