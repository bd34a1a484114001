"""Other systems: what they don't have is taken away here, and what is left must do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celery_gconc.cli.keyboard import ConsoleKeyboard
from tests.cluster.conftest import oracle_url, rabbitmq_url
from tests.conftest import unavailable
from tests.failures.worker_kit import OWN_APP, heard
from tests.flower.kit import VERSIONS, NoFlower, flower_folder
from tests.kit.oracle import Oracle
from tests.kit.servers import ROOT, wait_until
from tests.kit.tiers import starts
from tests.wild.elsewhere import ElsewhereCluster, python

__all__ = ["oracle_url", "rabbitmq_url"]

#: Leases that end no sooner than a test: what comes back in time came back by itself.
LONG_LEASES = {"global_concurrency_heartbeat_interval": 10.0, "global_concurrency_heartbeat_timeout": 60.0}

IMPORT_ALL = """
import importlib, os, pkgutil, select, time
assert not hasattr(os, "pidfd_open") and not hasattr(os, "waitid")
import celery_gconc
for module in pkgutil.walk_packages(celery_gconc.__path__, "celery_gconc."):
    importlib.import_module(module.name)
    print(module.name)
"""

#: What CPython's WebAssembly build lacks (tried in Pyodide 314): processes, and a clock that it names all the same.
WITHOUT_PROCESSES = """
import sys, time
sys.modules["_multiprocessing"] = None
read = time.clock_gettime
def clock_gettime(clock):
    if clock == time.CLOCK_BOOTTIME:
        raise OSError(28, "Invalid argument")
    return read(clock)
time.clock_gettime = clock_gettime
from celery_gconc import GlobalConcurrency
from celery_gconc.cli import gconc
from celery_gconc.clock import now
assert now() <= time.monotonic() <= now()
"""

HELP = """
from celery import Celery
from celery.bin.base import CLIContext
from celery_gconc.cli import gconc
context = CLIContext(app=Celery(), no_color=True, workdir=None)
for name in gconc.commands:
    try:
        gconc.main([name, "--help"], prog_name="gconc", obj=context)
    except SystemExit as ended:
        assert not ended.code, name
"""


@pytest.fixture
@starts("process")
def elsewhere(redis_url: str, oracle_url: str, tmp_path: Path) -> Iterator[Callable[..., ElsewhereCluster]]:
    """Makes a cluster of another system, with these settings."""
    made: list[ElsewhereCluster] = []

    def make(system: str, broker: str = redis_url, env: dict[str, str] | None = None, **conf: object):
        oracle = Oracle(oracle_url)
        oracle.client.flushdb()
        more = tuple((env or {}).items())
        made.append(ElsewhereCluster(broker, redis_url, oracle, tmp_path, conf, system=system, more_env=more))
        return made[-1]

    yield make
    for cluster in made:
        cluster.stop()
        cluster.oracle.client.close()


@pytest.mark.process
@pytest.mark.parametrize(
    "system",
    [
        pytest.param("Windows", marks=pytest.mark.wild("platforms", "Windows: import of every module")),
        pytest.param("macOS", marks=pytest.mark.wild("platforms", "macOS before Python 3.13: import of every module")),
    ],
)
def test_every_module_can_be_imported(system: str):
    try:
        flower = flower_folder(VERSIONS[-1])
    except NoFlower as exc:
        unavailable(str(exc))
    done = python(system, f"import sys\nsys.path.append({str(flower)!r})\n{IMPORT_ALL}", dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "celery_gconc.cli.keyboard" in done.stdout
    assert "celery_gconc.metrics.prometheus" in done.stdout
    assert "celery_gconc.flower.page" in done.stdout


@pytest.mark.process
@pytest.mark.wild("platforms", "WebAssembly (Pyodide): import, where Python has no processes and refuses a clock")
def test_it_can_be_imported_where_python_has_no_processes():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PROCESSES], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.process
@pytest.mark.wild("platforms", "a container whose user has no name")
def test_a_user_without_a_name_is_a_question_mark():
    if os.getuid() != 0:
        pytest.skip("only root can be another user")
    code = "import os; from celery_gconc.operations.arguments import caller; os.setuid(54321); print(caller())"
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("?@")


@pytest.mark.wild("platforms", "Windows: a console that isn't UTF-8")
def test_status_can_be_read_on_a_console_of_windows_that_lacks_a_character(elsewhere):
    encoding = {"PYTHONIOENCODING": "cp1252"}
    cluster = elsewhere("Windows", env=encoding, global_concurrency_limits={"queue:emails-日本": 2})
    said = cluster.celery("gconc", "status")
    assert said.returncode == 0, said.stderr
    assert "queue:emails-?? " in said.stdout


@pytest.mark.process
@pytest.mark.wild("platforms", "Windows: the commands")
def test_every_command_gives_its_help_on_windows():
    done = python("Windows", HELP, dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert all(f"Usage: gconc {name}" in done.stdout for name in ("top", "status", "explain", "exporter", "set"))


@pytest.mark.wild("platforms", "Windows: the keys of `gconc top`")
def test_keys_of_a_windows_console_have_their_names():
    typed = iter(["p", "\xe0", "H", "\0", "P", "+"])
    left = [4]

    def has_key() -> bool:
        left[0] -= 1
        return left[0] >= 0

    keys = ConsoleKeyboard(has_key, lambda: next(typed))
    assert keys.read(0.0) == ["p", "up", "down"], "read asks once before it waits"
    keys.wake()
    assert keys.read(60.0) == [], "it was woken"


@pytest.mark.parametrize(
    ("pool", "broker"),
    [
        pytest.param("solo", "redis", marks=pytest.mark.wild("platforms", "Windows: a solo worker, Redis")),
        pytest.param("threads", "redis", marks=pytest.mark.wild("platforms", "Windows: a threads worker, Redis")),
        pytest.param("threads", "rabbitmq", marks=pytest.mark.wild("platforms", "Windows: a threads worker, RabbitMQ")),
    ],
)
def test_a_worker_keeps_to_its_limits_on_windows(elsewhere, pool: str, broker: str, request: pytest.FixtureRequest):
    url = request.getfixturevalue(f"{broker}_url")
    cluster = elsewhere("Windows", url, global_concurrency_limits={"queue:emails": 1, "task:tests.cluster.app.two": 0})
    workers = cluster.start("one", "two", pool=pool, concurrency=2)
    # Celery itself comes round each two seconds here; the next task under a limit doesn't wait for that.
    cluster.send("nap", 6, 0.05)
    cluster.send("two", 2, 0.05, queue="celery", first=6)
    cluster.done(6, name="nap")
    app = cluster.app()
    app.control.broadcast("set_global_concurrency", {"limit": "task:tests.cluster.app.two", "max": 1})
    app.close()
    cluster.done(2, name="two")
    assert cluster.oracle.peak("nap") == cluster.oracle.peak("two") == 1
    if pool == "threads":
        return
    said = cluster.celery("gconc", "status")
    shown = [line.split() for line in said.stdout.splitlines()]
    assert [words[2] for words in shown if words[:1] in (["one@test"], ["two@test"])] == [pool] * 2, said.stderr
    for worker in workers:
        worker.process.send_signal(signal.SIGTERM)
    assert [worker.process.wait(30) for worker in workers] == [0, 0]
    assert cluster.permits() == 0
    assert "Traceback" not in workers[0].output() + workers[1].output()


@pytest.mark.wild("platforms", "macOS before Python 3.13: a killed child of a prefork worker")
def test_a_killed_child_gives_its_permit_back_where_there_is_no_pidfd(elsewhere):
    cluster = elsewhere("macOS", global_concurrency_limits={"pool:db": 1}, **LONG_LEASES)
    (worker,) = cluster.start("w", concurrency=2)
    cluster.send("pooled", 1, 300.0)
    heard(cluster, "s", 0)
    cluster.send("pooled", 1, 0.05, first=1)
    wait_until(lambda: cluster.permits() == 2, what="the second stands in line")
    os.kill(cluster.oracle.events()[0].pid, signal.SIGKILL)
    heard(cluster, "s", 1)
    heard(cluster, "e", 1)
    wait_until(lambda: "WorkerLostError" in worker.output(), what="billiard's pool has noticed it as well")
    cluster.send("pooled", 4, 0.05, first=2)
    heard(cluster, "e", 2, 3, 4, 5)
    assert "unexpected error" not in worker.output(), "the link's thread lives"


@pytest.mark.wild("platforms", "macOS before Python 3.13: a child is killed while the event loop is stuck")
def test_a_killed_child_gives_its_permit_back_though_nothing_reaps_it(elsewhere):
    cluster = elsewhere("macOS", global_concurrency_limits={"pool:db": 1}, **LONG_LEASES)
    cluster.module = OWN_APP
    cluster.spawn("w", concurrency=2)
    cluster.spawn("other", queues="other", concurrency=1)
    cluster.ready()
    cluster.send("pooled", 1, 300.0)
    heard(cluster, "s", 0)
    cluster.send("pooled", 1, 0.05, queue="other", first=2)
    wait_until(lambda: cluster.permits() == 2, what="the other worker's stands in line")
    cluster.send("blocking", 1, first=1)
    heard(cluster, "s", 1)
    os.kill(next(event.pid for event in cluster.oracle.events() if event.name == "pooled"), signal.SIGKILL)
    heard(cluster, "s", 2)
    assert cluster.oracle.count("e", "blocked loop") == 0, "it stands still"
