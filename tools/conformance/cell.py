"""One place to run tests in: servers of its own, and one pytest after another.

``python -m tools.conformance.cell`` reads a job as a line of JSON from stdin, runs it, and answers with a line of JSON.
Inside namespaces of its own it uses the default ports; without, free ones, and hands them to the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import amqp
import redis

from tests.kit.servers import free_port, rabbitmq_server, redis_server

REDIS_PORT, RABBITMQ_PORT = 6379, 5672

#: Seconds that one job, some twenty tests, may take before it is ended. Its tests then count as missing.
JOB_TIMEOUT = 2400.0

#: Seconds that one test may take; the suites mark slow ones themselves with 300.
TEST_TIMEOUT = 600

#: Left behind by a test of the smoke suite, which fails when it finds it.
STALE = Path("/tmp/kill_child_process_once")


@dataclass(frozen=True)
class Servers:
    """Where the cell's servers listen."""

    redis_port: int
    rabbitmq_port: int

    def env(self, broker: str) -> dict[str, str]:
        """What tells the integration suite about them."""
        backend = f"redis://127.0.0.1:{self.redis_port}/0"
        amqp_url = f"pyamqp://guest:guest@127.0.0.1:{self.rabbitmq_port}//"
        if (self.redis_port, self.rabbitmq_port) == (REDIS_PORT, RABBITMQ_PORT):
            backend, amqp_url = "redis://", "pyamqp://"
        return {
            "TEST_BROKER": backend if broker == "redis" else amqp_url,
            "TEST_BACKEND": backend,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(self.redis_port),
        }

    def clean(self, broker: str) -> None:
        """Leave nothing of one job to the next."""
        with redis.Redis(port=self.redis_port) as client:
            client.flushall()
        if broker == "rabbitmq":
            with amqp.Connection(f"127.0.0.1:{self.rabbitmq_port}") as connection:
                connection.channel().queue_delete("celery")


def main() -> None:
    """Start the servers, and run jobs until there are no more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", required=True)
    parser.add_argument("--servers", action="store_true")
    parser.add_argument("--isolated", action="store_true")
    options = parser.parse_args()
    if options.isolated:
        if os.getpid() == 1:
            _become_init()
        _loopback_up()
    with contextlib.ExitStack() as stack:
        servers = Servers(REDIS_PORT, RABBITMQ_PORT) if options.isolated else Servers(free_port(), free_port())
        if options.servers:
            stack.enter_context(redis_server(servers.redis_port))
            if options.broker == "rabbitmq":
                stack.enter_context(rabbitmq_server(servers.rabbitmq_port))
        for line in sys.stdin:
            job = json.loads(line)
            if options.servers:
                servers.clean(options.broker)
            STALE.unlink(missing_ok=True)
            print(json.dumps(_run(job, servers.env(options.broker) if options.servers else {})), flush=True)


def _run(job: dict[str, str | list[str]], env: dict[str, str]) -> dict[str, float | int]:
    began = time.monotonic()
    command = [
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "junit_family=xunit1",
        f"--timeout={TEST_TIMEOUT}", "-o", "timeout_method=signal", "-q", f"--junitxml={job['xml']}", *job["arguments"],
    ]  # fmt: skip
    with Path(str(job["log"])).open("wb") as log:
        process = subprocess.Popen(
            command, cwd=str(job["directory"]), env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(JOB_TIMEOUT)
        except subprocess.TimeoutExpired:
            code = -1
        with _no_such_group():
            os.killpg(process.pid, 9)
        process.wait()
    return {"code": code, "seconds": time.monotonic() - began}


@contextlib.contextmanager
def _no_such_group() -> Iterator[None]:
    with contextlib.suppress(ProcessLookupError):
        yield


def _become_init() -> None:
    """Go on in a child, while this process, the first of its namespace, buries whatever is left to it.

    Otherwise the orphans of killed workers would stay as zombies, and tests that count processes count those too.
    """
    child = os.fork()
    if child == 0:
        return
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _loopback_up() -> None:
    # A new network namespace has one interface, lo, and it is down. SIOCSIFFLAGS with IFF_UP | IFF_RUNNING.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))


if __name__ == "__main__":
    main()
