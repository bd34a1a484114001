"""A cluster as the diagnosing commands see it: through an app that is configured as its workers' is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.app.control import Control

from celery_gconc.diagnosis.explain import Explanation, explain
from celery_gconc.operations.operations import Operations
from tests.kit.namespace import change_is_known
from tests.kit.servers import wait_until
from tests.kit.workers import SHORT_POLLS, Cluster

MakeCluster = Callable[..., Cluster]

#: Leases of three seconds: what a dead worker held comes back soon.
QUICK = {"global_concurrency_heartbeat_interval": 0.5, "global_concurrency_heartbeat_timeout": 3.0}

#: Longer than any of these tests.
LONG = 300.0


def nothing() -> None:
    """A task that is never run here."""


class _Control(Control):
    """Remote control that waits for the workers that can answer, and not for others: with none, hardly at all."""

    case: Case

    def broadcast(self, command: str, *args: Any, timeout: float = 1.0, limit: int | None = None, **more: Any) -> Any:
        answering = self.case.answering
        limit = min(limit or answering, answering) or None
        timeout = max(timeout, self.case.patience) if answering else 0.1
        return super().broadcast(command, *args, timeout=timeout, limit=limit, **more)


class Case:
    """A cluster, its app as a person at a shell has it, and what is explained of it."""

    #: How many of its live workers don't answer.
    silent = 0

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.app: Celery = cluster.app()
        self.app.main = "cluster"
        self.app.conf.update(cluster.conf)
        if cluster.broker.startswith("redis"):
            self.app.conf.broker_transport_options = {**self.app.conf.broker_transport_options, **SHORT_POLLS}
        self.app.control = _Control(self.app)
        self.app.control.case = self
        self.app.task(name="tests.cluster.app.two", global_concurrency=2, shared=False)(nothing)
        self.app.task(name="tests.cluster.app.pooled", global_concurrency="pool:db", shared=False)(nothing)
        self.operations = Operations(self.app)

    def send(self, task: str = "nap", *args: object, queue: str = "emails", **options: object) -> str:
        return str(self.app.send_task(f"tests.cluster.app.{task}", (1, *args), queue=queue, **options).id)

    @property
    def answering(self) -> int:
        """How many workers can answer."""
        return sum(worker.process.poll() is None for worker in self.cluster.workers) - self.silent

    @property
    def patience(self) -> float:
        """How long, in seconds, workers have for their answers. Nobody waits for more than can answer."""
        return 5.0 if self.answering else 0.1

    def explain(self, task_id: str, **options: object) -> Explanation:
        found = explain(self.operations, task_id, timeout=self.patience, **options)  # type: ignore[arg-type]
        assert found.task_id == task_id
        assert re.fullmatch(r"[A-Z].*\.", found.answer), found.answer
        return found

    def started(self, count: int = 1) -> None:
        """Wait until so many tasks have started."""
        oracle = self.cluster.oracle
        wait_until(lambda: oracle.count("s") >= count, what=f"{count} tasks have started")

    def waits(self, limit: str, count: int = 1) -> None:
        """Wait until so many tasks stand in the line of a limit."""
        wait_until(lambda: len(self.operations.waiting(limit)) >= count, what=f"{count} tasks wait for {limit}")

    def change_is_known(self) -> None:
        """Wait until every worker goes by the limits as they are set."""
        change_is_known(self.cluster.redis)

    def taken(self, count: int, queue: str = "emails") -> None:
        """Wait until so many messages at most are left in a queue."""
        wait_until(lambda: self.cluster.waiting_in(queue) <= count, what=f"{count} messages are left in {queue}")


@contextmanager
def case_of(cluster: Cluster) -> Iterator[Case]:
    case = Case(cluster)
    try:
        yield case
    finally:
        case.operations.close()
        case.app.close()
