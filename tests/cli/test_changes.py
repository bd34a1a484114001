"""``celery gconc set, get, reset, pause, resume``: what they do, say and refuse."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

import pytest
from celery import Celery
from kombu import Queue

from celery_gconc import Operations
from celery_gconc.protocol.status import as_json
from tests.cli.conftest import Gconc, said
from tests.kit.servers import redis_server, wait_until
from tests.kit.workers import SHORT_POLLS, Cluster


def test_a_limit_is_set_told_and_reset_with_no_worker_alive(gconc: Gconc, operations: Operations):
    done = gconc("set", "celery", "4")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["queue:celery: was unlimited, now 4", "0 of 4 running, 0 waiting."]
    assert operations.get("celery") == 4
    assert gconc("get", "celery").stdout == "4\n"
    assert gconc("reset", "celery").stdout.splitlines()[0] == "queue:celery: was 4, now unlimited"
    assert gconc("get", "celery").stdout == "unlimited\n"


def test_the_word_unlimited_lifts_a_configured_limit(gconc: Gconc, app: Celery):
    app.conf.global_concurrency_limits = {"queue:celery": 2}
    assert gconc("get", "celery").stdout == "2\n"
    done = gconc("set", "celery", "unlimited")
    assert done.stdout.splitlines() == [
        "queue:celery: was 2 (configured), now unlimited",
        "Unlimited: 0 running, 0 waiting.",
    ]
    assert gconc("get", "celery").stdout == "unlimited\n"
    assert gconc("reset", "celery").stdout.startswith("queue:celery: was unlimited, now 2 (configured)")


def test_who_when_why_and_until_when_are_kept(gconc: Gconc, operations: Operations):
    done = gconc("set", "celery", "4", "--for", "1d12h", "--reason", "quota is [bold]raised[/]")
    assert "This value expires at " in done.stdout
    assert ", in 36 h.\n" in done.stdout
    status = operations.status("celery")
    found = status["queue:celery"]
    assert found.reason == "quota is [bold]raised[/]"
    assert found.set_by and "@" in found.set_by
    assert found.set_at == pytest.approx(status.at, abs=5)
    assert found.set_until == pytest.approx(found.set_at + 36 * 3600, abs=1)


def test_a_value_that_was_set_for_a_time_ends_by_itself(gconc: Gconc, app: Celery):
    app.conf.global_concurrency_limits = {"queue:celery": 2}
    assert gconc("set", "celery", "4", "--for", "0.5s").exit_code == 0
    wait_until(lambda: gconc("get", "celery").stdout == "2\n", what="the configured value holds again")


def test_a_pause_stands_beside_the_value_and_get_tells_of_it_on_stderr_alone(gconc: Gconc):
    gconc("set", "celery", "4")
    done = gconc("pause", "celery", "--for", "10m", "--reason", "provider is down")
    first, second, third = done.stdout.splitlines()
    assert first == "queue:celery: was 4, now 4, paused"
    assert second.startswith("The pause ends at ")
    assert second.endswith(", in 10 min.")
    assert third == "Paused: nothing is running or waiting; no tasks will start until it is resumed."
    found = gconc("get", "celery")
    assert (found.exit_code, found.stdout) == (0, "4\n")
    assert "queue:celery: paused by " in found.stderr
    assert '"provider is down"' in found.stderr
    assert gconc("set", "celery", "5").stdout.startswith("queue:celery: was 4, paused, now 5, paused")
    assert gconc("resume", "celery").stdout.splitlines() == [
        "queue:celery: was 5, paused, now 5",
        "0 of 5 running, 0 waiting.",
    ]
    assert gconc("get", "celery").stderr == ""


def test_json_is_the_change_and_the_limit(gconc: Gconc, operations: Operations):
    done = gconc("set", "celery", "4", "--json")
    assert done.json == {
        "limit": "queue:celery",
        "was": {"max": None, "paused": False, "origin": "none"},
        "now": {"max": 4, "paused": False, "origin": "override"},
        "applied": True,
    }
    assert gconc("pause", "celery", "--json").json["now"]["paused"] is True
    assert gconc("resume", "celery", "--json").json["now"]["paused"] is False
    assert gconc("get", "celery", "--json").json == as_json(operations.status("celery")["queue:celery"])
    assert gconc("reset", "celery", "--json").json["now"]["origin"] == "none"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("set", "emails", "-1"), "a max must be between 0 and 2147483648, or 'unlimited'; got -1"),
        (("set", "emails", "lots"), "a max must be a whole number >= 0, or 'unlimited'; got 'lots'"),
        (("set", "emails", "1.5"), "a max must be a whole number >= 0"),
        (("set", "emails"), "Missing argument 'MAX'"),
        (("set", "emails", "3", "4"), "unexpected extra argument"),
        (("set", "emials:x", "3"), "for a queue with that name, write queue:emials:x"),
        (("set", "", "3"), "expected a limit such as"),
        (("set", "--jsn", "3"), "no such option: '--jsn'"),
        (("set", "emails", "3", "--fro", "2h"), "unexpected extra argument"),
        (("set", "emails", "3", "--for", "5"), "a time span looks like 2h, 30m, 90s or 1d12h; got '5'"),
        (("set", "emails", "3", "--for", "12h1d"), "a time span looks like"),
        (("set", "emails", "3", "--for", "2h2h"), "a time span looks like"),
        (("set", "emails", "3", "--for", "2h and more"), "a time span looks like"),
        (("set", "emails", "3", "--for", ""), "a time span looks like"),
        (("set", "emails", "3", "--for", "0s"), "a time span must be above 0"),
        (("set", "emails", "3", "--for", "999w999d"), "at most ten years"),
        (("pause", "emails", "--for", "-2h"), "a time span looks like"),
        (("get", "emails", "--nothing"), "No such option"),
        (("resume",), "Missing argument 'LIMIT'"),
    ],
)
def test_bad_input_is_a_usage_error_that_names_the_rule_and_changes_nothing(
    gconc: Gconc, operations: Operations, arguments: tuple[str, ...], why: str
):
    done = gconc(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert why in done.stderr
    assert operations.status().limits == ()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5h", 5400), ("1d12h", 129600), ("1w", 604800), ("1D 2H", 93600)],
)
def test_a_span_of_time_is_numbers_with_units(gconc: Gconc, operations: Operations, text: str, seconds: float):
    assert gconc("pause", "celery", "--for", text).exit_code == 0
    found = operations.status("celery")["queue:celery"]
    assert found.paused_until == pytest.approx((found.paused_at or 0) + seconds, abs=0.5)


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        ("celrey", "this app knows no queue named celrey (did you mean celery?)"),
        ("task:proj.snc", "this app has no task proj.snc (did you mean proj.sync?)"),
        ("pool:dbs", "no task of this app joins the pool dbs (did you mean db?)"),
    ],
)
def test_a_limit_that_covers_nothing_known_is_set_with_one_line_of_warning(
    gconc: Gconc, operations: Operations, limit: str, why: str
):
    done = gconc("set", limit, "3")
    assert done.exit_code == 0
    assert done.stderr == f"Warning: {operations.full_name(limit)} may cover no tasks: {why}\n"
    assert operations.get(limit) == 3
    assert gconc("pause", limit).stderr != ""
    assert gconc("resume", limit).stderr != ""
    assert gconc("reset", limit).stderr == ""  # it is gone


@pytest.mark.parametrize("limit", ["celery", "task:proj.sync", "pool:db", "app"])
def test_a_limit_that_covers_something_known_gets_no_warning(gconc: Gconc, limit: str):
    assert gconc("set", limit, "3").stderr == ""


@pytest.mark.parametrize(
    "routes",
    [
        {"proj.routed": {"queue": "routed"}},
        {"proj.routed": "routed"},
        {"proj.routed": {"queue": Queue("routed")}},
        [{"proj.routed": {"queue": "routed"}}, "proj.router"],
        (lambda name, *args, **options: None, [("proj.*", {"queue": "routed"}), (re.compile("x"), {"priority": 3})]),
    ],
)
def test_a_queue_that_only_a_route_names_gets_no_warning(app: Celery, gconc: Gconc, routes: object):
    app.conf.task_routes = routes
    assert gconc("set", "routed", "3").stderr == ""
    assert "(did you mean routed?)" in gconc("set", "ruoted", "3").stderr


def test_a_queue_that_only_a_task_names_or_joins_gets_no_warning(app: Celery, gconc: Gconc):
    app.task(name="proj.own", shared=False, queue="own")(_nothing)
    app.task(name="proj.joins", shared=False, global_concurrency=["pool:db", "queue:elsewhere"])(_nothing)
    for queue in ("own", "elsewhere"):
        assert gconc("set", queue, "3").stderr == ""


@pytest.mark.parametrize("routes", ["proj.router", ["proj.routed", "proj.other"], {"proj.routed": {"priority": 3}}])
def test_routes_that_name_no_queue_make_none_known(app: Celery, gconc: Gconc, routes: object):
    app.conf.task_routes = routes
    assert "this app knows no queue named other" in gconc("set", "other", "3").stderr


def test_a_limit_that_is_configured_or_has_tasks_gets_no_warning(
    app: Celery, gconc: Gconc, make_cluster: Callable[..., Cluster]
):
    app.conf.global_concurrency_limits = {"queue:elsewhere": 2}
    assert gconc("set", "elsewhere", "3").stderr == ""
    cluster = make_cluster()
    cluster.start("one", pool="threads")
    assert gconc("set", "emails", "3").stderr != ""  # this app doesn't declare it
    cluster.send("nap", 1, 30.0)
    wait_until(lambda: cluster.oracle.count("s") == 1, what="its task runs")
    wait_until(lambda: gconc("set", "emails", "3").stderr == "", what="no doubt about a limit under which tasks run")


def test_changes_are_obeyed_by_real_workers_and_their_consequences_are_told(
    gconc: Gconc, make_cluster: Callable[..., Cluster]
):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2})
    cluster.start("one", pool="threads", concurrency=8)
    cluster.send("nap", 12, 60.0)

    def running(count: int) -> None:
        wait_until(lambda: cluster.oracle.count("s") == count, what=f"{count} run")

    running(2)
    assert "queue:emails: was 2 (configured), now 6" in gconc("set", "emails", "6").stdout
    running(6)
    first, second = gconc("set", "emails", "4").stdout.splitlines()
    assert first == "queue:emails: was 6, now 4"
    assert second.startswith("6 running tasks continue, ")
    assert second.endswith("; no tasks will start until 3 have finished.")
    assert "6 running tasks continue" in gconc("set", "emails", "0").stdout
    assert gconc("pause", "emails").stdout.splitlines()[1].startswith("Paused: 6 running tasks continue, ")
    assert gconc("set", "emails", "7").exit_code == 0
    (limit,) = gconc("status", "emails", "--json").json["limits"]
    assert (limit["max"], limit["paused"], limit["running"]) == (7, True, 6)
    assert cluster.oracle.count("s") == 6
    assert gconc("resume", "emails").exit_code == 0
    running(7)


@pytest.mark.redis
def test_a_change_while_redis_is_away_ends_with_69_and_one_line():
    with redis_server() as server:
        app = Celery("shell", broker=f"redis://:secret@127.0.0.1:{server.port}/0", set_as_current=False)
        url = f"redis://:**@127.0.0.1:{server.port}/0"
    for arguments in (("set", "celery", "3"), ("pause", "celery"), ("resume", "celery"), ("reset", "celery")):
        done = said(app, *arguments)
        assert (done.exit_code, done.stdout) == (69, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: coordination Redis unavailable: ")
        assert "it is not known whether the change was applied" in line
        assert url in line
    app.close()


def test_a_reason_of_any_length_and_with_any_characters_is_taken(gconc: Gconc, operations: Operations):
    done = gconc("set", "celery", "3", "--reason", "\x1b[2J" + "x" * 100_000)
    assert done.exit_code == 0
    reason = operations.status("celery")["queue:celery"].reason
    assert reason is not None
    assert reason.startswith("\x1b[2Jx")
    assert "\x1b" not in gconc("status").stdout


def _nothing() -> None:
    """A task that is never run here."""


@pytest.mark.parametrize(
    ("change", "allowed"), [(("pause", "emails"), 0), (("set", "emails", "1"), 1), (("set", "emails", "unlimited"), 3)]
)
def test_a_change_that_waits_returns_when_no_more_are_running_than_may(
    make_cluster: Callable[..., Cluster], change: tuple[str, ...], allowed: int
):
    cluster = make_cluster(global_concurrency_limits={"emails": 3}, broker_transport_options=SHORT_POLLS)
    cluster.start("w1", queues="emails")
    cluster.send("held", 2)
    cluster.send("nap", 1, 60.0, first=2)
    wait_until(lambda: cluster.oracle.count("s") == 3, what="three are running")
    with ThreadPoolExecutor() as threads:
        changing = threads.submit(cluster.celery, "gconc", *change, "--wait")
        if allowed < 3:
            status = partial(Operations(cluster.app()).status, "emails")
            wait_until(lambda: status()["queue:emails"].state in ("paused", "draining"), what="it is changed")
            assert not wait({changing}, timeout=1).done, "three are running still"
            cluster.oracle.let_go()
            wait_until(lambda: status()["queue:emails"].running == 1, what="two have ended")
        if allowed == 0:
            assert not wait({changing}, timeout=1).done, "one is running still"
            assert cluster.celery("gconc", "resume", "emails").returncode == 0
        done = changing.result()
    assert done.returncode == 0, done.stderr
    assert cluster.oracle.count("e") == (2 if allowed < 3 else 0)
    assert done.stderr.splitlines()[:1] == ([f"Waiting: 3 running, {allowed} allowed."] if allowed < 3 else [])
