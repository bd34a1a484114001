"""Messages of megabytes that wait for a full limit: a worker holds about as much memory of them as plain Celery."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest
from kombu import Connection

from tests.kit.servers import wait_until
from tests.kit.workers import Cluster

#: How many messages wait, and of how many bytes: the worker's own 60 MB are little beside them.
COUNT, SIZE = 60, 2_500_000


def memory(cluster: Cluster, concurrency: int) -> int:
    """What the main process of a worker has taken when it takes no more messages, in bytes."""
    (worker,) = cluster.start("a", concurrency=concurrency)
    cluster.send("nap", concurrency, 120.0, first=1000)
    wait_until(lambda: cluster.oracle.count("s") >= 1, 20, "a task runs")
    cluster.send("nap", COUNT, kwargs={"payload": "x" * SIZE})
    steady, before = 0, -1
    while steady < 20:
        left = cluster.waiting_in("emails")
        steady, before = (steady + 1 if left == before else 0), left
        time.sleep(0.1)
    assert before > 0, "messages are left for other workers"
    taken = psutil.Process(worker.process.pid).memory_info().rss
    worker.kill()
    return int(taken)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.wild("workers", "sixty messages of megabytes wait for a full limit")
def test_a_worker_takes_little_more_memory_for_large_messages_that_wait_than_plain_celery(
    make_cluster: Callable[..., Cluster], redis_url: str, request: pytest.FixtureRequest, broker: str
):
    url = redis_url if broker == "redis" else request.getfixturevalue("rabbitmq_url")
    taken = {}
    for name, conf in (
        ("plain", {"global_concurrency_enabled": False}),
        ("limited", {"global_concurrency_limits": {"task:tests.cluster.app.nap": 1}}),
    ):
        cluster = make_cluster(url, **conf)
        taken[name] = memory(cluster, 2)
        with Connection(url) as connection, connection.channel() as channel:
            channel.queue_purge("emails")
    assert taken["limited"] <= 1.5 * taken["plain"]
