"""One RabbitMQ for all processes of a run (``pytest -n``), in which each has a virtual host of its own.

A node needs some six seconds of processor time to start. Whoever comes first starts it, whoever leaves last ends it; a
process that died has left.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.kit.servers import (
    RABBITMQ_STOP_TIMEOUT,
    STOP_TIMEOUT,
    RabbitMQServer,
    end_port_mapper,
    free_port,
    start_rabbitmq,
    wait_until,
)

#: A virtual host beside those of the processes, which deletes queues that nobody has used for so many milliseconds.
IMPATIENT, EXPIRES = "impatient", 5000

#: The node that this process has started, if it has: it stays its parent.
_started: list[subprocess.Popen[bytes]] = []


def write_definitions(folder: Path, hosts: list[str]) -> Path:
    """Write what a RabbitMQ with these virtual hosts has from the start."""
    hosts = [*hosts, IMPATIENT]
    rights = {"user": "guest", "configure": ".*", "write": ".*", "read": ".*"}
    expiry = {"name": "unused", "pattern": ".*", "apply-to": "queues", "priority": 0}
    definitions = {
        "users": [{"name": "guest", "password": "guest", "tags": "administrator"}],
        "vhosts": [{"name": host} for host in hosts],
        "permissions": [{"vhost": host, **rights} for host in hosts],
        "policies": [{"vhost": IMPATIENT, **expiry, "definition": {"expires": EXPIRES}}],
    }
    file = folder / "definitions.json"
    file.write_text(json.dumps(definitions))
    return file


@contextmanager
def rabbitmq_of_all(folder: Path, name: str, count: int) -> Iterator[RabbitMQServer]:
    """Use the RabbitMQ of the *count* processes that share *folder*, as the one of this *name* (of gw0, gw1 ...)."""
    data, users = folder / "rabbitmq", folder / "rabbitmq-users"
    users.mkdir(exist_ok=True)
    own = users / str(os.getpid())
    with _locked(folder):
        known = data / "node.json"
        if not _living(users):
            shutil.rmtree(data, ignore_errors=True)
            known.parent.mkdir()
            known.write_text(json.dumps(_start(data, count)))
        own.touch()
        node = json.loads(known.read_text())
    url = f"pyamqp://guest:guest@127.0.0.1:{node['port']}/{name}"
    try:
        yield RabbitMQServer(url, node["port"], psutil.Process(node["pid"]), data / "output")  # type: ignore[arg-type]
    finally:
        with _locked(folder):
            own.unlink()
            if not _living(users):
                _end(node["pid"])
                end_port_mapper(node["mapper"])
                shutil.rmtree(data, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "rabbitmq.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _living(users: Path) -> list[Path]:
    """Those who use it; the dead are forgotten."""
    for user in users.iterdir():
        if not psutil.pid_exists(int(user.name)):
            user.unlink()
    return list(users.iterdir())


def _start(folder: Path, count: int) -> dict[str, int]:
    definitions = write_definitions(folder, ["/", *(f"gw{number}" for number in range(count))])
    mapper = free_port()
    server = start_rabbitmq(free_port(), mapper, folder, {"load_definitions": definitions})
    _started.append(server.process)
    return {"port": server.port, "pid": server.process.pid, "mapper": mapper}


def _end(pid: int) -> None:
    for number, seconds in ((signal.SIGTERM, RABBITMQ_STOP_TIMEOUT), (signal.SIGKILL, STOP_TIMEOUT)):
        with suppress(ProcessLookupError, AssertionError):
            os.killpg(pid, number)
            wait_until(lambda: not _runs(pid), seconds, "it ends")
            break
    for process in _started:
        if process.pid == pid:
            process.wait(STOP_TIMEOUT)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
