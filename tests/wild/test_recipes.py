"""Test suites as Celery's users have them, with limits and without; an app that needs no Redis, or is switched off."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.kit.namespace import begin_namespace, empty_namespace
from tests.kit.servers import ROOT, RedisServer, free_port, redis_server, wait_until
from tests.kit.shell import Shell
from tests.kit.tiers import starts

LIMITED = {"global_concurrency_limits": {"celery": 2}}

#: Over memory:// or filesystem://, kombu looks for messages once in so many seconds (1 by default).
POLLS = {"broker_transport_options": {"polling_interval": 0.05}}

#: Over memory://, a worker takes two seconds to end, and two more to end its remote control.
IN_MEMORY = {**POLLS, "worker_enable_remote_control": False}

APP = "tests.wild.recipes.app"


@pytest.fixture(scope="module")
@starts("redis")
def broker() -> Iterator[RedisServer]:
    """A Redis with messages and results only: who is connected to the other one is there for limits."""
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
@starts("redis")
def limits_redis() -> Iterator[RedisServer]:
    """A Redis with limits only, and of these tests only: who is connected to it, is through them."""
    with redis_server() as server:
        yield server


@pytest.fixture
def redis_url(limits_redis: RedisServer) -> str:
    """Its URL; its namespace has lived before."""
    empty_namespace(limits_redis.url)
    return limits_redis.url


@pytest.fixture
def over_redis(broker: RedisServer) -> dict[str, str]:
    """Settings of an app with that broker."""
    return {"broker_url": broker.url, "result_backend": broker.url}


@pytest.fixture
@starts("process")
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python with such settings."""

    def call(*arguments: str, conf: dict[str, object], **env: str) -> subprocess.CompletedProcess[str]:
        return Shell(tmp_path, APP, conf, env).run(*arguments)

    return call


def pytest_of(name: str, *more: str) -> list[str]:
    """A suite run by pytest, as a project of its own."""
    options = ["-q", "-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider", "-p", "no:celery"]
    return ["-m", "pytest", *options, "-p", "no:docker_tools", "-p", "celery.contrib.pytest", *more,
            str(ROOT / "tests" / "wild" / "recipes" / name)]  # fmt: skip


def connected_to(url: str) -> int:
    """How many clients a database has but ourselves."""
    with redis.Redis.from_url(url) as client:
        own = client.connection_pool.connection_kwargs["db"]
        return sum(int(one["db"]) == own for one in client.client_list()) - 1


def received_by(url: str) -> int:
    """How many connections a server has taken, without this one."""
    with redis.Redis.from_url(url) as client:
        return int(client.info("stats")["total_connections_received"]) - 1


# -- Celery's own recipes ----------------------------------------------------------------------------------------------


@dataclass
class Suite:
    """One that mostly waits, for workers that end: it runs beside the tests before its own (``SUITES``)."""

    arguments: list[str]
    #: In settings, {own} is the URL of a database of its own, {unheard} of a server that no other suite knows.
    conf: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)

    def run(self, folder: Path, **urls: str) -> subprocess.CompletedProcess[str]:
        conf = {name: value.format(**urls) if isinstance(value, str) else value for name, value in self.conf.items()}
        return Shell(folder, APP, conf, {**self.env, "TEST_OUT": str(folder / "found.json")}).run(*self.arguments)


@dataclass
class Done:
    """A suite that has run."""

    process: subprocess.CompletedProcess[str]
    folder: Path
    #: Its own database.
    own: str
    #: The server that no other suite knows, and how many connections it had taken before.
    unheard: str
    before: int


DJANGO = ["-m", "django", "test", "tests.wild.recipes.with_django"]
DJANGO_ENV = {"DJANGO_SETTINGS_MODULE": "tests.wild.recipes.django_settings"}

OWN = {"broker_url": "{own}", "result_backend": "{own}"}


def workers(pool: str, count: int) -> Suite:
    """Workers one after the other in one process."""
    return Suite(
        ["-m", "unittest", "tests.wild.recipes.with_unittest"],
        {**OWN, **LIMITED, "global_concurrency_redis_url": "{own}"}, {"TEST_POOL": pool, "TEST_COUNT": str(count)},
    )  # fmt: skip


#: By the test that looks at what it has done; what takes longest comes first.
SUITES = {
    "test_the_fixtures_of_celery_work_without_limits_and_without_redis": Suite(
        pytest_of("with_fixtures.py"), IN_MEMORY
    ),
    "test_workers_after_each_other_leave_nothing_behind[prefork-4]": workers("prefork", 4),
    "test_the_fixtures_of_celery_work_with_limits_over_a_broker_in_memory": Suite(
        pytest_of("with_fixtures.py", "-k", "create"), {**IN_MEMORY, **LIMITED, "global_concurrency_redis_url": "{own}"}
    ),
    "test_workers_after_each_other_leave_nothing_behind[threads-10]": workers("threads", 10),
    "test_a_worker_beside_a_django_test_case_works_without_redis": Suite(
        DJANGO, {"CELERY_BROKER_TRANSPORT_OPTIONS": POLLS["broker_transport_options"]}, DJANGO_ENV
    ),
    "test_switched_off_the_fixtures_of_celery_work_and_no_redis_hears_of_it": Suite(
        pytest_of("with_fixtures.py"),
        {**OWN, **LIMITED, "global_concurrency_redis_url": "{unheard}", "global_concurrency_enabled": False},
    ),
    "test_workers_after_each_other_leave_nothing_behind[solo-10]": workers("solo", 10),
}


@pytest.fixture(scope="module", autouse=True)
@starts("process")
def begun(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Done]]]:
    """The suites of all those tests that are to run, some at once, from the module's first test on."""
    tests = {item.name for item in request.session.items if getattr(item, "module", None) is request.module}
    with redis_server() as unheard, redis_server() as aside, ThreadPoolExecutor(3) as threads:
        before = received_by(unheard.url)

        def run(suite: Suite, database: int, folder: Path) -> Done:
            own = aside.url.removesuffix("/0") + f"/{database}"
            begin_namespace(own)
            return Done(suite.run(folder, own=own, unheard=unheard.url), folder, own, unheard.url, before)

        yield {
            name: threads.submit(run, suite, database, tmp_path_factory.mktemp("suite"))
            for database, (name, suite) in enumerate(SUITES.items())
            if name in tests
        }


@pytest.fixture
def done(begun: dict[str, Future[Done]], request: pytest.FixtureRequest) -> Done:
    """The suite of this test has run."""
    return begun[request.node.name].result()


@pytest.mark.wild("recipes", "celery_worker and celery_session_worker, with limits")
def test_the_fixtures_of_celery_work_with_limits(run, redis_url, over_redis):
    before = received_by(redis_url)
    done = run(
        *pytest_of("with_fixtures.py"), conf={**over_redis, **LIMITED, "global_concurrency_redis_url": redis_url}
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert received_by(redis_url) > before + 1
    assert connected_to(redis_url) == 0


@pytest.mark.wild("recipes", "limits and no Redis", result="an error of the test, at once")
def test_limits_without_a_redis_are_one_clear_error_of_the_test(run):
    done = run(*pytest_of("with_fixtures.py"), conf=LIMITED)
    assert "3 errors" in done.stdout, done.stdout + done.stderr
    assert "SettingError: a limit is configured (queue:celery), but there is no Redis to keep it in" in done.stdout
    assert "global_concurrency_enabled to False" in done.stdout


def ran_on_django(done: subprocess.CompletedProcess[str]) -> None:
    """Both of its tests have passed."""
    assert "Ran 2 tests" in done.stderr, done.stderr
    assert "\nOK\n" in done.stderr, done.stderr


@pytest.mark.wild("recipes", "Django's TransactionTestCase, with limits")
def test_a_worker_beside_a_django_test_case_works_with_limits(run, redis_url, broker):
    conf = {
        "CELERY_BROKER_URL": broker.url,
        "CELERY_RESULT_BACKEND": broker.url,
        "CELERY_GLOBAL_CONCURRENCY_REDIS_URL": redis_url,
        "CELERY_GLOBAL_CONCURRENCY_LIMITS": {"queue:celery": 2},
    }
    ran_on_django(run(*DJANGO, conf=conf, **DJANGO_ENV))
    assert connected_to(redis_url) == 0


@pytest.mark.wild("recipes", "task_always_eager, with limits")
def test_eager_tasks_never_touch_redis(run, redis_url):
    before = received_by(redis_url)
    conf = {**LIMITED, "broker_url": redis_url, "task_always_eager": True}
    done = run(
        "-c", "from tests.wild.recipes.app import add\nassert add.delay(1, 2).get() == add.apply((1, 2)).get() == 3",
        conf=conf, TEST_OPTION="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert received_by(redis_url) == before + 1  # our own look at it


AT_ONCE = "an error of the test, at once"


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        pytest.param(
            "maxmemory-policy", "allkeys-lru", "may evict celery-gconc's keys",
            marks=pytest.mark.wild("recipes", "limits, a Redis that may evict celery-gconc's keys", result=AT_ONCE),
        ),
        pytest.param(
            "requirepass", "another", "global_concurrency_redis_url",
            marks=pytest.mark.wild("recipes", "limits, a Redis with a different password", result=AT_ONCE),
        ),
    ],
)  # fmt: skip
def test_a_worker_that_redis_refuses_is_an_error_of_the_test_and_the_next_one_runs(
    run, over_redis, setting, value, said
):
    with redis_server() as server, redis.Redis.from_url(server.url) as client:
        client.config_set(setting, value)
        conf = {**over_redis, **LIMITED, "global_concurrency_redis_url": server.url}
        done = run("-m", "unittest", "tests.wild.recipes.refused", conf=conf, TEST_SAID=said)
        assert done.returncode == 0, done.stderr
        assert len(client.client_list()) == 1


# -- At a shell --------------------------------------------------------------------------------------------------------


@pytest.fixture
def over_files(tmp_path: Path) -> dict[str, Any]:
    """Settings of an app with a broker and a result backend in the file system."""
    folders = {name: str(tmp_path / name) for name in ("in", "done", "control", "results")}
    for folder in folders.values():
        Path(folder).mkdir()
    return {
        "broker_url": "filesystem://",
        "broker_transport_options": {
            "data_folder_in": folders["in"], "data_folder_out": folders["in"], "control_folder": folders["control"],
            **POLLS["broker_transport_options"],
        },
        "result_backend": f"file://{folders['results']}",
    }  # fmt: skip


#: A command to one worker ends with its answer.
TO_WORKER = ("-d", "w@test", "--timeout", "20")

ADD = "from tests.wild.recipes.app import add\nprint(add.delay(1, 2).get(timeout=30))"


@pytest.mark.process
@pytest.mark.wild("recipes", "a broker in the file system, no limit, no Redis")
def test_an_app_without_limits_needs_no_redis(tmp_path, over_files):
    shell = Shell(tmp_path, APP, over_files)
    with shell.worker("-c", "2", "-n", "w@test") as worker:
        assert shell.run("-c", ADD).stdout == "3\n"
        (line,) = worker.ours
        assert "INFO" in line
        assert "off until this worker is restarted: no limit is configured, and there is no Redis" in line
        told = shell.celery("control", "set_global_concurrency", "emails", "4", *TO_WORKER)
        assert "global_concurrency_redis_url is not set" in told.stdout + told.stderr
        told = shell.celery("inspect", "global_concurrency", *TO_WORKER, "--json")
        ((_, answer),) = json.loads(told.stdout).items()
        assert answer["error"].startswith("celery-gconc is off in this worker: it has no limit, and global_concurrency")
        assert '"pool"' in shell.celery("inspect", "stats", *TO_WORKER, "--json").stdout
    for command in (("status",), ("set", "emails", "3"), ("exporter",)):
        done = shell.celery("gconc", *command)
        assert done.returncode == 1
        assert done.stderr.strip().startswith("Error: global_concurrency_redis_url is not set")
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.process
@pytest.mark.wild("recipes", "at a shell, limits and no Redis", result="one line, exit code 1")
def test_at_a_shell_limits_without_a_redis_are_one_line(tmp_path, over_files):
    done = Shell(tmp_path, APP, {**over_files, **LIMITED}).celery("worker")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "gconc" in line]
    assert line.startswith(
        "Error: celery-gconc: a limit is configured (queue:celery), but there is no Redis to keep it in"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.process
@pytest.mark.wild("recipes", "at a shell, global_concurrency_enabled = False")
def test_switched_off_a_worker_has_nothing_of_ours(tmp_path, over_redis, redis_url):
    before = received_by(redis_url)
    conf = {**over_redis, **LIMITED, "global_concurrency_redis_url": redis_url, "global_concurrency_enabled": False}
    shell = Shell(tmp_path, APP, conf, {"TEST_OPTION": '"db"'})
    with shell.worker("-P", "solo", "-n", "w@test") as worker:
        assert shell.run("-c", ADD).stdout == "3\n"
        assert worker.ours == []
        told = shell.celery("inspect", "global_concurrency", *TO_WORKER, "--json")
        assert "celery-gconc is switched off: global_concurrency_enabled is False" in told.stdout
    done = shell.celery("gconc", "status")
    assert (done.returncode, done.stderr) == (
        1, "Error: celery-gconc is switched off: global_concurrency_enabled is False\n"
    )  # fmt: skip
    assert received_by(redis_url) == before + 1  # our own look at it


@pytest.mark.process
@pytest.mark.wild("recipes", "no limit, a Redis that comes later: nothing waits, then limits set at run time hold")
def test_while_redis_is_away_and_no_limit_is_known_nothing_waits(tmp_path, over_files):
    port = free_port()
    shell = Shell(tmp_path, APP, {**over_files, "global_concurrency_redis_url": f"redis://127.0.0.1:{port}/0"})
    with shell.worker("-c", "2") as worker:
        assert shell.run("-c", ADD).stdout == "3\n"
        assert any("no limit is known, so no task waits" in line for line in worker.ours)
        with redis_server(port) as server:
            begin_namespace(server.url)
            wait_until(lambda: any("session" in line for line in worker.ours), what="the worker has connected")
            assert shell.celery("gconc", "set", "celery", "0").returncode == 0
            done = shell.run("-c", ADD.replace(".get(timeout=30)", ".id"))
            waiting = ("gconc", "waiting", "celery")
            wait_until(lambda: done.stdout.strip() in shell.celery(*waiting).stdout, what="the task waits for a permit")


@pytest.mark.process
@pytest.mark.wild(
    "recipes", 'a task option that covers nothing: global_concurrency="db"', result="reported at the start"
)
def test_a_task_option_that_covers_nothing_is_told_when_the_worker_starts(tmp_path, over_redis):
    shell = Shell(tmp_path, APP, {**over_redis, "global_concurrency_limits": {"pool:db": 3}}, {"TEST_OPTION": '"db"'})
    with shell.worker("-P", "solo") as worker:
        (line,) = [line for line in worker.ours if "covers no tasks" in line]
    assert "WARNING" in line
    assert "global_concurrency='db' covers no tasks: it means queue:db" in line
    assert line.endswith("did you mean pool:db?")


# -- Celery's own recipes that take long -------------------------------------------------------------------------------


@pytest.mark.wild("recipes", "celery_worker, memory://, with limits and a Redis for them")
def test_the_fixtures_of_celery_work_with_limits_over_a_broker_in_memory(done: Done):
    assert "1 passed" in done.process.stdout, done.process.stdout + done.process.stderr


@pytest.mark.wild("recipes", "Django's TransactionTestCase, no limit, no Redis")
def test_a_worker_beside_a_django_test_case_works_without_redis(done: Done):
    ran_on_django(done.process)


@pytest.mark.wild("recipes", "celery_worker and celery_session_worker, limits, global_concurrency_enabled = False")
def test_switched_off_the_fixtures_of_celery_work_and_no_redis_hears_of_it(done: Done):
    assert "3 passed" in done.process.stdout, done.process.stdout + done.process.stderr
    assert received_by(done.unheard) == done.before + 1  # our own look at it


@pytest.mark.wild("recipes", "celery_worker and celery_session_worker, memory://, no limit")
def test_the_fixtures_of_celery_work_without_limits_and_without_redis(done: Done):
    assert "3 passed" in done.process.stdout, done.process.stdout + done.process.stderr


@pytest.mark.parametrize(
    ("pool", "count"),
    [
        pytest.param("solo", 10, marks=pytest.mark.wild("recipes", "ten workers in one process, solo")),
        pytest.param("threads", 10, marks=pytest.mark.wild("recipes", "ten workers in one process, threads")),
        pytest.param("prefork", 4, marks=pytest.mark.wild("recipes", "four workers in one process, prefork")),
    ],
)
def test_workers_after_each_other_leave_nothing_behind(done: Done, pool: str, count: int):
    assert done.process.returncode == 0, done.process.stderr
    found = json.loads((done.folder / "found.json").read_text())
    second, last = found[1], found[-1]
    assert [one["threads"] for one in found] == [[]] * count
    assert last["receivers"] == second["receivers"]
    assert last["flags"] == [None, None]
    assert last["requests"] == 0
    if pool != "prefork":  # Celery's own queue for the log of each
        assert last["files"] <= second["files"] + 1, "one connection more or less, by when one looks"
    assert connected_to(done.own) == 0
