"""Deadlocks by design: parents that wait for children under the same limit are warned of, Celery's own tasks exempt."""

from __future__ import annotations

from celery import Signature, chord

from tests.kit.servers import wait_until
from tests.kit.workers import Worker


def warnings(workers: list[Worker]) -> list[str]:
    return [line for worker in workers for line in worker.output().splitlines() if "possible deadlock" in line]


def test_a_child_that_waits_for_a_permit_that_its_parent_holds_is_warned_of_with_both_names_and_the_limit(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"task:tests.cluster.app.parent": 1})
    workers = cluster.start("w1", "w2")
    cluster.send("parent", 1)
    wait_until(lambda: warnings(workers), seconds=40, what="the warning")
    warning = warnings(workers)[0]
    assert "under task:tests.cluster.app.parent" in warning
    assert warning.count("tests.cluster.app.parent[") == 2, "child and parent, by name and id"


def test_a_child_that_waits_at_the_broker_for_its_parent_s_permit_is_warned_of_too(make_cluster):
    cluster = make_cluster(global_concurrency_wait_at_broker=True, global_concurrency_limits={"celery": 1})
    workers = cluster.start("w1", "w2")
    cluster.send("parent", 1, queue="celery")
    wait_until(lambda: cluster.waiting_in("celery") == 1, what="the child waits at the broker")
    wait_until(lambda: warnings(workers), seconds=40, what="the warning")
    assert "under queue:celery" in warnings(workers)[0]


def test_a_parent_that_does_not_wait_and_a_child_that_gets_its_turn_are_not_warned_of(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"task:tests.cluster.app.parent": 2})
    workers = cluster.start("w1")
    cluster.send("parent", 1)
    cluster.done(2)
    assert "deadlock" not in workers[0].output()


def test_a_chord_ends_under_an_app_limit_of_one_for_celerys_own_tasks_are_exempt(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"app": 1})
    cluster.start("w1")
    app = cluster.app()

    def nap(number: int) -> Signature:
        return app.signature("tests.cluster.app.nap", args=(number, 0.05), queue="emails", immutable=True)

    assert chord([nap(number) for number in range(4)], app=app)(nap(9)).get(timeout=30) == 9
    assert cluster.oracle.peak() == 1
    app.close()
