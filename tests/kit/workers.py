"""Workers of one app as processes, and commands beside them, as persons at a shell start them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis
from celery import Celery
from kombu import Connection

from tests.cluster.queues import with_special
from tests.kit import processes, warm
from tests.kit.oracle import Oracle
from tests.kit.processes import WORKER_OPTIONS, celery, launch
from tests.kit.servers import ROOT, wait_until
from tests.kit.state import units, waiting

#: Transport options with which whoever reads from Redis stops sooner: kombu's last BRPOP, else of a second, has to end.
SHORT_POLLS = {"polling_interval": 0.1}


@dataclass
class Worker:
    """One ``celery worker`` process, in a process group of its own."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    broker: str

    @property
    def node(self) -> str:
        return f"{self.name}@test"

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def children(self) -> list[int]:
        """The pids of its pool children."""
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def kill(self) -> None:
        """SIGKILL to all of it at once, as the OOM killer or a lost machine would."""
        processes.kill(self.process)

    def stop(self, patience: float = 30.0) -> int:
        """Warm shutdown; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(patience)
        finally:
            self.kill()


@dataclass
class Cluster:
    """Workers of one app over one broker, a Redis for results and permits, and the oracle."""

    broker: str
    redis: str
    oracle: Oracle
    directory: Path
    conf: dict[str, object] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    module: str = "tests.cluster.app"
    #: Names of special queues that the app has beside the usual ones.
    special: tuple[str, ...] = ()
    #: Whether workers start as they would at a shell, with all their imports to do.
    cold: bool = False

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "TEST_BROKER": self.broker,
            "TEST_BACKEND": self.redis,
            "TEST_ORACLE": self.oracle.url,
            "TEST_CONF": json.dumps(self.conf),
            "TEST_QUEUES": ",".join(self.special),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "C_FORCE_ROOT": "1",
            "COLUMNS": "200",
        }

    @property
    def client(self) -> redis.Redis:
        """A client of the Redis that keeps the permits (and, where it is the broker, the messages)."""
        return redis.Redis.from_url(self.redis)

    def spawn(self, name: str, *, pool: str = "prefork", concurrency: int = 4, queues: str = "emails,celery",
              options: tuple[str, ...] = ()) -> Worker:  # fmt: skip
        """Start a worker; :meth:`ready` waits for it."""
        command = celery(
            self.module, "worker", "-n", f"{name}@test", "-P", pool, "-c", str(concurrency), "-Q", queues,
            *WORKER_OPTIONS, *options,
        )  # fmt: skip
        log = self.directory / f"{name}.log"
        process = launch(command, log, cwd=ROOT, env=self.env, cold=self.cold)
        worker = Worker(name, process, log, self.broker)
        self.workers.append(worker)
        return worker

    def ready(self, *workers: Worker) -> None:
        for worker in workers or self.workers:
            wait_until(
                lambda worker=worker: "ready." in worker.output() or worker.process.poll() is not None,
                seconds=60,
                what=f"worker {worker.name} is ready",
            )
            assert worker.process.poll() is None, worker.output()
        for broker in {worker.broker for worker in workers or self.workers}:
            wait_until(lambda broker=broker: self._hear_commands(broker), what="the workers hear remote control")

    def _hear_commands(self, broker: str) -> bool:
        """Whether all workers of a broker do: with Redis, what is published before they have subscribed is lost."""
        if not broker.startswith("redis://") or "@" in broker:
            return True  # or a user that may not ask for it
        with redis.Redis.from_url(broker) as client:
            subscribed = sum(int(one["psub"]) > 0 for one in client.client_list(_type="pubsub"))
        return subscribed >= sum(one.broker == broker and one.process.poll() is None for one in self.workers)

    def start(self, *names: str, **options: object) -> list[Worker]:
        """Start workers and wait until all are ready."""
        started = [self.spawn(name, **options) for name in names]  # type: ignore[arg-type]
        self.ready(*started)
        return started

    def celery(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run the celery command, as a person at a shell would."""
        return warm.run(celery(self.module, *arguments), cwd=ROOT, env=self.env, timeout=timeout)

    def app(self) -> Celery:
        """A client of the same broker, without celery-gconc."""
        app = Celery("client", broker=self.broker, backend=self.redis, set_as_current=False)
        app.conf.task_queues = with_special(self.env["TEST_QUEUES"])
        for name in ("broker_transport_options", "broker_use_ssl", "task_queue_max_priority"):
            if name in self.conf:
                app.conf[name] = self.conf[name]
        return app

    def send(
        self, task: str, count: int, *args: object, queue: str = "emails", first: int = 0, **options: object
    ) -> None:
        """Send *count* tasks, numbered."""
        app = self.app()
        with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
            for number in range(first, first + count):
                app.send_task(
                    f"tests.cluster.app.{task}", (number, *args), producer=producer,
                    queue=queue, **options,
                )  # fmt: skip
        app.close()

    def waiting_in(self, *queues: str) -> int:
        """How many messages wait in these queues: in the broker, taken by no worker."""
        if self.broker.startswith("redis"):
            with redis.Redis.from_url(self.broker) as client:
                return sum(int(client.llen(queue)) for queue in queues)
        with Connection(self.broker) as connection, connection.channel() as channel:
            return sum(channel.queue_declare(queue, passive=True).message_count for queue in queues)

    def permits(self) -> int:
        """How many units are held, and requests wait, by whatever worker."""
        with self.client as client:
            return sum(units(client).values()) + len(waiting(client))

    def done(self, count: int, *, name: str | None = None, seconds: float = 60.0) -> None:
        """Wait until *count* tasks have ended."""
        wait_until(
            lambda: self.oracle.count("e", name) >= count, seconds=seconds,
            what=f"{count} tasks have ended; {self.oracle.count('e', name)} have",
        )  # fmt: skip

    def stop(self) -> None:
        """End all at once: how workers end by themselves has tests of its own."""
        for worker in self.workers:
            worker.kill()
        self.workers.clear()


@contextlib.contextmanager
def cluster(broker: str, redis_url: str, oracle_url: str, directory: Path, **conf: object) -> Iterator[Cluster]:
    """A cluster with these settings; its workers end with it."""
    oracle = Oracle(oracle_url)
    oracle.client.flushdb()
    made = Cluster(broker, redis_url, oracle, directory, conf)
    try:
        yield made
    finally:
        made.stop()
        oracle.client.close()
