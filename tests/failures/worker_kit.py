"""What the tests of worker failures ask of a cluster: its sessions, who runs what, and when something happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from tests.failures.report import HEARTBEAT
from tests.kit import state
from tests.kit.keys import key
from tests.kit.oracle import Event
from tests.kit.servers import wait_until
from tests.kit.workers import Cluster, Worker

#: The heartbeat settings of these tests, in seconds.
INTERVAL = float(str(HEARTBEAT["global_concurrency_heartbeat_interval"]))
TIMEOUT = float(str(HEARTBEAT["global_concurrency_heartbeat_timeout"]))

OWN_APP = "tests.failures.worker_app"


def session_of(worker: Worker) -> str:
    """The id of the session that a worker's log names first."""
    return worker.output().partition("celery-gconc: session ")[2].partition(",")[0]


def sessions(cluster: Cluster) -> set[str]:
    """The sessions that Redis knows."""
    with cluster.client as client:
        return {member.decode() for member in client.zrange(key("sessions"), 0, -1)}


def holding(cluster: Cluster) -> set[str]:
    """The sessions that hold a permit, by Redis."""
    with cluster.client as client:
        return state.holding(client)


def stats(cluster: Cluster, worker: Worker) -> dict[str, Any]:
    """What ``inspect stats`` says of a worker's limits."""
    app = cluster.app()
    answered = wait_until(
        lambda: app.control.inspect([worker.node], timeout=2).stats(), what=f"{worker.name} answers inspect stats"
    )
    app.close()
    found: dict[str, Any] = answered[worker.node]["global_concurrency"]
    return found


def event_of(cluster: Cluster, kind: str, number: int) -> Event | None:
    """The first word of a task's start or end, if it has been said."""
    return next((e for e in cluster.oracle.events() if (e.kind, e.number) == (kind, number)), None)


def heard(cluster: Cluster, kind: str, *numbers: int, seconds: float = 20.0) -> float:
    """Wait until each of these tasks has started (s) or ended (e); return when the last did, by the oracle."""
    what = f"tasks {numbers} {'start' if kind == 's' else 'end'}"
    wait_until(lambda: all(event_of(cluster, kind, n) for n in numbers), seconds=seconds, what=what)
    return max(event.time for n in numbers if (event := event_of(cluster, kind, n)))


def received(worker: Worker, count: int) -> None:
    """Wait until a worker has received so many tasks."""
    wait_until(lambda: worker.output().count("received") >= count, what=f"{worker.name} has received {count} tasks")


def runs(process: psutil.Process) -> bool:
    """Whether a process is there and not dead."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(cluster: Cluster) -> frozenset[int]:
    """The processes that ended in the middle of a task, without a word."""
    return frozenset(event.pid for event in cluster.oracle.events() if not psutil.pid_exists(event.pid))


def no_leak(cluster: Cluster) -> None:
    """Wait until no permit is held or waited for."""
    wait_until(lambda: cluster.permits() == 0, seconds=10, what="all permits are back")


@contextmanager
def stopped(cluster: Cluster, worker: Worker) -> Iterator[float]:
    """Stop a worker and its children (SIGSTOP), and let them go on at the end; gives the oracle's time."""
    os.killpg(worker.process.pid, signal.SIGSTOP)
    try:
        yield cluster.oracle.now()
    finally:
        os.killpg(worker.process.pid, signal.SIGCONT)


def passed(cluster: Cluster, since: float, seconds: float) -> None:
    """Wait until so many seconds have passed since a moment of the oracle's clock."""
    wait_until(lambda: cluster.oracle.now() >= since + seconds, seconds=seconds + 5, what="time passes")
