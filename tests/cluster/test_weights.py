"""Weights over real workers: what runs together never weighs more than the max, and the heaviest have their turn."""

from __future__ import annotations

from random import Random

import pytest

from tests.kit.servers import wait_until

MAX = 8


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_tasks_of_any_weight_never_weigh_more_than_the_max_together_and_all_of_them_run(make_cluster, pool):
    cluster = make_cluster(global_concurrency_limits={"pool:gpu-gb": MAX, "queue:emails": 6})
    random = Random(7)
    weights = {number: random.randint(1, MAX) for number in range(80)}
    for number, weight in weights.items():
        cluster.send("train", 1, 0.02, weight, first=number)
    cluster.start("w1", "w2", "w3", concurrency=4, pool=pool)
    cluster.done(len(weights))
    assert cluster.oracle.peak(weights=weights) <= MAX
    assert cluster.oracle.peak(weights=weights) >= MAX - 2, "they share it"
    assert sorted(cluster.oracle.starts()) == sorted(weights)


def test_a_task_that_takes_all_of_a_limit_is_not_overtaken_for_ever_by_light_ones(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"pool:gpu-gb": MAX})
    cluster.start("w1", "w2", concurrency=6)
    cluster.send("train", 60, 0.05)
    wait_until(lambda: cluster.oracle.count("s") >= 10, what="light ones run")
    cluster.send("train", 1, 0.05, MAX, first=1000)
    cluster.send("train", 100, 0.05, first=2000)
    cluster.done(161)
    starts = cluster.oracle.starts()
    weights = {**dict.fromkeys(starts, 1), 1000: MAX}
    assert cluster.oracle.peak(weights=weights) == MAX
    behind = sum(number >= 2000 for number in starts[: starts.index(1000)])
    assert behind <= 2 * 6, "of those that came later, no more than were started here and there before it was known"


def test_a_task_that_is_heavier_than_the_max_runs_alone(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"pool:gpu-gb": 3})
    cluster.send("train", 10, 0.05)
    cluster.send("train", 1, 0.1, 50, first=100)
    cluster.send("train", 1, 0.1, "much", first=101)
    cluster.send("train", 10, 0.05, first=200)
    (worker,) = cluster.start("w1", concurrency=6)
    cluster.done(22)
    weights = {number: 3 if number in (100, 101) else 1 for number in cluster.oracle.starts()}
    assert cluster.oracle.peak(weights=weights) <= 3
    told = "doesn't say how much of pool:gpu-gb it takes, so it takes all of it and runs alone: ValueError"
    assert worker.output().count(told) == 1


def test_what_holds_and_what_waits_is_counted_by_weight(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"pool:gpu-gb": 5})
    cluster.start("w1", concurrency=4)
    cluster.send("train", 1, 30, 3, first=1)
    cluster.send("train", 1, 30, 4, first=2)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="the first runs")
    status = wait_until(
        lambda: (done := cluster.celery("gconc", "status", "pool:gpu-gb", "--json")).returncode == 0 and done.stdout,
        what="a status",
    )
    assert '"running": 3' in status
    assert '"max": 5' in status
