"""One worker with one line of requests to look at: a limited queue, a free one, and the oracle that judges both.

What stands in Redis is read with a plain client, by the documented keys. Only the limits are changed through
celery-gconc.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import psutil
from celery import Celery
from celery.canvas import Signature
from celery.result import AsyncResult
from kombu import Connection
from kombu.exceptions import OperationalError

from celery_gconc import GlobalConcurrency
from tests.kit import state
from tests.kit.namespace import begin_namespace, change_is_known
from tests.kit.oracle import Event, Oracle
from tests.kit.servers import wait_until
from tests.kit.workers import Cluster, Worker
from tests.lifecycle.matrix import Column

#: How long, in seconds, anything may take that is to happen at once. Only a failing test waits so long.
PATIENCE = 20.0

#: Separates the parts of a member (docs/reference/keyspace.md).
US = b"\x1f"

TASKS = "tests.lifecycle.app."


class Bench:
    """A worker, its limit ``queue:<line>``, and all that can be seen of them from outside."""

    def __init__(
        self,
        column: Column,
        *,
        broker: str,
        redis_url: str,
        oracle: str,
        directory: Path,
        suffix: str = "",
        concurrency: int = 2,
        options: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        **conf: object,
    ) -> None:
        self.column = column
        self.pool = column.pool
        self.line, self.free = f"line{suffix}", f"free{suffix}"
        self.name = f"{column}{suffix}"
        self.concurrency = 1 if column.pool == "solo" else concurrency
        self.options = options
        conf = {
            "global_concurrency_redis_url": redis_url,
            "global_concurrency_limits": {"pool:bound": 1, "pool:inner": 0},
            "worker_pool_restarts": True,
            **conf,
        }
        self.cluster = _Cluster(
            broker, redis_url, Oracle(oracle), directory, conf, module="tests.lifecycle.app", more_env=env or {}
        )
        self.oracle = self.cluster.oracle
        self.redis = self.cluster.client
        self.app = Celery("client", broker=broker, backend=redis_url, set_as_current=False)
        self.app.conf.update(global_concurrency_redis_url=redis_url, result_expires=600)
        self.gconc = GlobalConcurrency(self.app)
        self.worker: Worker | None = None
        self.prefetch: int | None = None
        #: The most that may have run at once in this test, by limit.
        self.highest: dict[str, int] = {}

    # -- The worker --------------------------------------------------------------------------------------

    def empty(self) -> None:
        """Nothing is there, and nothing granted; a worker to come waits for none that may have lived before it."""
        self.oracle.client.flushdb()
        self.redis.flushdb()
        begin_namespace(self.cluster.redis)
        self.empty_queues()
        self.limit(0)

    def start(self, name: str | None = None) -> Worker:
        """Start a worker on a limit of 0, and wait until it takes tasks."""
        worker = self.cluster.spawn(
            name or self.name, pool=self.pool, concurrency=self.concurrency,
            queues=f"{self.line},{self.free}", options=self.options,
        )  # fmt: skip
        self.cluster.ready(worker)
        self.worker = worker
        return worker

    def begin(self) -> None:
        """A test begins: forget the last one's, and have a worker stand, with nothing granted."""
        self.highest.clear()
        if self.worker is None:
            self.empty()
            self.start()
            self.prefetch = self.stats()["prefetch_count"]
        else:
            self.oracle.client.flushdb()
            self.highest[f"queue:{self.line}"] = 0  # as the last test has left it

    def end(self) -> None:
        """A test has ended well: nothing of it is left, and never too many ran."""
        self.limit(0)  # an idle permit goes back at once, not after its tenth of a second
        wait_until(lambda: not self.left(), PATIENCE, lambda: f"nothing is left; but {self.left()}")
        dead = frozenset(event.pid for event in self.oracle.events() if is_dead(event.pid))
        for limit, most in self.highest.items():
            if limit.startswith("queue:"):
                assert self.oracle.peak(limit.partition(":")[2], lost=dead) <= most, f"too many ran under {limit}"
        stats = self.stats()
        counts = stats["global_concurrency"]
        assert (counts["running"], counts["parked"], counts["stopped_queues"]) == (0, 0, []), counts
        assert self.prefetch in (None, stats["prefetch_count"]), "prefetch credit was lost or won"

    def left(self) -> dict[str, object]:
        """What is left in Redis and in the broker that should not be there when nothing is to do."""
        found: dict[str, object] = {
            name: count for name in ("holders", "waiters", "reserved") if (count := self.redis.zcard(_key(name)))
        }
        found.update((queue, count) for queue in (self.line, self.free) if (count := self.queued(queue)))
        if unacked := self.unacked():
            found["unacked"] = unacked
        return found

    def stop(self) -> None:
        """End the worker at once, and whatever it had to do with it."""
        self.cluster.stop()
        self.worker = None

    def close(self) -> None:
        """End all."""
        self.stop()
        gc.collect()  # Celery's AsyncResult.__del__ talks to the result backend: now, while there is one
        self.gconc.close()
        self.app.close()
        self.redis.close()
        self.oracle.client.close()

    @property
    def node(self) -> str:
        assert self.worker is not None
        return self.worker.node

    def inspect(self, timeout: float = PATIENCE) -> Any:
        """Celery's own inspection of this worker."""
        return self.app.control.inspect(destination=[self.node], timeout=timeout, limit=1)

    def stats(self) -> dict[str, Any]:
        """What the worker says of itself."""

        def ask() -> dict[str, Any] | None:  # a green worker may say that it is ready before it hears commands
            return (self.inspect(timeout=2.0).stats() or {}).get(self.node)

        return wait_until(ask, PATIENCE, "the worker tells its stats")

    def control(self, command: str, **arguments: object) -> Any:
        """Give the worker a remote command, and return its answer."""
        (reply,) = self.app.control.broadcast(
            command, arguments=arguments, reply=True, destination=[self.node], timeout=PATIENCE, limit=1
        )
        return reply[self.node]

    # -- Tasks -------------------------------------------------------------------------------------------

    def limit(self, maximum: int, name: str | None = None) -> None:
        """Set the limit of the line, or another."""
        name = name or f"queue:{self.line}"
        self.gconc.set(name, maximum)
        if maximum == 0 and self.worker is not None:
            change_is_known(self.cluster.redis)
        self.highest[name] = max(maximum, self.highest.get(name, 0))

    def send(self, task: str, *args: object, queue: str | None = None, **options: object) -> AsyncResult:
        """Send a task of the app, to the line unless told otherwise."""
        return self.app.send_task(TASKS + task, args, queue=queue or self.line, **options)

    def signature(self, task: str, *args: object, **kwargs: object) -> Signature:
        """A part of a canvas, for the line."""
        return self.app.signature(TASKS + task, args=args, kwargs=kwargs, queue=self.line)

    def result(self, sent: AsyncResult) -> Any:
        """Wait for a task's result, or the exception it ended with."""
        return sent.get(timeout=PATIENCE, propagate=False, interval=0.02)

    def state(self, sent: AsyncResult, state: str) -> None:
        """Wait until a task has this state."""

        def now() -> str:  # AsyncResult keeps the first final state that it saw; a redelivery may bring another
            return str(self.app.AsyncResult(sent.id).state)

        wait_until(lambda: now() == state, PATIENCE, lambda: f"the task is {state}; it is {now()}")

    def let_go(self, *numbers: int) -> None:
        """Let held tasks end."""
        for number in numbers:
            self.oracle.client.rpush(f"go:{number}", 1)

    def passes(self, number: int = 999) -> Event:
        """Have a task run through the line now, and return its start."""
        assert self.result(self.send("nap", number)) == number
        return next(event for event in reversed(self.oracle.events()) if event.number == number and event.kind == "s")

    # -- What the oracle saw -----------------------------------------------------------------------------

    def starts(self, number: int) -> list[float]:
        """When a task started, each time."""
        return [event.time for event in self.oracle.events() if event.kind == "s" and event.number == number]

    def ends(self, number: int) -> list[float]:
        """When a task ended, each time."""
        return [event.time for event in self.oracle.events() if event.kind == "e" and event.number == number]

    def order(self) -> list[int]:
        """The tasks in the order of their starts."""
        return [event.number for event in self.oracle.events() if event.kind == "s"]

    def started(self, number: int, times: int = 1) -> None:
        """Wait until a task has started."""
        wait_until(
            lambda: len(self.starts(number)) >= times, PATIENCE,
            lambda: f"task {number} has started {times} times; it has {len(self.starts(number))} times",
        )  # fmt: skip

    # -- What stands in Redis and in the broker ----------------------------------------------------------

    def waiters(self, limit: str | None = None) -> list[str]:
        """The ids of the tasks that stand in a limit's line, in its order."""
        return state.waiting(self.redis, limit or f"queue:{self.line}")

    def holders(self, limit: str | None = None) -> list[str]:
        """The ids of the tasks that run under a limit, as Redis shows them.

        Units that passed on locally may be shown with an earlier task: count them, where that can be.
        """
        return state.shown(self.redis, limit or f"queue:{self.line}")

    def permits(self, limit: str | None = None) -> int:
        """How many units count under a limit, idle ones too."""
        return state.units(self.redis).get(limit or f"queue:{self.line}", 0)

    def parked(self, count: int, limit: str | None = None) -> None:
        """Wait until so many requests are parked: not in the pool, reserved in Celery's eyes, and known in Redis.

        (A worker that waits alone asks Redis for no more permits than it has room for, but always for one.)
        """

        def seen() -> tuple[int, int, int]:
            parked = self.stats()["global_concurrency"]["parked"]
            return parked, len(self.reserved()), len(self.waiters(limit))

        def are_parked() -> bool:
            if not self.waiters(limit):
                return False
            parked, reserved, waiting = seen()
            return parked == reserved == count and waiting > 0

        wait_until(are_parked, PATIENCE, lambda: f"{count} are parked; (parked, reserved, in Redis): {seen()}")

    def reserved(self) -> list[str]:
        """The ids of the requests that the worker has and doesn't run, as Celery's own command shows them."""
        return [request["id"] for request in (self.inspect(timeout=2.0).reserved() or {}).get(self.node, [])]

    def running(self, count: int, limit: str | None = None) -> None:
        """Wait until so many units are held for tasks."""
        limit = limit or f"queue:{self.line}"

        def used() -> int:
            return self.permits(limit) - state.idle(self.redis, limit)

        wait_until(lambda: used() == count, PATIENCE, lambda: f"{count} units are held in Redis; {used()} are")

    def queued(self, queue: str) -> int:
        """How many messages of a queue are ready in the broker."""
        if self.column.broker == "redis":
            return int(self.redis.llen(queue))
        with self.app.connection_for_write() as connection, connection.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)

    def unacked(self) -> int:
        """How many messages workers have and have not acknowledged. (RabbitMQ doesn't tell: 0.)"""
        return int(self.redis.hlen("unacked")) if self.column.broker == "redis" else 0

    def empty_queues(self) -> None:
        """Throw away what an earlier, failed test left in the broker."""
        if self.column.broker == "rabbitmq":
            with Connection(self.app.conf.broker_url) as connection, connection.channel() as channel:
                for queue in (self.line, self.free):
                    try:
                        channel.queue_delete(queue)
                    except OperationalError:
                        continue


class _Cluster(Cluster):
    """A cluster whose workers get more environment."""

    def __init__(self, *args: Any, more_env: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.more_env = more_env

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, **self.more_env}


def is_dead(pid: int) -> bool:
    """Whether a process runs no more; one that waits to be reaped is dead too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _key(name: str) -> str:
    return f"{{gconc}}:v2:{name}"
