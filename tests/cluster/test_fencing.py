"""current_permit(): the number that a task can pass to a store, in every pool."""

from __future__ import annotations

import time

from celery_gconc import current_permit
from tests.kit.servers import wait_until

POOLS = ["prefork", "threads", "gevent", "solo"]


def fences(cluster, count: int):
    wait_until(lambda: len(cluster.oracle.fences()) >= count, seconds=60, what=f"{count} tasks have told")
    return cluster.oracle.fences()


def test_tasks_of_a_limit_of_one_have_growing_numbers_whichever_pool_runs_them(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"app": 1})
    cluster.ready(*(cluster.spawn(pool, pool=pool, concurrency=1 if pool == "solo" else 2) for pool in POOLS))
    began = time.time()
    cluster.send("fenced", 80)
    told = fences(cluster, 80)
    numbers = [fence.permit[0] for fence in told]
    assert numbers == sorted(set(numbers)), "in the order in which they ran"
    assert numbers[-1] < 2**63
    assert {tuple(fence.permit[1]) for fence in told} == {("app",)}
    assert len({fence.permit[2] for fence in told}) == len(POOLS), "each worker has a session of its own"
    assert all(began - 5 <= fence.permit[3] <= time.time() + 5 for fence in told)


def test_a_permit_passed_on_in_a_worker_has_a_number_of_its_own_for_each_task(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"app": 1})
    cluster.start("w1", concurrency=1)
    cluster.send("fenced", 30)
    told = fences(cluster, 30)
    numbers = [fence.permit[0] for fence in told]
    assert numbers == sorted(set(numbers))
    assert len({fence.permit[3] for fence in told}) < 30, "it was passed on"


def test_a_retry_has_its_own_number_and_carries_none_in_its_headers(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"app": 1})
    cluster.start("w1", concurrency=1)
    cluster.send("fenced", 1, "retry")
    first, second = fences(cluster, 2)
    assert second.permit[0] > first.permit[0]
    assert "global_concurrency" not in str(second.headers)


def test_a_task_that_no_limit_covers_has_no_permit_even_where_its_sender_forged_one(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"pool:db": 1})
    cluster.start("w1", concurrency=1)
    forged = {"limits": ["app"], "number": 2**62, "session": "mine", "granted_at": 1.0}
    cluster.send("fenced", 1, headers={"delivery_info": {"global_concurrency": forged}, "global_concurrency": forged})
    (told,) = fences(cluster, 1)
    assert told.permit is None


def test_a_task_called_by_another_one_runs_under_the_permit_of_the_caller(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"app": 1})
    cluster.start("w1", concurrency=1)
    cluster.send("fenced", 1, "call")
    outer, inner = fences(cluster, 2)
    assert (outer.task, inner.task) == (0, 1)
    assert inner.permit == outer.permit


def test_outside_of_a_worker_there_is_no_permit():
    assert current_permit() is None
