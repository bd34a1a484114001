"""The broker is lost and comes back while the coordination Redis stays: limits hold, permits return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.cluster.versions import needs_restore_settings
from tests.kit import state
from tests.kit.proxy import Proxy, proxy
from tests.kit.servers import free_port, redis_server, wait_until
from tests.kit.workers import Cluster

#: Redis as the broker delivers again, after so many seconds, what a lost connection left unacknowledged.
IMPATIENT = {"visibility_timeout": 3, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}


@dataclass
class Link:
    """A broker, and a proxy in front of it."""

    direct: str
    proxied: str
    proxy: Proxy
    options: dict[str, object]


@pytest.fixture(params=[pytest.param("redis", marks=needs_restore_settings), "rabbitmq"])
def link(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Link]:
    """Each broker behind a proxy."""
    if request.param == "redis":
        direct, options = redis_url.replace("/0", "/1"), IMPATIENT
    else:
        direct, options = request.getfixturevalue("rabbitmq_url"), {}
    port = urlsplit(direct).port
    assert port is not None
    with proxy(port) as made:
        yield Link(direct, direct.replace(str(port), str(made.port)), made, options)


def lost_pids(cluster: Cluster) -> frozenset[int]:
    """The processes that ended in the middle of a task, without a word."""
    return frozenset(event.pid for event in cluster.oracle.events() if not psutil.pid_exists(event.pid))


def waiting_sessions(cluster: Cluster) -> set[str]:
    """The sessions that wait for a permit."""
    with cluster.client as client:
        return state.waiting_sessions(client)


def session_of(worker_output: str) -> str:
    """The id that a worker's log names."""
    return worker_output.partition("celery-gconc: session ")[2].partition(",")[0]


def has_ended(cluster: Cluster, numbers: set[int]) -> bool:
    """Whether each of these has run to its end, once or more."""
    return numbers <= {event.number for event in cluster.oracle.events() if event.kind == "e"}


@pytest.mark.parametrize("cancels", [False, True], ids=["tasks-go-on", "late-tasks-are-cancelled"])
def test_a_lost_connection_breaks_no_limit_loses_no_task_and_leaves_no_permit(make_cluster, redis_url, link, cancels):
    cluster = make_cluster(
        link.proxied,
        global_concurrency_redis_url=redis_url,
        global_concurrency_limits={"emails": 3},
        worker_cancel_long_running_tasks_on_connection_loss=cancels,
        broker_transport_options=link.options,
    )
    workers = cluster.start("w1", "w2", concurrency=3)
    for number in range(6):
        cluster.send("held_late" if number % 2 else "held", 1, first=number)
    wait_until(lambda: cluster.oracle.count("s") == 3, what="three run, and go on until they are let go")
    # With Redis, a message that is on its way when the connection is cut is lost (kombu 5.4-5.7: BRPOP, then keep).

    def received() -> int:
        return sum(worker.output().count("] received") for worker in workers)

    wait_until(lambda: received() == 6, what="no message is on its way")
    link.proxy.cut()
    for worker in workers:
        wait_until(lambda worker=worker: "to broker lost" in worker.output(), what="the workers notice")
    link.proxy.restore()
    wait_until(lambda: received() >= 9, seconds=60, what="what waited is received again, while the others may run")
    cluster.oracle.let_go()
    wait_until(lambda: has_ended(cluster, set(range(6))), seconds=60, what="all have run to their end")
    wait_until(lambda: cluster.permits() == 0, seconds=40, what="all permits are back")
    assert cluster.oracle.peak(lost=lost_pids(cluster)) <= 3, "those that were killed before they ended don't count"
    assert [worker.process.poll() for worker in workers] == [None, None]


def test_while_the_broker_is_away_permits_of_tasks_that_end_return_within_a_second(make_cluster, redis_url, link):
    cluster = make_cluster(
        link.proxied,
        global_concurrency_redis_url=redis_url,
        global_concurrency_limits={"app": 2},
        broker_transport_options=link.options,
    )
    cut_off = cluster.spawn("w1", queues="emails")
    cluster.broker = link.direct
    reached = cluster.spawn("w2", queues="other")
    cluster.ready()
    sessions = {worker.name: session_of(worker.output()) for worker in (cut_off, reached)}
    cluster.send("held", 2)
    wait_until(lambda: cluster.oracle.count("s") == 2, what="two long ones run")
    cluster.send("nap", 4, 0.05, first=10)
    cluster.send("nap", 10, 0.1, queue="other", first=20)
    wait_until(lambda: waiting_sessions(cluster) == set(sessions.values()), what="both workers wait")
    wait_until(lambda: cut_off.output().count(" received") == 6, what="no message is on its way that could be lost")

    link.proxy.cut()
    wait_until(lambda: waiting_sessions(cluster) == {sessions["w2"]}, seconds=1, what="the waits are withdrawn")
    assert cluster.oracle.count("e") == 0, "the long ones were to run still"

    cluster.oracle.let_go()
    wait_until(lambda: has_ended(cluster, {0, 1, *range(20, 30)}), what="the other worker goes on alone")
    events = cluster.oracle.events()
    ends = [event.time for event in events if event.kind == "e" and event.number < 2]
    starts = [event.time for event in events if event.kind == "s" and event.number >= 20]
    assert starts[0] - ends[0] <= 1.0
    assert starts[1] - ends[1] <= 1.0, "the second permit"

    link.proxy.restore()
    wait_until(lambda: has_ended(cluster, set(range(10, 14))), seconds=40, what="the parked ones run after all")
    wait_until(lambda: cluster.permits() == 0, what="all permits are back")
    assert cluster.oracle.peak() == 2
    assert sorted(number for number in cluster.oracle.starts() if number >= 20) == list(range(20, 30))


# -- A broker that is away in the midst of work -------------------------------------------------------------


@dataclass
class Mortal:
    """A broker that can be away."""

    url: str
    go: Callable[[], object]
    come_back: Callable[[], object]


@pytest.fixture(params=[pytest.param("redis", marks=needs_restore_settings), "rabbitmq"])
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mortal]:
    """A Redis that is killed, and started again with what it had written; a RabbitMQ that refuses connections.

    (To workers that is the same as where RabbitMQ was killed: what they had not acknowledged it delivers again.)
    """
    if request.param == "redis":
        port, folder = free_port(), tmp_path / "broker"
        folder.mkdir()
        options = ("--appendonly", "yes", "--dir", str(folder))
        with ExitStack() as stack:
            server = stack.enter_context(redis_server(port, *options))

            def kill() -> None:
                server.process.kill()
                server.process.wait(20)

            yield Mortal(server.url, kill, lambda: stack.enter_context(redis_server(port, *options)))
    else:
        url = request.getfixturevalue("rabbitmq_url")
        port = urlsplit(url).port
        with proxy(port) as between:
            yield Mortal(url.replace(str(port), str(between.port)), between.cut, between.restore)


def test_a_broker_that_is_killed_or_out_of_reach_in_the_midst_of_work_breaks_no_limit_and_leaves_no_permit(
    make_cluster, redis_url, mortal
):
    cluster = make_cluster(
        mortal.url,
        global_concurrency_redis_url=redis_url,
        global_concurrency_limits={"emails": 2},
        broker_transport_options=IMPATIENT if mortal.url.startswith("redis") else {},
    )
    cluster.send("nap", 16, 0.25)
    workers = cluster.start("w1", "w2", concurrency=2)
    wait_until(lambda: cluster.oracle.count("e") >= 4, what="some have ended")
    # kombu 5.7 loses what a Redis gives it as it dies: popped, and not entered among the unacknowledged.
    wait_until(lambda: sum(worker.output().count("received") for worker in workers) >= 16, what="nobody reads any more")
    mortal.go()
    for worker in workers:
        wait_until(lambda worker=worker: "to broker lost" in worker.output(), what="the workers notice")
    mortal.come_back()
    wait_until(lambda: has_ended(cluster, set(range(16))), seconds=60, what="all have run to their end")
    wait_until(lambda: cluster.permits() == 0, what="all permits are back")
    assert cluster.oracle.peak() == 2
    assert [worker.process.poll() for worker in workers] == [None, None]
    cluster.stop()


def test_a_worker_with_more_tasks_than_slots_when_the_broker_is_lost_has_all_its_slots_afterwards(
    make_cluster, redis_url, rabbitmq_url
):
    port = urlsplit(rabbitmq_url).port
    with proxy(port) as made:
        cluster = make_cluster(
            rabbitmq_url.replace(str(port), str(made.port)),
            global_concurrency_redis_url=redis_url,
            global_concurrency_limits={"pool:db": 1},
        )
        (worker,) = cluster.start("w1", concurrency=2)
        cluster.broker = rabbitmq_url
        cluster.send("held", 8)
        wait_until(lambda: worker.output().count("received") == 8, what="more are received than run")
        made.cut()
        wait_until(lambda: "to broker lost" in worker.output(), what="the worker notices")
        made.restore()
        wait_until(lambda: worker.output().count("received") > 8, what="some that didn't run are received again")
        cluster.oracle.let_go()
        wait_until(lambda: has_ended(cluster, set(range(8))), seconds=60, what="all have run to their end")
        cluster.send("pooled", 3, 0.01, first=100)
        wait_until(lambda: has_ended(cluster, {100, 101, 102}), what="limited tasks find slots")
