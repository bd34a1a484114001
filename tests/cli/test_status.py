"""``celery gconc status``, and what all commands have in common: JSON, exit codes, errors, colours, a light start."""

from __future__ import annotations

import json
import locale
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from celery import Celery

from celery_gconc import Operations
from celery_gconc.cli import gconc as command
from celery_gconc.protocol.status import as_json
from tests.cli.conftest import Gconc, said
from tests.kit import warm
from tests.kit.servers import ROOT, free_port, redis_server, wait_until
from tests.kit.workers import Cluster

LIMIT_HEADINGS = ["LIMIT", "RUN/MAX", "WAITING", "LONGEST", "/MIN", "STATE", "FROM"]


def test_with_nothing_limited_and_no_worker_it_says_what_to_do(gconc: Gconc):
    done = gconc("status")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "No limits are set. Set one with: celery -A <app> gconc set <queue> <max>" in done.stdout
    assert "No workers are running." in done.stdout


def test_with_no_worker_it_shows_what_is_configured_set_and_paused(gconc: Gconc, app: Celery):
    app.conf.global_concurrency_limits = {"queue:emails": 2, "app": 50}
    gconc("set", "emails", "4", "--for", "2h", "--reason", "backlog")
    gconc("pause", "pool:db", "--reason", "migration")
    done = gconc("status")
    heading, *rows = done.lines
    assert heading == LIMIT_HEADINGS
    assert rows[:3] == [
        ["app", "0/50", "0", "-", "0", "open", "config"],
        ["pool:db", "0/-", "0", "-", "0", "paused", "-"],
        ["queue:emails", "0/4", "0", "-", "0", "open", "set"],
    ]
    pause, value = (line for line in done.stdout.splitlines() if re.match(r"\S+: ", line))
    assert re.fullmatch(r"pool:db: paused by \S+@\S+ \d\.\d s ago: \"migration\"", pause)
    assert re.fullmatch(
        r'queue:emails: set to 4 by \S+@\S+ \d\.\d s ago, until .+ \(2 h left\): "backlog" \(configured: 2\)', value
    )


def test_one_limit_is_shown_alone(gconc: Gconc, app: Celery):
    app.conf.global_concurrency_limits = {"queue:emails": 2, "app": 50}
    assert [row[0] for row in gconc("status", "emails").lines[:2]] == ["LIMIT", "queue:emails"]
    assert "queue:other" in gconc("status", "other").stdout
    assert [limit["limit"] for limit in gconc("status", "app", "--json").json["limits"]] == ["app"]


def test_with_real_workers_it_shows_what_runs_and_waits_and_every_session(
    gconc: Gconc, make_cluster: Callable[..., Cluster]
):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 3}, global_concurrency_heartbeat_interval=0.5)
    cluster.start("one", "two", pool="threads", concurrency=4)
    cluster.send("nap", 9, 60.0)
    wait_until(lambda: cluster.oracle.count("s") == 3, what="three run")

    def limit() -> dict[str, object]:
        return gconc("status", "emails", "--json").json["limits"][0]

    wait_until(lambda: limit()["waiting"] + limit()["parked"] + cluster.waiting_in("emails") == 6, what="six wait")
    wait_until(lambda: (limit()["longest_wait"] or 0) > 1, what="the first has waited for a second")
    done = gconc("status")
    row = next(line for line in done.lines if line[0] == "queue:emails")
    assert row[1] == "3/3"
    assert int(row[2]) == limit()["waiting"] > 0
    assert row[-2:] == ["full", "config"]
    start = next(number for number, line in enumerate(done.lines) if line[0] == "WORKER")
    assert done.lines[start] == ["WORKER", "PID", "POOL", "PERMITS", "WAITING", "ROOM", "LEASE", "UP"]
    for line, worker in zip(done.lines[start + 1 :], cluster.workers, strict=True):
        assert line[:3] == [worker.node, str(worker.process.pid), "threads"]
    sessions = gconc("status", "--json").json["sessions"]
    assert sum(session["permits"] for session in sessions) == 3
    assert all(0 < session["lease"] <= 30 for session in sessions)


def test_tasks_that_ended_are_its_throughput(gconc: Gconc, make_cluster: Callable[..., Cluster]):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 3}, global_concurrency_heartbeat_interval=0.5)
    cluster.start("one", pool="threads")
    cluster.send("nap", 8, 0.01)
    wait_until(lambda: gconc("status", "emails").lines[1][4] == "8", what="eight in the last minute")


def test_now_has_workers_report_first_and_names_those_that_did_not(gconc: Gconc, make_cluster: Callable[..., Cluster]):
    cluster = make_cluster(
        global_concurrency_limits={"queue:emails": 1},
        global_concurrency_heartbeat_interval=30.0,
        global_concurrency_heartbeat_timeout=90.0,
    )
    (worker,) = cluster.start("one", pool="threads", concurrency=1)
    cluster.send("held", 30)
    wait_until(lambda: gconc("status", "emails", "--json").json["limits"][0]["waiting"] > 0, what="it has read some")

    def waits(*options: str) -> int:
        (limit,) = gconc("status", "emails", "--json", *options).json["limits"]
        return int(limit["waiting"] + limit["parked"])

    def has_read() -> int:
        return 29 - cluster.waiting_in("emails")

    wait_until(lambda: waits("--now") == has_read() > 1, what=lambda: f"of {has_read()} all are told: {waits()}")
    worker.process.send_signal(signal.SIGSTOP)
    try:
        done = gconc("status", "--now")
    finally:
        worker.process.send_signal(signal.SIGCONT)
    assert (done.exit_code, done.stderr) == (0, "Warning: no report from one@test: shown as of the last heartbeat\n")


def test_workers_that_are_configured_differently_are_named(gconc: Gconc, make_cluster: Callable[..., Cluster]):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 3})
    cluster.spawn("one", pool="solo")
    cluster.conf["global_concurrency_limits"] = {"queue:emails": 5}
    cluster.spawn("two", pool="solo")
    cluster.ready()
    wanted = "queue:emails: configured differently: 3 on one@test; 5 on two@test; the smallest applies"
    assert wanted in gconc("status").stdout.splitlines()
    gconc("set", "emails", "9")
    assert wanted.replace("the smallest", "the value set at run time") in gconc("status").stdout.splitlines()


def test_json_has_the_fields_of_the_dataclasses(gconc: Gconc, operations: Operations):
    operations.set("emails", 3, reason="é")
    found = gconc("status", "--json").json
    wanted = as_json(operations.status())
    assert {key: found[key] for key in ("limits", "sessions", "version")} == {
        key: wanted[key] for key in ("limits", "sessions", "version")
    }
    assert found["at"] == pytest.approx(wanted["at"], abs=5)


def test_every_command_takes_json():
    assert {name for name, item in command.commands.items() if "as_json" not in {p.name for p in item.params}} == set()


def test_no_line_is_wrapped_where_no_terminal_shows_it_unless_columns_are_asked_for(
    gconc: Gconc, operations: Operations, monkeypatch: pytest.MonkeyPatch
):
    name = "queue:" + "long" * 100
    operations.set(name, 3, reason="why " * 100)
    lines = gconc("status").stdout.splitlines()
    assert sum(line.startswith(name) for line in lines) == 2
    assert any(line.startswith(f"{name}: set to 3") and line.endswith("(configured: none)") for line in lines)
    assert not any(line.endswith(" ") for line in lines)
    monkeypatch.setenv("COLUMNS", "100")
    assert max(len(line) for line in gconc("status").stdout.splitlines()) <= 100


def test_what_others_wrote_moves_no_cursor_and_marks_nothing_up(gconc: Gconc, operations: Operations):
    operations.set("queue:[red]x", 3, reason="\x1b[31mred\u202e [bold]b[/]", by="root\r\nroot")
    for arguments in (("status",), ("set", "queue:[red]x", "4")):
        text = gconc(*arguments).stdout
        assert "queue:[red]x" in text
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text)
    operations.set("queue:[red]x", 3, reason="\x1b[31mred [bold]b[/]")
    assert '"\\x1b[31mred [bold]b[/]"' in gconc("status").stdout


@pytest.mark.parametrize(
    "arguments", [("status",), ("get", "a"), ("holders", "a"), ("waiting", "a"), ("top", "--json")]
)
def test_without_redis_it_ends_with_69_and_one_line_that_shows_no_password(arguments: tuple[str, ...]):
    app = Celery("shell", broker=f"redis://:secret@127.0.0.1:{free_port()}/0", set_as_current=False)
    done = said(app, *arguments)
    assert (done.exit_code, done.stdout) == (69, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: coordination Redis unavailable: ")
    assert "(redis://:**@127.0.0.1:" in line
    app.close()


@pytest.mark.redis
def test_a_redis_that_hangs_is_away_too():
    with redis_server() as server:
        app = Celery("shell", broker=server.url, set_as_current=False)
        app.conf.global_concurrency_redis_options = {"socket_timeout": 0.5}
        os.kill(server.process.pid, 19)
        done = said(app, "status")
        os.kill(server.process.pid, 18)
    assert done.exit_code == 69
    assert len(done.stderr.splitlines()) == 1
    app.close()


def test_a_wrong_setting_is_one_line_that_names_it_and_exit_code_1(app: Celery, gconc: Gconc):
    app.conf.global_concurrency_limits = {"queue:emails": -3}
    for arguments in (("status",), ("set", "emails", "3"), ("top", "--json")):
        done = gconc(*arguments)
        assert (done.exit_code, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: global_concurrency_limits={'queue:emails': -3}")


def test_tasks_that_cannot_be_imported_are_a_warning_and_the_command_goes_on(app: Celery, gconc: Gconc):
    app.conf.imports = ("no.such.module",)
    done = gconc("status")
    assert done.exit_code == 0
    assert "Warning: some tasks of the app could not be imported" in done.stderr
    assert "No limits are set." in done.stdout


# -- As a process ----------------------------------------------------------------------------------------------


#: What a warm process has in its environment (tests/kit/warm.py); and what these tests' own may lack: a terminal with
#: colours, and a locale with bars.
WARM = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "C_FORCE_ROOT": "1"}
TERMINAL: dict[str, str] = {}
if os.environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
    TERMINAL["TERM"] = "xterm-256color"
if locale.getpreferredencoding(False).upper() != "UTF-8":
    TERMINAL["LC_ALL"] = "C.UTF-8"


def celery(*arguments: str, broker: str = "", stdout: int = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess:
    """Run ``celery -A tests.cluster.app ...`` as a person at a shell would."""
    conf = {"global_concurrency_limits": {"queue:emails": 2}}
    environ = {"TEST_BROKER": broker, "TEST_CONF": json.dumps(conf), **TERMINAL}
    command = [sys.executable, "-m", "celery", *arguments]
    return warm.run(command, cwd=ROOT, env={**os.environ, **WARM, **environ, **env}, stdout=stdout, timeout=60)


GCONC = ("-A", "tests.cluster.app", "gconc")


@pytest.mark.process
def test_it_is_a_command_of_celery_that_needs_no_broker_but_redis(redis_url: str):
    conf = json.dumps({"global_concurrency_limits": {"queue:emails": 2}, "global_concurrency_redis_url": redis_url})
    broker = f"pyamqp://guest:guest@127.0.0.1:{free_port()}//"
    assert celery(*GCONC, "set", "emails", "3", broker=broker, TEST_CONF=conf).returncode == 0
    done = celery(*GCONC, "status", "emails", broker=broker, TEST_CONF=conf)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split() == ["queue:emails", "0/3", "0", "-", "0", "open", "set"]


@pytest.mark.process
def test_without_an_app_it_says_that_none_was_named():
    done = celery("gconc", "status")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: global_concurrency_redis_url is not set")
    assert done.stderr.endswith("(no app given; use celery -A <app> gconc ...)\n")


@pytest.mark.process
def test_a_misspelt_command_gets_a_suggestion(redis_url: str):
    done = celery(*GCONC, "stauts", broker=redis_url)
    assert done.returncode == 2
    assert "No such command 'stauts'" in done.stderr
    assert "status" in done.stderr.split("Did you mean")[1]


@pytest.mark.process
def test_a_pipe_that_closes_early_is_no_traceback(redis_url: str):
    reading, writing = os.pipe()
    os.close(reading)
    done = celery(*GCONC, "status", broker=redis_url, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def on_a_terminal(*arguments: str, broker: str, **env: str) -> str:
    """What a command writes to a terminal."""
    ours, its = pty.openpty()
    try:
        done = celery(*arguments, broker=broker, stdout=its, **env)
        assert done.returncode == 0, done.stderr
        return os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(its)


@pytest.mark.process
def test_a_terminal_gets_bars_and_colours_and_none_where_they_are_not_wanted(redis_url: str):
    columns = {"COLUMNS": "80", "LINES": "24"}
    status = (*GCONC, "status")
    with ThreadPoolExecutor() as threads:
        colourful, *unset, narrow = threads.map(
            lambda how: on_a_terminal(*how[0], broker=redis_url, **{**columns, **how[1]}),
            [(status, {}), (status, {"NO_COLOR": "1"}), (("--no-color", *status), {}), (status, {"COLUMNS": "60"})],
        )
    assert "\x1b[" in colourful
    assert "░" * 10 in colourful
    for text in unset:
        assert "\x1b" not in text
        assert "░" * 10 in text
        assert max(len(line) for line in text.splitlines()) <= 80
    assert "░" not in narrow


@pytest.mark.process
def test_what_the_locale_has_no_character_for_is_a_question_mark_on_a_terminal(redis_url: str):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "NO_COLOR": "1", "COLUMNS": "120"}
    assert celery(*GCONC, "set", "emails", "3", "--reason", "caf\u00e9", broker=redis_url).returncode == 0
    text = on_a_terminal(*GCONC, "status", broker=redis_url, **ascii_only)
    assert '"caf?"' in text
    assert "." * 10 in text


@pytest.mark.process
def test_every_celery_command_imports_it_so_it_loads_nothing_that_only_some_of_its_commands_need():
    heavy = (
        "rich", "tornado", "prometheus_client", "flower",
        "celery_gconc.diagnosis.explain", "celery_gconc.diagnosis.doctor",
        "celery_gconc.diagnosis.simulation", "celery_gconc.metrics.prometheus", "celery_gconc.cli.keyboard",
    )  # fmt: skip
    code = f"import sys, celery_gconc.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.process
def test_an_app_with_preload_options_of_its_own_has_the_command_too(redis_url: str, tmp_path: Path):
    (tmp_path / "proj.py").write_text(
        "import click\nfrom celery import Celery\nfrom celery.signals import user_preload_options\n"
        f"app = Celery('proj', broker={redis_url!r})\n"
        "app.user_options['preload'].add(click.Option(['--site']))\n"
        "user_preload_options.connect(lambda options, **_: print('site', options['site']), weak=False)\n"
    )
    done = celery("-A", "proj", "gconc", "--site", "north", "status", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("site north\nNo limits are set.")
