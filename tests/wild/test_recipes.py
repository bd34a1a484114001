"""Test suites as Celery's users have them, with limits and without; an app that needs no Redis, or is switched off."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
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
    """How many clients but ourselves."""
    with redis.Redis.from_url(url) as client:
        return len(client.client_list()) - 1


def received_by(url: str) -> int:
    """How many connections a server has taken, without this one."""
    with redis.Redis.from_url(url) as client:
        return int(client.info("stats")["total_connections_received"]) - 1


# -- Celery's own recipes ----------------------------------------------------------------------------------------------


@pytest.mark.wild("recipes", "celery_worker and celery_session_worker, memory://, no limit")
def test_the_fixtures_of_celery_work_without_limits_and_without_redis(run):
    done = run(*pytest_of("with_fixtures.py"), conf=IN_MEMORY)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.wild("recipes", "celery_worker and celery_session_worker, with limits")
def test_the_fixtures_of_celery_work_with_limits(run, redis_url, over_redis):
    before = received_by(redis_url)
    done = run(
        *pytest_of("with_fixtures.py"), conf={**over_redis, **LIMITED, "global_concurrency_redis_url": redis_url}
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert received_by(redis_url) > before + 1
    assert connected_to(redis_url) == 0


@pytest.mark.wild("recipes", "celery_worker, memory://, with limits and a Redis for them")
def test_the_fixtures_of_celery_work_with_limits_over_a_broker_in_memory(run, redis_url):
    conf = {**IN_MEMORY, **LIMITED, "global_concurrency_redis_url": redis_url}
    done = run(*pytest_of("with_fixtures.py", "-k", "create"), conf=conf)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.wild("recipes", "limits and no Redis", result="an error of the test, at once")
def test_limits_without_a_redis_are_one_clear_error_of_the_test(run):
    done = run(*pytest_of("with_fixtures.py"), conf=LIMITED)
    assert "3 errors" in done.stdout, done.stdout + done.stderr
    assert "SettingError: a limit is configured (queue:celery), but there is no Redis to keep it in" in done.stdout
    assert "global_concurrency_enabled to False" in done.stdout


@pytest.mark.wild("recipes", "celery_worker and celery_session_worker, limits, global_concurrency_enabled = False")
def test_switched_off_the_fixtures_of_celery_work_and_no_redis_hears_of_it(run, redis_url, over_redis):
    before = received_by(redis_url)
    conf = {**over_redis, **LIMITED, "global_concurrency_redis_url": redis_url, "global_concurrency_enabled": False}
    done = run(*pytest_of("with_fixtures.py"), conf=conf)
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert received_by(redis_url) == before + 1  # our own look at it


@pytest.mark.parametrize(
    ("conf", "limits"),
    [
        pytest.param(
            {"CELERY_BROKER_TRANSPORT_OPTIONS": POLLS["broker_transport_options"]}, {},
            marks=pytest.mark.wild("recipes", "Django's TransactionTestCase, no limit, no Redis"),
        ),
        pytest.param(
            {}, {"queue:celery": 2}, marks=pytest.mark.wild("recipes", "Django's TransactionTestCase, with limits")
        ),
    ],
)  # fmt: skip
def test_a_worker_beside_a_django_test_case_works(run, redis_url, broker, conf, limits):
    if limits:
        conf = {
            "CELERY_BROKER_URL": broker.url,
            "CELERY_RESULT_BACKEND": broker.url,
            "CELERY_GLOBAL_CONCURRENCY_REDIS_URL": redis_url,
            "CELERY_GLOBAL_CONCURRENCY_LIMITS": limits,
        }
    done = run(
        "-m", "django", "test", "tests.wild.recipes.with_django", conf=conf,
        DJANGO_SETTINGS_MODULE="tests.wild.recipes.django_settings",
    )  # fmt: skip
    assert "Ran 2 tests" in done.stderr, done.stderr
    assert "\nOK\n" in done.stderr, done.stderr
    assert connected_to(redis_url) == 0


@pytest.mark.parametrize(
    ("pool", "count"),
    [
        pytest.param("solo", 10, marks=pytest.mark.wild("recipes", "ten workers in one process, solo")),
        pytest.param("threads", 10, marks=pytest.mark.wild("recipes", "ten workers in one process, threads")),
        pytest.param("prefork", 4, marks=pytest.mark.wild("recipes", "four workers in one process, prefork")),
    ],
)
def test_workers_after_each_other_leave_nothing_behind(run, redis_url, over_redis, tmp_path, pool, count):
    conf = {**over_redis, **LIMITED, "global_concurrency_redis_url": redis_url}
    out = tmp_path / "found.json"
    env = {"TEST_POOL": pool, "TEST_COUNT": str(count), "TEST_OUT": str(out)}
    done = run("-m", "unittest", "tests.wild.recipes.with_unittest", conf=conf, **env)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    second, last = found[1], found[-1]
    assert [one["threads"] for one in found] == [[]] * count
    assert last["receivers"] == second["receivers"]
    assert last["flags"] == [None, None]
    assert last["requests"] == 0
    if pool != "prefork":  # Celery's own queue for the log of each
        assert last["files"] <= second["files"]
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
def test_switched_off_a_worker_has_nothing_of_ours(tmp_path, over_files, redis_url):
    before = received_by(redis_url)
    conf = {**over_files, **LIMITED, "global_concurrency_redis_url": redis_url, "global_concurrency_enabled": False}
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
