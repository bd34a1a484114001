"""A coordination Redis in a process of its own, to be broken in every way while broker and oracle live on."""

from __future__ import annotations

import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.kit.certificates import make_certificates
from tests.kit.namespace import begin_namespace
from tests.kit.servers import STOP_TIMEOUT, free_port, redis_binary, wait_until
from tests.kit.workers import Cluster, Worker

#: What a worker's log says when its session is up.
_JOINED = "coordination Redis redis"


class Coordination:
    """A Redis on one port and one folder for all its lives: it can be killed, frozen, and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.password = ""
        self.tls_port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def tls_options(self) -> tuple[str, ...]:
        """Options to start it with, so that it takes TLS at ``tls_port`` too, with certificates of its own."""
        if not self.tls_port:
            self.tls_port = free_port()
            make_certificates(self.folder)
        files = {"cert": "server.pem", "key": "server.key", "ca-cert": "ca.pem"}
        options = [word for kind, name in files.items() for word in (f"--tls-{kind}-file", str(self.folder / name))]
        return ("--tls-port", str(self.tls_port), "--tls-auth-clients", "no", *options)

    @property
    def url(self) -> str:
        """Where workers find it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: object) -> redis.Redis:
        """A new connection; its calls fail after two seconds, unless told otherwise, and aren't tried again.

        (By default, redis-py tries a refused connection or a Redis that is loading again for seconds.)
        """
        bounds = {"socket_timeout": 2, "socket_connect_timeout": 2, "retry": Retry(NoBackoff(), 0)}
        return redis.Redis(port=self.port, password=self.password or None, **{**bounds, **options})  # type: ignore[arg-type]

    def do(self, *command: object, **options: object) -> object:
        """Send one command."""
        with self.client(**options) as client:
            return client.execute_command(*command)

    def start(self, *options: str, answers: bool = True) -> None:
        """Start it (again), with what its folder holds; by default, wait until it answers."""
        assert self.process is None or self.process.poll() is not None, "it runs already"
        self.process = subprocess.Popen(
            [
                redis_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                "--dir", str(self.folder), *options,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if answers:
            wait_until(self.answers, what="the coordination Redis answers")

    def begin(self) -> None:
        """Begin its namespace: from the start, workers are granted permits, as nobody may have lived before them."""
        begin_namespace(f"redis://:{self.password}@127.0.0.1:{self.port}/0" if self.password else self.url)

    def answers(self) -> bool:
        """Whether it answers, and with no error."""
        try:
            return bool(self.do("PING"))
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """SIGKILL: it is gone at once, and connections to it are refused."""
        if self.process is not None:
            self.process.kill()  # also one that was frozen
            self.process.wait(STOP_TIMEOUT)

    def freeze(self) -> None:
        """SIGSTOP: the kernel takes connections for it, and nobody answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@dataclass
class ApartCluster(Cluster):
    """A cluster whose permits are in a Redis that is not the broker."""

    coordination: Coordination | None = None

    @property
    def client(self) -> redis.Redis:
        """A client of the Redis that keeps the permits."""
        assert self.coordination is not None
        return self.coordination.client()


def complaints(worker: Worker) -> list[str]:
    """The errors of celery-gconc in a worker's log."""
    return _said(worker, "ERROR|CRITICAL")


def warnings(worker: Worker) -> list[str]:
    """The warnings of celery-gconc in a worker's log."""
    return _said(worker, "WARNING")


def most_in_a_row(worker: Worker) -> int:
    """How many errors, at most, a worker has logged without having reached the coordination Redis in between."""
    errors = {*complaints(worker)}
    lines = [line for line in _said(worker, "ERROR|CRITICAL|INFO") if line in errors or _JOINED in line]
    return max(len(found) for found in "".join("|" if _JOINED in line else "x" for line in lines).split("|"))


def joined(worker: Worker) -> int:
    """How often a worker has told that its session is up."""
    return sum(_JOINED in line for line in _said(worker, "INFO"))


def _said(worker: Worker, levels: str) -> list[str]:
    return re.findall(rf"^\[.*?(?:{levels})/.*?\] (celery-gconc.*)$", worker.output(), re.MULTILINE)


def started(cluster: Cluster, *numbers: int) -> bool:
    """Whether all of these have started."""
    return set(numbers) <= {event.number for event in cluster.oracle.events() if event.kind == "s"}


def ended(cluster: Cluster, *numbers: int) -> bool:
    """Whether all of these have ended."""
    return set(numbers) <= {event.number for event in cluster.oracle.events() if event.kind == "e"}


def time_of(cluster: Cluster, kind: str, number: int) -> float:
    """When a task started (s) or ended (e)."""
    return next(event.time for event in cluster.oracle.events() if event.kind == kind and event.number == number)
