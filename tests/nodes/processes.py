"""Processes of this machine that stand where pytest-celery expects containers.

pytest-celery's nodes reach their container through the few attributes of a Docker handle: ``id``, ``status``,
``logs()``, ``kill()``, ``restart()``, ``exec_run()``. The classes here offer those on a process group, so that its own
container classes, and subclasses of them, run unchanged where there is no container engine::

    CeleryTestWorker (node) -> CeleryWorkerContainer (pytest-celery's) -> WorkerProcess (here) -> a celery worker
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from pytest_celery import CeleryWorkerContainer, RabbitMQContainer, RedisContainer

from tests.kit.processes import launch
from tests.kit.servers import ROOT, free_port, rabbitmq_binary, rabbitmq_server, redis_server, wait_until

#: Seconds between a signal and the return of ``kill``. A container engine needs about as long; without it, two
#: equal signals in a row would reach the process as one.
SIGNAL_PAUSE = 0.5

#: Seconds that a worker may take to say that it is ready.
READY_TIMEOUT = 30.0


class LocalProcess:
    """What a Docker handle offers, for a process and all that it starts.

    It behaves like a container in what tests rely on: SIGKILL ends every process of it at once, any other signal
    goes to the main process only, nothing outlives the main process for longer than it takes to look, and the logs
    of earlier runs stay when it is started again. It is no container: files, network and process table are shared.
    """

    def __init__(self, folder: Path) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.name = f"{type(self).__name__}-{self.id}"
        self.folder = folder / self.name
        self.folder.mkdir(parents=True)
        self.log = self.folder / "log"
        self.start()

    def start(self) -> None:
        """Start the process for the first time, or again."""
        self.process = self.launch()
        self._swept = False

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process, as the leader of a group of its own, its output appended to ``log``."""
        raise NotImplementedError

    @property
    def env(self) -> dict[str, str]:
        """The environment that commands run in this "container" see."""
        return dict(os.environ)

    @property
    def status(self) -> str:
        """``running`` or ``exited``."""
        if self.process.poll() is None:
            return "running"
        self._sweep()
        return "exited"

    @property
    def attrs(self) -> dict[str, Any]:
        """The part of Docker's description that tests look at."""
        code = self.process.poll()
        return {
            "State": {"Status": self.status, "ExitCode": 0 if code is None else code},
            "Config": {"Hostname": self.id, "Env": []},
            "NetworkSettings": {"Networks": {}, "Ports": {}},
        }

    def reload(self) -> None:
        """Nothing to do: what is told here is always fresh."""

    def logs(self) -> bytes:
        """All output so far, of earlier runs too."""
        return self.log.read_bytes() if self.log.exists() else b""

    def kill(self, signal: str | int | None = None) -> None:
        """Send a signal, by name or number (SIGKILL if none is given, to the whole group, and wait for its end)."""
        number = _number(signal)
        if number == _number("SIGKILL"):
            self._sweep()
        else:
            self.process.send_signal(number)
            time.sleep(SIGNAL_PAUSE)

    def restart(self, timeout: float = 10) -> None:
        """End the process (SIGTERM, and SIGKILL after *timeout* seconds) and start it again."""
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
        self.stop()
        self.start()

    def stop(self) -> None:
        """End everything at once. May be called twice."""
        self._sweep()

    def exec_run(self, command: str | Sequence[str], **_: Any) -> tuple[int, bytes]:
        """Run a command as if inside; returns its exit code and output."""
        words = shlex.split(command) if isinstance(command, str) else list(command)
        done = subprocess.run(
            [self.program(words[0]), *words[1:]], cwd=self.folder, env=self.env, check=False, timeout=60,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout

    def program(self, name: str) -> str:
        """Where a program that this "container" has is found on this machine."""
        return sys.executable if name == "python" else name

    def _sweep(self) -> None:
        # Once for each start: the number of a group that is empty may belong to somebody else by the next time.
        if not self._swept:
            self._swept = True
            self._end_group()
            self.process.wait(10)

    def _end_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class WorkerProcess(LocalProcess):
    """A ``celery worker`` with the generated files of pytest-celery in its directory."""

    def __init__(
        self, folder: Path, command: Sequence[str], env: Mapping[str, Any], content: Mapping[str, bytes]
    ) -> None:
        self.command = list(command)
        self.given_env = {name: str(value) for name, value in env.items()}
        self.content = content
        super().__init__(folder)

    @property
    def env(self) -> dict[str, str]:
        paths = [str(self.folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            **self.given_env,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONWARNINGS": "ignore",
            "C_FORCE_ROOT": "1",
        }

    def launch(self) -> subprocess.Popen[bytes]:
        for name, source in self.content.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source)
        # The node calls itself name@id, as in a container whose host name is its id.
        words = [word.replace("%h", self.id) for word in self.command]
        command = [self.program(words[0]), *words[1:]]
        return launch(command, self.log, cwd=self.folder, env=self.env, append=True)

    def restart(self, timeout: float = 10) -> None:
        """As in the base class; returns when the new worker says that it is ready."""
        before = self.logs().count(b"ready.")
        super().restart(timeout)
        self.wait_ready(before)

    def wait_ready(self, before: int = 0) -> None:
        """Wait until the worker says that it is ready, once more than *before* times; AssertionError if it ends."""
        wait_until(
            lambda: self.logs().count(b"ready.") > before or self.process.poll() is not None,
            READY_TIMEOUT, f"{self.name} is ready",
        )  # fmt: skip
        assert self.process.poll() is None, self.logs().decode(errors="replace")

    def program(self, name: str) -> str:
        # Tests find a worker's processes by the name that a process gets from its script: "celery".
        return str(Path(sys.executable).with_name("celery")) if name == "celery" else super().program(name)


class _ServerProcess(LocalProcess):
    """A server of ``tests.kit.servers`` on one port for all its lives."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._running = ExitStack()
        super().__init__(folder)

    def stop(self) -> None:
        super().stop()
        self._running.close()


class RedisProcess(_ServerProcess):
    """A Redis without persistence: a restart empties it."""

    def launch(self) -> subprocess.Popen[bytes]:
        server = redis_server(self.port, "--logfile", str(self.log))
        return self._running.enter_context(server).process

    def exec_run(self, command: str | Sequence[str], **_: Any) -> tuple[int, bytes]:
        words = shlex.split(command) if isinstance(command, str) else list(command)
        if words[0] == "redis-cli":  # inside a container it finds the server without being told where
            words[1:1] = ["-p", str(self.port)]
        return super().exec_run(words)

    def _end_group(self) -> None:
        self.process.kill()  # tests.kit.servers starts a Redis in the group of the test itself


class RabbitMQProcess(_ServerProcess):
    """A RabbitMQ whose durable queues and persistent messages outlive a restart."""

    def launch(self) -> subprocess.Popen[bytes]:
        server = self._running.enter_context(rabbitmq_server(self.port, folder=self.folder))
        self.log = server.log
        return server.process

    @property
    def env(self) -> dict[str, str]:
        # rabbitmqctl finds the server by the variables that the server was started with.
        env = psutil.Process(self.process.pid).environ()
        words = env.get("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "").split()
        if "-erl_epmd_port" in words:
            port = words[words.index("-erl_epmd_port") + 1]
            env["RABBITMQ_CTL_ERL_ARGS"] = f"-dist_listen false -start_epmd false -erl_epmd_port {port}"
        return env

    def program(self, name: str) -> str:
        beside = Path(rabbitmq_binary()).with_name(name)
        return str(beside) if beside.exists() else super().program(name)


class _Reachable:
    """A server that tests and workers reach at one address. It answers by the time that its process is launched."""

    #: Nothing to wait for in the log.
    ready_prompt = None

    @property
    def port(self) -> int:
        return self._container.port

    @property
    def hostname(self) -> str:
        return "127.0.0.1"

    @property
    def host_url(self) -> str:
        return f"{self.prefix()}{self.hostname}:{self.port}/{self.vhost}"

    @property
    def url(self) -> str:
        return self.host_url


class LocalRedis(_Reachable, RedisContainer):
    """pytest-celery's Redis, on a process."""


class LocalRabbitMQ(_Reachable, RabbitMQContainer):
    """pytest-celery's RabbitMQ, on a process."""


@contextlib.contextmanager
def local_redis(folder: Path) -> Iterator[LocalRedis]:
    """A Redis that ends with the block."""
    with _ended(RedisProcess(folder)) as process:
        yield LocalRedis(process)


@contextlib.contextmanager
def local_rabbitmq(folder: Path) -> Iterator[LocalRabbitMQ]:
    """A RabbitMQ that ends with the block."""
    with _ended(RabbitMQProcess(folder)) as process:
        yield LocalRabbitMQ(process)


@contextlib.contextmanager
def local_worker(
    folder: Path,
    container_cls: type[CeleryWorkerContainer],
    command: Sequence[str],
    env: Mapping[str, Any],
    content: Mapping[str, bytes],
) -> Iterator[CeleryWorkerContainer]:
    """A worker that ends with the block, in the container class that is asked for. It may not be ready yet.

    What it logged stands in the report of a test that fails.
    """
    with _ended(WorkerProcess(folder, command, env, content)) as process:
        try:
            yield container_cls(process)
        finally:
            sys.stdout.write(f"{process.name}:\n{process.logs().decode(errors='replace')}\n")


@contextlib.contextmanager
def _ended(process: LocalProcess) -> Iterator[LocalProcess]:
    try:
        yield process
    finally:
        process.stop()


def _number(name: str | int | None) -> int:
    return signal.SIGKILL if name is None else signal.Signals[name] if isinstance(name, str) else int(name)
