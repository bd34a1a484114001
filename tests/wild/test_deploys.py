"""Rolling deploys: new workers start and must be ready before old ones are stopped, whatever of ours they change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest
import redis

from tests.kit.servers import redis_server, wait_until
from tests.kit.workers import Cluster, Worker

MakeCluster = Callable[..., Cluster]

#: The limit under which the tasks of these tests run.
MAX = 3

QUICK = {"global_concurrency_heartbeat_interval": 0.5, "global_concurrency_heartbeat_timeout": 2.5}
SLOW = {"global_concurrency_heartbeat_interval": 1.0, "global_concurrency_heartbeat_timeout": 5.0}
LAZY = {"global_concurrency_heartbeat_interval": 5.0, "global_concurrency_heartbeat_timeout": 30.0}


@contextmanager
def load(cluster: Cluster, seconds: float = 0.05) -> Iterator[list[int]]:
    """Send tasks all the while, so that more wait than may run; the list has how many were sent."""
    sent, ended = [0], Event()

    def send() -> None:
        while not ended.wait(0.2):
            if cluster.waiting_in("emails") < 20:
                cluster.send("nap", 20, seconds, first=sent[0])
                sent[0] += 20

    thread = Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        ended.set()
        thread.join()


def goes_on(cluster: Cluster) -> None:
    """Tasks end."""
    known = cluster.oracle.count("e")
    wait_until(lambda: cluster.oracle.count("e") >= known + 5, seconds=40, what="work goes on")


def roll(cluster: Cluster, old: list[Worker], conf: dict[str, object], *, kill: bool = False) -> list[Worker]:
    """Replace workers by as many with other settings: those are ready before these are stopped, or the last killed."""
    cluster.conf.update(conf)
    new = cluster.start(*(f"{worker.name}n" for worker in old), pool="threads", concurrency=2)
    goes_on(cluster)
    for worker in old:
        if kill and worker is old[-1]:
            worker.kill()
        else:
            assert worker.stop() == 0
        cluster.workers.remove(worker)
    return new


def refusals(cluster: Cluster) -> list[str]:
    """What workers say where they must not run."""
    logs = cluster.directory.glob("*.log")
    return re.findall(r".*refusing to run.*|.*Traceback.*", "".join(log.read_text(errors="replace") for log in logs))


@pytest.mark.wild(
    "deploys",
    "a rolling deploy of six workers that changes the heartbeat settings, under load; one is killed during it",
)
def test_a_rolling_deploy_may_change_the_heartbeat_settings(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": MAX}, **QUICK)
    old = cluster.start(*"abcdef", pool="threads", concurrency=2)
    with load(cluster):
        goes_on(cluster)
        new = roll(cluster, old[:2], SLOW)
        new += roll(cluster, old[2:4], LAZY, kill=True)
        differ = cluster.celery("gconc", "status").stdout
        assert "heartbeat interval and timeout differ: 0.5/2.5 s on" in differ
        assert "; 1/5 s on an@test and bn@test; 5/30 s on cn@test and dn@test" in differ
        assert "heartbeat interval and timeout differ" in cluster.celery("gconc", "doctor").stdout
        new += roll(cluster, old[4:], SLOW)
        goes_on(cluster)
    assert cluster.oracle.peak(lost=frozenset({old[3].process.pid})) == MAX
    assert refusals(cluster) == []
    assert len(new) == 6


@pytest.mark.wild("deploys", "a killed worker, when all others have longer heartbeat intervals than it had")
def test_a_killed_worker_s_permits_come_back_when_its_own_lease_ends_however_rarely_others_call(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"pool:db": 1}, **QUICK)
    (holder,) = cluster.start("a", pool="threads", concurrency=1)
    cluster.send("pooled", 1, 60)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="the task runs there")
    cluster.conf.update(LAZY)
    cluster.start("b", pool="threads", concurrency=1, queues="other")
    cluster.send("pooled", 1, 0.01, first=1, queue="other")
    wait_until(lambda: cluster.permits() == 2, what="another waits here")
    killed = cluster.oracle.now()
    holder.kill()
    cluster.done(1, seconds=40)
    ended = next(event.time for event in cluster.oracle.events() if event.kind == "e")
    assert 1.0 < ended - killed < 15, "at the end of its lease of 2.5 s, where five steps of 5 s would take 25"


@pytest.mark.wild(
    "deploys", "a rolling deploy that changes limits, task options and other celery-gconc settings, under load"
)
def test_a_rolling_deploy_may_change_every_other_setting_of_ours(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": MAX}, **QUICK)
    old = cluster.start("a", "b", pool="threads", concurrency=2)
    with load(cluster):
        goes_on(cluster)
        roll(
            cluster,
            old,
            {
                "global_concurrency_limits": {"queue:emails": MAX + 1, "app": 10, "pool:db": 1},
                "global_concurrency_on_redis_error": "run",
                "global_concurrency_commit_interval": 0.2,
                "global_concurrency_consumer_timeout": 600.0,
                "global_concurrency_task_events": False,
                "global_concurrency_wait_warning": 0.0,
                "task_annotations": {"tests.cluster.app.nap": {"global_concurrency": 2}},
            },
            kill=True,
        )
        goes_on(cluster)
    peak = cluster.oracle.peak(lost=frozenset({old[-1].process.pid}))
    assert peak <= MAX, "the smaller value holds while both are configured, and then the task's own"
    assert refusals(cluster) == []


@pytest.mark.wild(
    "deploys", "two apps in one namespace that share no queue", result="reported at the start, in one line"
)
def test_two_apps_in_one_namespace_that_share_no_queue_are_told_in_one_line(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1})
    (first,) = cluster.start("first", queues="emails", pool="threads", concurrency=1)
    assert "namespace" not in warnings_of(first)
    cluster.module = "tests.wild.other_app"
    other, sharer = cluster.start("other", "sharer", queues="bills", pool="threads", concurrency=1)
    for worker in (other, sharer):
        (line,) = [line for line in warnings_of(worker).splitlines() if "have no queue in common" in line]
        assert "app other at " in line
        assert "app cluster at " in line
        assert "first@test" in line
        assert "global_concurrency_key_prefix" in line
    told = cluster.celery("gconc", "doctor").stdout
    assert "first@test belongs to app cluster with broker redis://" in told
    assert "shares this namespace, but no queue, with app other" in told


def test_two_apps_that_share_a_queue_are_one_system_and_told_nothing(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1})
    cluster.start("first", queues="emails", pool="threads", concurrency=1)
    cluster.module = "tests.wild.other_app"
    (other,) = cluster.start("other", queues="bills,emails", pool="threads", concurrency=1)
    assert warnings_of(other) == ""


def warnings_of(worker: Worker) -> str:
    return "\n".join(line for line in worker.output().splitlines() if "WARNING" in line and "celery-gconc" in line)


@pytest.mark.wild("workers", "a new namespace", result="says at INFO when limited tasks start; no warning")
def test_the_first_lines_that_a_new_user_reads_are_no_warning_and_a_loss_is_one(make_cluster: MakeCluster):
    with redis_server() as server:
        cluster = make_cluster(
            global_concurrency_limits={"queue:emails": 1}, global_concurrency_redis_url=server.url, **QUICK
        )
        first, second = cluster.start("first", "second", pool="threads", concurrency=1)
        for worker in (first, second):
            assert warnings_of(worker) == ""
        told = first.output() + second.output()
        assert re.search(r"INFO.*namespace \{gconc\} is new: tasks under limits start in [0-3]\.\d s", told)
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
        wait_until(lambda: "Redis has lost data: tasks under limits start in" in warnings_of(first), what="it is told")
