"""What of Celery and of the broker stands around a worker: requests, pools of two kinds, queues. Plain objects.

queues -> Consumer -> Request -> the gate -> Request.execute_using_pool -> a pool, where it runs until the test ends it
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.concurrency import prefork, thread
from celery.exceptions import TaskRevokedError
from kombu import Queue

from celery_gconc.brokers.base import Broker, Delivery
from celery_gconc.permit import PERMIT_KEY, TaskPermit

#: What a task claims by its option; and the queues.
TASKS: dict[str, Any] = {
    "free": None,
    "a": "pool:a",
    "a2": {"limit": "pool:a", "weight": 2},
    "a3": {"limit": "pool:a", "weight": 3},
    "b": "pool:b",
    "ab": ["pool:a", "pool:b"],
    "a2b": [{"limit": "pool:a", "weight": 2}, "pool:b"],
}
QUEUES = ("q", "r")

#: The limits that operators set, and those of them that cover a task of a queue.
LIMITS = ("pool:a", "pool:b", "queue:q", "app")

#: How many units of pool:a these tasks take; all others take one of each of their limits.
WEIGHTS = {"a2": 2, "a3": 3, "a2b": 2}


def covers(limit: str, task: str, queue: str) -> bool:
    """Whether a limit covers a task of a queue, as the documentation says."""
    scope, _, name = limit.partition(":")
    return limit == "app" or (scope == "pool" and name in task) or (scope == "queue" and name == queue)


@dataclass(eq=False)
class Message:
    """One of a queue; the same however often it is delivered."""

    number: int
    task: str
    queue: str
    #: For how long its task runs; None: until the test ends it.
    seconds: float | None = None
    body: bytes = b""
    properties: dict[str, Any] = field(default_factory=dict)
    is_revoked: bool = False
    #: It is acknowledged: it will not come again.
    is_done: bool = False

    @property
    def limits(self) -> tuple[str, ...]:
        """Those of :data:`LIMITS` that would cover it."""
        return tuple(limit for limit in LIMITS if covers(limit, self.task, self.queue))

    def weight_on(self, limit: str) -> int:
        """How many units of one of these limits it takes, where its max is no less."""
        return WEIGHTS.get(self.task, 1) if limit == "pool:a" else 1


class Queues:
    """The broker."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self._waiting: dict[str, list[Message]] = {name: [] for name in QUEUES}

    def send(self, task: str, queue: str, seconds: float | None) -> Message:
        """A message comes from a client."""
        message = Message(len(self.sent) + 1, task, queue, seconds)
        self.sent.append(message)
        self._waiting[queue].append(message)
        return message

    def take(self, queue: str, but: Iterable[str] = ()) -> Message | None:
        """Deliver the first, or the first that is of no task of these."""
        waiting = self._waiting[queue]
        found = next((message for message in waiting if message.task not in but), None)
        if found is not None:
            waiting.remove(found)
        return found

    def put_back(self, messages: Iterable[Message]) -> None:
        """They come again, each at its own position."""
        for message in messages:
            if not message.is_done:
                self._waiting[message.queue].append(message)
        for waiting in self._waiting.values():
            waiting.sort(key=lambda message: message.number)

    @property
    def unstarted(self) -> list[Message]:
        """Those that no worker has."""
        return [message for waiting in self._waiting.values() for message in waiting]

    def has(self, queue: str) -> bool:
        """Whether one could be taken."""
        return bool(self._waiting[queue])


class MachineBroker(Broker):
    """These queues, as a worker's intake has them."""

    most_parked = 6

    def __init__(self, consumer: Any) -> None:
        super().__init__(consumer)
        self._consumer: TaskConsumer = consumer

    def queue_of(self, message: Any) -> str | None:
        return str(message.queue)

    def cancel(self, name: str, tag: str) -> None:
        self._consumer.consumed.discard(name)

    def consume(self, queue: Queue, tag: str) -> None:
        self._consumer.consumed.add(queue.name)

    def give_back(self, deliveries: Any) -> None:
        found: list[Delivery] = list(deliveries)
        self._consumer.give_back([message for _, message in found])

    def may_move(self, name: str, message: Any) -> bool:
        return True

    def take_past(self, name: str, tasks: Iterable[str], most: int) -> int:
        tasks, count = set(tasks), 0
        while count < most and self._consumer.receive(name, tasks):
            count += 1
        return count


class TaskConsumer:
    """kombu's consumer, and the credit that it has."""

    def __init__(self, queues: Queues, deliver: Callable[[Message], None], prefetch: int) -> None:
        self._queues, self._deliver = queues, deliver
        self.queues = [Queue(name) for name in QUEUES]
        self.channel = SimpleNamespace()
        self.no_ack = False
        self._active_tags = {name: f"tag-{name}" for name in QUEUES}
        self.consumed = set(QUEUES)
        #: What was delivered and not acknowledged.
        self.unacked: set[Message] = set()
        self._next = 0
        # The prefetch count, as Celery's ``qos`` has it; the worker's credit wraps its callback.
        self.value, self._allowed = prefetch, prefetch
        self._mutex, self.prev, self.callback = threading.Lock(), 0, self._allow

    def _allow(self, *, prefetch_count: int) -> None:
        self._allowed = prefetch_count

    @property
    def can_take(self) -> str | None:
        """A queue that a message would be taken of now, each in its turn."""
        self.callback(prefetch_count=self.value)
        if len(self.unacked) < self._allowed:
            for step in range(len(QUEUES)):
                name = QUEUES[(self._next + step) % len(QUEUES)]
                if name in self.consumed and self._queues.has(name):
                    return name
        return None

    def receive(self, queue: str, but: Iterable[str] = ()) -> bool:
        """Take a message of a queue, if there is one."""
        message = self._queues.take(queue, but)
        if message is None:
            return False
        self._next = QUEUES.index(queue) + 1
        self.unacked.add(message)
        self._deliver(message)
        return True

    def acknowledge(self, message: Message) -> None:
        """It will not come again."""
        message.is_done = True
        self.unacked.discard(message)

    def give_back(self, messages: Iterable[Message]) -> None:
        """They go back to their queues."""
        found = list(messages)
        self.unacked.difference_update(found)
        self._queues.put_back(found)

    def close(self) -> None:
        """The connection is gone."""
        self.consumed.clear()
        self.give_back(list(self.unacked))


class Request:
    """Celery's request, as far as the gate and its hooks use it."""

    eta = expires = parent_id = root_id = None

    def __init__(self, message: Message, consumer: TaskConsumer) -> None:
        self.message, self._consumer = message, consumer
        self.id = f"id-{message.number}"
        option = TASKS[message.task]
        self.task = SimpleNamespace(name=message.task, rate_limit=None, global_concurrency=option)
        self.request_dict: dict[str, Any] = {}
        self.delivery_info: dict[str, Any] = {}
        self.worker_pid: int | None = None
        #: When it started, and as of when its worker knew then what Redis says.
        self.started_at = self.known_at = 0.0

    @property
    def fencing_number(self) -> int | None:
        """The one that its task gets."""
        permit = self.delivery_info.get(PERMIT_KEY)
        return None if permit is None else TaskPermit(*permit).number

    def revoked(self) -> bool:
        if self.message.is_revoked:
            self._consumer.acknowledge(self.message)
        return self.message.is_revoked

    def _announce_revoked(self, *_: Any) -> None:
        self._consumer.acknowledge(self.message)

    def execute_using_pool(self, pool: Any, **_: Any) -> Any:
        if self.revoked():
            raise TaskRevokedError(self.id)
        return pool.start(self)

    def on_accepted(self, pid: int, at: float) -> None:
        self.worker_pid = pid
        self._consumer.acknowledge(self.message)

    def on_success(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def on_failure(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def on_timeout(self, *_: Any) -> None:
        """Nothing."""


@dataclass(eq=False)
class Job:
    """One that the pool has, until the test ends it. (Celery's own have ``_job`` and ``_write_to``, or ``f``.)"""

    request: Any
    pid: int
    _job: int
    _write_to: Any = None
    f: Any = None
    is_running: bool = True


class _Slots:
    """What both kinds of pools are: so many slots, and what runs in them."""

    def __init__(self, slots: int, started: Callable[[Request], None]) -> None:
        self.limit = self.wanted = slots
        self.jobs: list[Job] = []
        self._started, self._numbers = started, 0
        #: What the consumer's thread, or the pool's own, has still to hear, in order.
        self.calls: deque[Callable[[], None]] = deque()

    @property
    def slots(self) -> int:
        return self.limit

    @property
    def running(self) -> list[Job]:
        """What runs: as it really is, whoever knows."""
        return [job for job in self.jobs if job.is_running]

    def start(self, request: Request) -> Job:
        """Run a request from now on."""
        # (What no limit covers may wait in the pool, as in plain Celery.)
        has_permit = PERMIT_KEY in request.delivery_info
        assert not has_permit or len(self.jobs) < self.slots, f"{request.id} has a permit, and no slot of {self.slots}"
        self._numbers += 1
        job = Job(request, self._pid(), self._numbers)
        self._started(request)
        self.jobs.append(job)
        self.calls.append(lambda: request.on_accepted(job.pid, 0.0))
        return job

    def end(self, job: Job, *, is_good: bool = True) -> None:
        """The task returns, or raises."""
        job.is_running = False
        self.calls.append(lambda: self._result(job, is_good=is_good))

    def _result(self, job: Job, *, is_good: bool) -> None:
        self._leave(job)
        job.request.on_success((not is_good, None, 0.0)) if is_good else job.request.on_failure(_info(ValueError()))

    def _leave(self, job: Job) -> None:
        if job in self.jobs:
            self.jobs.remove(job)
            self._shrink()

    def resize(self, slots: int) -> None:
        """Grow, or shrink as far as slots are free; the rest goes as tasks end."""
        self.wanted = slots
        self._shrink()

    def _shrink(self) -> None:
        self.limit = max(self.wanted, min(len(self.jobs), self.limit))

    def _pid(self) -> int:
        return os.getpid()


class Prefork(_Slots, prefork.TaskPool):
    """A pool of processes, each of which may die with its task. What it calls back comes on the consumer's thread."""

    def __init__(self, slots: int, started: Callable[[Request], None]) -> None:
        super().__init__(slots, started)
        self._pool: Any = SimpleNamespace(_fileno_to_outq={}, _cache={}, _pool=[])
        self._last_pid = 10**7
        #: Children that are gone, as the system knows.
        self.dead: set[int] = set()

    @property
    def num_processes(self) -> int:
        return self.limit

    def _pid(self) -> int:
        self._last_pid += 1
        return self._last_pid

    def kill(self, job: Job) -> None:
        """The child dies, and its task with it. billiard sees it later, and the system at once."""
        job.is_running = False
        self.dead.add(job.pid)
        self.calls.append(lambda: self._lost(job))

    def time_out(self, job: Job) -> None:
        """A hard time limit: billiard calls back, and then the child is killed, which takes a moment."""
        self.calls.append(lambda: self._timed_out(job))

    def _lost(self, job: Job) -> None:
        if job in self.jobs:
            self._leave(job)
            job.request.on_failure(_info(WorkerLostError()))

    def _timed_out(self, job: Job) -> None:
        if job in self.jobs:
            job.request.on_timeout(False, 1.0)
            job.request.on_failure(_info(TimeLimitExceeded(1.0)))


class Threads(_Slots, thread.TaskPool):
    """A pool of threads, which call back themselves."""

    def start(self, request: Request) -> Job:
        job = super().start(request)
        job.f = Future()
        return job

    def _result(self, job: Job, *, is_good: bool) -> None:
        super()._result(job, is_good=is_good)
        job.f.set_result(None)


def _info(exc: Exception) -> ExceptionInfo:
    try:
        raise exc
    except Exception:
        return ExceptionInfo()


class Children:
    """What the link is told of a pool's children. (The real one asks the system.)"""

    def __init__(self, bell: Any) -> None:
        self._bell = bell
        self._watched: set[int] = set()
        self.dead: set[int] = set()
        self.look_seconds = None

    def watch(self, pid: int) -> None:
        self._watched.add(pid)
        self._bell.ring()

    def watch_pipes(self, jobs: Any) -> None:
        """The pool has none."""

    def attach(self, selector: Any) -> None:
        """Nothing to wait for."""

    @property
    def is_ready(self) -> bool:
        return bool(self._watched & self.dead)

    def exited(self) -> int | None:
        found = min(self._watched & self.dead, default=None)
        if found is not None:
            self._watched.discard(found)
        return found

    def written(self) -> None:
        return None

    def close(self) -> None:
        self._watched.clear()
