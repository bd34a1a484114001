"""Messages of megabytes that wait for a full limit: a worker holds about as much memory of them as plain Celery."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest
from kombu import Connection

from tests.kit.servers import wait_until
from tests.kit.workers import Cluster, Worker

#: How many messages wait, and of how many bytes: the worker's own 60 MB are little beside them.
COUNT, SIZE = 60, 2_500_000


def rss(worker: Worker) -> int:
    """What its main process has taken, in bytes."""
    return int(psutil.Process(worker.process.pid).memory_info().rss)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.wild("workers", "sixty messages of megabytes wait for a full limit")
def test_a_worker_takes_little_more_memory_for_large_messages_that_wait_than_plain_celery(
    make_cluster: Callable[..., Cluster], redis_url: str, request: pytest.FixtureRequest, broker: str
):
    url = redis_url if broker == "redis" else request.getfixturevalue("rabbitmq_url")
    cluster = make_cluster(url)
    spawned = []
    for name, own, conf in (
        ("plain", "celery", {"global_concurrency_enabled": False}),
        ("limited", "other", {"global_concurrency_limits": {"task:tests.cluster.app.nap": 1}}),
    ):
        cluster.conf = dict(conf)
        spawned.append(cluster.spawn(name, concurrency=2, queues=f"emails,{own}"))
    cluster.ready()
    plain, limited = spawned
    # Both have all that they may run; then they take what they take of the queue that they share.
    cluster.send("nap", 2, 120.0, queue="celery")
    cluster.send("nap", 2, 120.0, queue="other", first=2)
    wait_until(lambda: cluster.oracle.count("s") == 3, 20, "two tasks run there, and one here")
    cluster.send("nap", COUNT, kwargs={"payload": "x" * SIZE}, first=1000)
    steady, before = 0, -1
    while steady < 20:
        left = cluster.waiting_in("emails")
        steady, before = (steady + 1 if left == before else 0), left
        time.sleep(0.1)
    assert before > 0, "messages are left for other workers"
    assert rss(limited) <= 1.5 * rss(plain)
    cluster.stop()
    with Connection(url) as connection, connection.channel() as channel:
        channel.queue_purge("emails")
