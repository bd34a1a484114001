"""``celery gconc doctor`` and ``repair``: what is wrong is named, and what is right is left alone."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping

import psutil
import pytest
import redis

from celery_gconc.brokers import backlog
from celery_gconc.diagnosis import look
from celery_gconc.diagnosis.doctor import examine
from celery_gconc.diagnosis.finding import Finding
from celery_gconc.protocol.configurations import digest_of
from tests.cli.case import LONG, QUICK, Case, MakeCluster, case_of, nothing
from tests.cli.conftest import said
from tests.failures.worker_kit import stopped
from tests.kit.keys import key
from tests.kit.servers import redis_server, wait_until
from tests.kit.state import US

LIMITS = {"queue:emails": 2}

#: Heartbeat settings (ms) of sessions that tests add.
BEATS = {"interval": 500, "timeout": 3000}


def examined(case: Case) -> tuple[Finding, ...]:
    return examine(case.operations, case.patience)


def found_in(case: Case, severity: str, text: str) -> Finding:
    """The one finding with this text, and that there is no other problem."""
    findings = examined(case)
    problems = [finding for finding in findings if finding.is_problem or finding.severity == severity]
    assert [finding.severity for finding in problems] == [severity], findings
    assert text in problems[0].what, problems
    assert problems[0].todo
    return problems[0]


def add_session(case: Case, name: str, config: Mapping[str, int] | None = None, **info: object) -> None:
    """A session that a worker of another kind could have opened."""
    config = config or {}
    with redis.Redis.from_url(case.cluster.redis) as client:
        for limit, maximum in config.items():
            value = f"{limit}{US}{maximum:010}"
            client.zadd(
                key("configured"), {f"{value}{US}{digest_of(config)}": 0, f"{US}{digest_of(config)}{US}{value}": 0}
            )
        client.zadd(key("uses"), {f"{digest_of(config)}{US}{name}": 0})
        known = {"node": name, "pid": 1, "pool": "prefork", "app": "cluster", "broker": case.cluster.broker}
        client.zadd(key("sessions"), {name: 1e13})
        client.zadd(key("heartbeats"), {f"{kind}{US}{ms:010}{US}{name}": 0 for kind, ms in BEATS.items()})
        client.hset(key("session"), f"{name}:info", json.dumps({**known, "since": time.time() * 1000, **info}))
        client.hset(key("session"), f"{name}:config", digest_of(config))
        client.hset(key("session"), mapping={f"{name}:{kind}": ms for kind, ms in BEATS.items()})


def test_a_healthy_cluster_has_no_findings(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits=LIMITS, **QUICK)
    with case_of(cluster) as case:
        cluster.start("w1", "w2", concurrency=2)
        cluster.send("nap", 14, 0.3)
        wait_until(lambda: case.operations.waiting("emails"), what="tasks wait")
        assert examined(case) == ()
        cluster.done(14)
        assert examined(case) == ()


def test_workers_that_count_under_no_limit_are_named(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits=LIMITS, **QUICK)
    with case_of(cluster) as case:
        cluster.module = "tests.cli.plain"
        cluster.start("plain", concurrency=1)
        finding = found_in(case, "error", "plain@test runs tasks from celery and emails without celery-gconc")
        assert "GlobalConcurrency(app)" in finding.todo


def test_sessions_that_differ_are_named(make_cluster: MakeCluster):
    with case_of(make_cluster(global_concurrency_limits=LIMITS, **QUICK)) as case:
        add_session(case, "old@test", version="0.0.9")
        add_session(case, "new@test", version="0.1.0", app="shop", broker="redis://other/0")
        texts = [finding.what for finding in examined(case)]
        assert any("different versions of celery-gconc: 0.0.9 on old@test; 0.1.0 on new@test" in text for text in texts)
        assert any("new@test belongs to app shop with broker redis://other/0" in text for text in texts)


def test_clocks_that_differ_are_named(make_cluster: MakeCluster):
    with case_of(make_cluster(global_concurrency_limits=LIMITS, **QUICK)) as case:
        now = time.time() * 1000
        add_session(case, "late@test", since=now, clock=now - 7000)
        texts = [finding.what for finding in examined(case)]
        assert "the clock of late@test is 7.0 s behind Redis'" in texts


def test_a_clock_that_was_set_right_since_its_session_opened_is_no_finding(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits=LIMITS, **QUICK)
    with case_of(cluster) as case, redis.Redis.from_url(cluster.redis) as client:
        cluster.start("w1", concurrency=1)
        (session,) = case.operations.status().sessions
        field = f"{session.session}:info"
        told = json.loads(client.hget(key("session"), field))
        client.hset(key("session"), field, json.dumps({**told, "clock": told["since"] - 7000}))
        assert case.operations.status().sessions[0].skew == pytest.approx(-7)
        assert examined(case) == ()


def test_limits_that_name_nothing_are_named_with_what_may_be_meant(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        for limit in ("queue:emials", "task:tests.cluster.app.too", "pool:dbs", "pool:db", "queue:mail.out", "app"):
            case.operations.set(limit, 3)
        assert {finding.what for finding in examined(case) if finding.is_problem} == {
            (
                "queue:emials covers no tasks: "
                "neither this app nor any worker knows a queue named emials (did you mean emails?)"
            ),
            (
                "task:tests.cluster.app.too covers no tasks: "
                "this app has no task tests.cluster.app.too (did you mean tests.cluster.app.two?)"
            ),
            "pool:dbs covers no tasks: no task of this app joins the pool dbs (did you mean db?)",
        }


def test_a_queue_that_only_a_route_or_a_task_names_is_known(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        case.app.conf.task_routes = {"proj.routed": {"queue": "routed"}}
        case.app.task(name="proj.own", queue="own", shared=False)(nothing)
        for queue in ("routed", "own"):
            case.operations.set(queue, 3)
        assert not [finding for finding in examined(case) if finding.is_problem]


def test_names_of_queues_are_judged_only_where_every_live_worker_has_answered(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        case.operations.set("emials", 3)
        case.operations.set("pool:dbs", 3)
        assert len([finding for finding in examined(case) if finding.is_problem]) == 2
        add_session(case, "silent@test", config={"task:tests.cluster.app.two": 2})
        found_in(case, "warning", "pool:dbs covers no tasks")


def test_where_tasks_cannot_be_imported_no_name_is_judged(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        case.app.conf.imports = ("no.such.module",)
        for limit in ("queue:emials", "task:proj.own", "pool:dbs"):
            case.operations.set(limit, 3)
        found_in(case, "warning", "some tasks of this app can't be imported here: ModuleNotFoundError")


def test_limits_that_start_nothing_are_named(make_cluster: MakeCluster):
    with case_of(make_cluster(global_concurrency_limits=LIMITS, **QUICK)) as case:
        case.operations.set("emails", 0, by="ann")
        found_in(case, "warning", "queue:emails has a max of 0, set by ann: no tasks start under it")
        case.operations.reset("emails")
        case.operations.pause("emails", by="ann")
        assert not [finding for finding in examined(case) if finding.is_problem]
        with redis.Redis.from_url(case.cluster.redis) as client:  # as if it were two days ago
            told = json.loads(client.hget(key("overrides"), "queue:emails"))
            told["pause"]["at"] -= 2 * 86400 * 1000
            client.hset(key("overrides"), "queue:emails", json.dumps(told))
        found_in(case, "warning", "queue:emails has been paused by ann for 2 d")


def test_values_that_nobody_gave_a_reason_for_are_remarked_after_a_week(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        for limit, reason in (("emails", None), ("celery", "load test")):
            case.operations.set(limit, 5, by="ann", reason=reason)
            with redis.Redis.from_url(case.cluster.redis) as client:
                told = json.loads(client.hget(key("overrides"), f"queue:{limit}"))
                told["set"]["at"] -= 8 * 86400 * 1000
                client.hset(key("overrides"), f"queue:{limit}", json.dumps(told))
        texts = [finding.what for finding in examined(case) if finding.severity == "info"]
        assert "queue:emails was set to 5 by ann 8 d ago, without a reason" in texts
        assert not [text for text in texts if "queue:celery" in text]


@pytest.mark.parametrize(
    ("conf", "text"),
    [
        (
            {"global_concurrency_heartbeat_interval": 1.0, "global_concurrency_heartbeat_timeout": 2.5},
            "two late heartbeats",
        ),
        (
            {"broker_transport_options": {"visibility_timeout": 5}},
            "visibility_timeout (5 s) is shorter than the lease (30 s)",
        ),
    ],
)
def test_time_outs_in_bad_relation_are_named(make_cluster: MakeCluster, conf: dict[str, object], text: str):
    with case_of(make_cluster(**conf)) as case:
        found_in(case, "warning", text)


def test_a_consumer_timeout_that_is_too_short_is_named(make_cluster: MakeCluster, rabbitmq_url: str):
    with case_of(make_cluster(rabbitmq_url, global_concurrency_consumer_timeout=20)) as case:
        found_in(case, "warning", "global_concurrency_consumer_timeout (20 s) is less than twice the lease (30 s)")


def test_a_redis_that_may_evict_is_named(make_cluster: MakeCluster):
    with redis_server(None, "--maxmemory-policy", "allkeys-lru") as server:
        with case_of(make_cluster(global_concurrency_redis_url=server.url, **QUICK)) as case:
            found_in(case, "error", "Redis may evict celery-gconc's keys: its maxmemory-policy is allkeys-lru")


def test_tasks_that_pass_no_gate_are_named(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        case.app.task(name="batch", Strategy="celery.worker.strategy:proto1_to_proto2", shared=False)(nothing)
        found_in(case, "warning", "limits don't apply to batch: its custom Strategy")


def test_a_configuration_that_no_live_worker_has_is_named(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits=LIMITS, **QUICK)
    with case_of(cluster) as case:
        cluster.start("w1", concurrency=2)
        case.app.conf.global_concurrency_limits = {"queue:emails": 7}
        found_in(case, "warning", "this app configures queue:emails = 7, but no live worker does")


def test_a_broker_that_is_away_is_named(make_cluster: MakeCluster):
    with case_of(make_cluster("amqp://guest:secret@127.0.0.1:1//", **QUICK)) as case:
        case.operations.set("emials", 3)  # (whether a worker knows it can't be said)
        found_in(case, "error", "broker unavailable: connection refused (amqp://guest:**@127.0.0.1:1//)")


def test_a_broker_that_says_nothing_is_named(
    make_cluster: MakeCluster, redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(backlog, "SILENCE_SECONDS", 0.5)
    with redis_server() as silent:
        with case_of(make_cluster(silent.url, global_concurrency_redis_url=redis_url, **QUICK)) as case:
            silent.process.send_signal(signal.SIGSTOP)
            case.operations.set("emials", 3)
            found_in(case, "error", "broker unavailable: ")


def test_workers_that_are_configured_differently_are_named(make_cluster: MakeCluster):
    with case_of(make_cluster(global_concurrency_limits=LIMITS, **QUICK)) as case:
        add_session(case, "a@test", config={"queue:emails": 2, "task:tests.cluster.app.two": 2})
        add_session(case, "b@test", config={"queue:emails": 5})
        case.operations.pause("emails")  # so that Redis knows the limit, which these sessions have not told themselves
        text = "queue:emails: configured differently: 2 on a@test; 5 on b@test; "
        assert "gconc set" in found_in(case, "warning", text + "the smallest applies").todo
        case.operations.set("emails", 9)
        assert (
            found_in(case, "warning", text + "the value set at run time applies").todo
            == "finish rolling out the deploy"
        )


def test_records_without_a_session_are_found_and_repaired_and_waiters_go_on(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, **QUICK)
    with case_of(cluster) as case, redis.Redis.from_url(cluster.redis) as client:
        cluster.start("w1", concurrency=2)
        cluster.send("nap", 1)
        cluster.done(1)
        wait_until(lambda: cluster.permits() == 0, what="its permit is free")
        _hold_for_nobody(client, 1)
        cluster.send("nap", 1, 0.1)
        wait_until(lambda: case.operations.waiting("emails"), what="it waits for what nobody holds")
        assert any(finding.severity == "error" and "repair" in finding.todo for finding in examined(case))

        done = cluster.celery("gconc", "repair")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("repaired: ")
        cluster.done(2)
        assert examined(case) == ()


def test_a_task_that_waits_for_nothing_is_named(make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(look, "MAX_PATIENCE", 0.3)
    cluster = make_cluster(
        global_concurrency_limits={"queue:emails": 1},
        global_concurrency_heartbeat_interval=30.0,
        global_concurrency_heartbeat_timeout=90.0,
    )
    with case_of(cluster) as case, redis.Redis.from_url(cluster.redis) as client:
        cluster.start("w1", concurrency=2)
        _hold_for_nobody(client, 1)
        task = case.send("nap", 0.1)
        case.waits("emails")
        _hold_for_nobody(client, -1)  # as no script would: nobody is granted
        found_in(
            case,
            "error",
            f"task {task} is waiting for queue:emails, although that has room and its worker has a free slot",
        )


def test_repair_leaves_a_healthy_cluster_as_it_is_and_says_nothing(make_cluster: MakeCluster):
    cluster = make_cluster(
        global_concurrency_limits={"queue:emails": 1},
        global_concurrency_heartbeat_interval=30.0,
        global_concurrency_heartbeat_timeout=90.0,
    )
    with case_of(cluster) as case, redis.Redis.from_url(cluster.redis) as client:
        (worker,) = cluster.start("w1", concurrency=2)
        cluster.send("nap", 8, LONG)
        wait_until(
            lambda: cluster.oracle.count("s") and case.operations.waiting("emails"), what="one runs, others wait"
        )

        def dump() -> dict[str, object]:
            names = (
                *("units", "held", "holders", "wants", "roll", "waiters", "reserved"),
                *("max", "configured", "overrides", "session"),
            )
            return {name: client.dump(f"{{gconc}}:v2:{name}") for name in names}

        with stopped(cluster, worker):  # what it says otherwise comes when it comes
            wait_until(lambda: psutil.Process(worker.process.pid).status() == "stopped", what="the worker stands still")
            client.ping()  # what it said last has been heard
            before = dump()
            done = cluster.celery("gconc", "repair")
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            assert dump() == before
            assert json.loads(cluster.celery("gconc", "repair", "--json").stdout) == {"repaired": []}


def test_at_a_shell_findings_are_shown_and_the_exit_code_says_so(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits=LIMITS, **QUICK)
    with case_of(cluster) as case:
        cluster.start("w1", concurrency=1)
        well = cluster.celery("gconc", "doctor")
        assert (well.returncode, well.stdout) == (0, "no findings\n"), well
        case.operations.set("emials", 1)
        ill = said(case.app, "doctor", "--timeout", str(case.patience))
        assert ill.exit_code == 1
        assert ill.stdout.startswith("warning: queue:emials covers no tasks")
        told = said(case.app, "doctor", "--timeout", str(case.patience), "--json").json
        assert [finding["severity"] for finding in told["findings"]] == ["warning"]


@pytest.mark.parametrize("command", [("doctor",), ("explain", "some-id")])
def test_a_time_out_that_is_no_number_is_refused(make_cluster: MakeCluster, command: tuple[str, ...]):
    done = make_cluster(**QUICK).celery("gconc", *command, "--timeout", "nan")
    assert done.returncode == 2
    assert "Invalid value for '--timeout': nan is not a number." in done.stderr


def test_without_redis_doctor_and_repair_say_so_in_one_line(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_redis_url="redis://127.0.0.1:1/0")
    for command in ("doctor", "repair"):
        done = cluster.celery("gconc", command)
        assert done.returncode == 69
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""


def _hold_for_nobody(client: redis.Redis, count: int) -> None:
    """Have one unit more held than sessions have, or one less."""
    if client.hincrby(key("held"), "queue:emails", count) == 0:
        client.hdel(key("held"), "queue:emails")
