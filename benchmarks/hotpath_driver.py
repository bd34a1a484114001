"""What one version of celery-gconc costs a request on its way through the gate, without a broker, a pool or a process.

Run by ``benchmarks/hotpath.py`` in a process of its own, with the version to be measured first on the path; it uses
nothing of this repository. The consumer is a stand-in; the step and its parts are the version's own, over a real Redis.
Prints one line of JSON: CPU seconds of the main thread for a request; with a count of 0, how often it calls each of the
version's own functions for one.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
import time
from types import SimpleNamespace
from typing import Any

from celery import Celery
from celery.bootsteps import RUN
from celery.concurrency.thread import TaskPool
from celery.utils.imports import symbol_by_name
from celery.worker import state
from celery.worker.request import create_request_cls
from kombu import Connection, Consumer, Queue
from kombu.asynchronous import Hub
from kombu.common import QoS

from celery_gconc import GlobalConcurrency

#: How many tasks the pool runs at once, and how many requests come before the first of them ends, where they wait.
SLOTS, PREFETCHED = 4, 16

#: How many blocks of requests are measured.
BLOCKS = 20

#: The limits of each scenario, and how many requests come at a time.
SCENARIOS: dict[str, tuple[dict[str, int], int]] = {
    "uncovered": ({"queue:other": 100}, SLOTS),
    "covered": ({"queue:celery": 100}, SLOTS),
    "covered by two": ({"queue:celery": 100, "app": 200}, SLOTS),
    "waiting for a slot": ({"queue:celery": 100}, PREFETCHED),
}


class Pool(TaskPool):
    """Has as many slots as it says, and runs nothing: its caller says when tasks begin and end."""

    def __init__(self) -> None:
        super().__init__(SLOTS)

    def on_apply(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


class Bench:
    """A consumer with the step of one version."""

    def __init__(self, url: str, limits: dict[str, int]) -> None:
        self.app = app = Celery("bench", broker="memory://", set_as_current=False)
        app.conf.update(global_concurrency_redis_url=url, global_concurrency_limits=limits)
        GlobalConcurrency(app)
        app.task(_nothing, name="bench.noop")
        app.finalize()
        self.task = app.tasks["bench.noop"]  # itself, as a worker's strategies have it, and not a proxy
        connection = Connection("memory://")
        self.running: list[Any] = []
        pool = Pool()
        self.hub = hub = Hub()
        self.consumer = consumer = SimpleNamespace(
            app=app, pool=pool, hub=hub, hostname="bench@local", timer=None, event_dispatcher=None,
            connection=connection,
            controller=SimpleNamespace(autoscaler=None, max_concurrency=None, state=SimpleNamespace(), consumer=None),
            on_task_request=self.start, call_soon=lambda *args: None, _update_prefetch_count=lambda number: None,
            blueprint=SimpleNamespace(state=RUN), task_buckets={}, qos_global=False,
        )  # fmt: skip
        consumer.task_consumer = Consumer(connection.channel(), [Queue("celery")], accept=["json"])
        consumer.qos = QoS(lambda prefetch_count: None, 16)
        (step,) = app.steps["consumer"]
        self.step = symbol_by_name(step)(consumer) if isinstance(step, str) else step(consumer)
        self.step.start(consumer)
        self.step.register_with_event_loop(consumer, hub)
        self.request_class = create_request_cls(
            symbol_by_name(self.task.Request), self.task, pool, consumer.hostname, None, app=app
        )
        self.numbers = iter(range(10**9))

    def start(self, request: Any) -> None:
        """As ``WorkController._process_task`` does: hand it to the pool."""
        request.execute_using_pool(self.consumer.pool)
        self.running.append(request)

    def requests(self, count: int) -> list[Any]:
        """Requests as Celery makes them of messages."""
        return [self._request(f"{next(self.numbers):032}") for _ in range(count)]

    def _request(self, task_id: str) -> Any:
        headers = {"id": task_id, "task": self.task.name, "root_id": task_id, "argsrepr": "()", "kwargsrepr": "{}"}
        message = SimpleNamespace(
            headers=headers,
            delivery_info={"routing_key": "celery", "exchange": "", "gconc_queue": "celery"},
            properties={"correlation_id": task_id, "reply_to": ""},
            body=b"[[], {}, {}]",
            content_type="application/json",
            content_encoding="utf-8",
            delivery_tag=task_id,
            acknowledged=False,
        )
        return self.request_class(
            message,
            on_ack=_nothing,
            on_reject=_nothing,
            app=self.app,
            hostname=self.consumer.hostname,
            eventer=None,
            task=self.task,
            connection_errors=(),
            body=((), {}, {}),
            headers=headers,
            decoded=True,
            utc=True,
        )

    def end(self, request: Any) -> None:
        """A task begins in the pool, and ends well."""
        request.on_accepted(1, 0.0)
        request.on_success((False, None, 0.0))

    def take(self, count: int) -> float:
        """Requests come; as many run as there are slots, and end, until none is left. Return how long that took."""
        admit, running = self.consumer.on_task_request, self.running
        requests = self.requests(count)
        for request in requests:
            state.task_reserved(request)
        begun = time.thread_time()
        for request in requests:
            admit(request)
        ended = 0
        while ended < count:
            if not running:
                self.turn()
                continue
            batch = running[:]
            running.clear()
            for request in batch:
                self.end(request)
            ended += len(batch)
        return time.thread_time() - begun

    def turn(self) -> None:
        """What the event loop does with what can be read: the step's bell, and answers and notices of Redis."""
        for fd, _ in self.hub.poller.poll(0) or ():
            read, args = self.hub.readers[fd]
            read(*args)


def _nothing(*args: Any) -> None:
    """As it says."""


def measure(url: str, scenario: str, count: int) -> float:
    """CPU seconds of the main thread a request: what is more with the step than without.

    The least of some blocks of each: what else the machine does only adds to them.
    """
    limits, batch = SCENARIOS[scenario]
    bench = Bench(url, limits)
    admit = bench.consumer.on_task_request
    times: dict[bool, list[float]] = {True: [], False: []}
    try:
        for _ in range(50):
            bench.take(batch)
        for block in range(2 * BLOCKS):
            has_step = block % 2 == 0
            bench.consumer.on_task_request = admit if has_step else bench.start
            takes = count // batch // BLOCKS
            times[has_step].append(sum(bench.take(batch) for _ in range(takes)) / (takes * batch))
        return min(times[True]) - min(times[False])
    finally:
        bench.step.shutdown(bench.consumer)


def count_calls(url: str, scenario: str) -> dict[str, float]:
    """How often a request calls each function of the version's own, on the main thread."""
    limits, batch = SCENARIOS[scenario]
    bench = Bench(url, limits)
    profile = cProfile.Profile(builtins=False)
    try:
        for _ in range(500):
            bench.take(batch)
        profile.enable()
        for _ in range(500):
            bench.take(batch)
        profile.disable()
    finally:
        bench.step.shutdown(bench.consumer)
    calls: dict[str, float] = {}
    for (path, _, function), (_, count, *_) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        _, is_own, name = path.partition("celery_gconc/")
        if is_own:
            key = f"{name}:{function}"
            calls[key] = calls.get(key, 0.0) + count / (500 * batch)
    return calls


if __name__ == "__main__":
    number = int(sys.argv[3])
    print(json.dumps(measure(sys.argv[1], sys.argv[2], number) if number else count_calls(*sys.argv[1:3])))
