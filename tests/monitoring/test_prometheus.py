"""A real Prometheus beside real workers: what it is told is true, the dashboard has data, and every alert fires."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from celery_gconc import Operations
from celery_gconc.metrics.prometheus import METRICS
from tests.kit.servers import ROOT, RedisServer, free_port, wait_until
from tests.kit.workers import Cluster
from tests.monitoring.kit import EXAMPLE, Prometheus, answer, exporter, promtool, read

pytestmark = pytest.mark.takes_long(5)

Watched = Callable[..., tuple[Cluster, Operations, subprocess.Popen[bytes]]]
Started = list[Prometheus]

DASHBOARD = json.loads((EXAMPLE / "dashboard.json").read_text())

#: What Grafana puts in place of its variables: all jobs, all limits, and a range of some scrapes.
VARIABLES = {"$job": ".*", "$limit": ".*", "$__rate_interval": "1m"}

#: A limit that a task of the cluster's app brings along.
TWO = "task:tests.cluster.app.two"

ALERTS = re.findall(r"alert: (\w+)", (EXAMPLE / "alerts.yml").read_text())


def ours(metric: str) -> str:
    """A metric of the limits that a test is about."""
    return f'{metric}{{limit!="{TWO}"}}'


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every query of the dashboard, as Grafana sends it, with the title of its panel."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            assert "$" not in text, text
            yield panel["title"], text


def test_what_it_is_told_is_what_happens_and_every_panel_has_data(make_watched: Watched, prometheuses: Started) -> None:
    prom = prometheuses[0]
    cluster, operations, _ = make_watched(prom, global_concurrency_limits={"queue:emails": 3, "app": 50})
    cluster.start("one", "two")
    wait_until(lambda: prom.values("celery_gconc_sessions") == {"": 2.0}, what="both workers are seen")
    cluster.send("nap", 30, 0.1)
    cluster.done(30)
    cluster.send("nap", 5, 600.0, first=100)

    # The oracle's figures, which celery-gconc has no part in, are Prometheus'.
    running = {"queue:emails": 3.0, "app": 3.0}
    wait_until(
        lambda: prom.values(ours("celery_gconc_permits")) == running,
        what=f"three run: {prom.values('celery_gconc_permits')}",
    )
    wait_until(lambda: cluster.oracle.count("s") - cluster.oracle.count("e") == 3, what="three run, says the oracle")
    wait_until(lambda: prom.values("celery_gconc_waiters").get("queue:emails") == 2.0, what="two wait")
    wait_until(
        lambda: prom.values("celery_gconc_grants_total") == {"queue:emails": 33.0, "app": 33.0}, what="33 have started"
    )
    ends = {name: prom.values(f"celery_gconc_hold_seconds_{name}") for name in ("count", "sum")}
    assert ends["count"] == {"queue:emails": 30.0, "app": 30.0}
    # A permit is held from before its task starts until after it has ended, and three at a time.
    runs = [event for event in cluster.oracle.events() if event.number < 100]
    ran = sum(event.time if event.kind == "e" else -event.time for event in runs)
    span = max(event.time for event in runs) - min(event.time for event in runs)
    assert ran * 0.95 <= ends["sum"]["queue:emails"] <= 3 * (span + 0.5)
    buckets = prom.query('celery_gconc_hold_seconds_bucket{limit="queue:emails"}')
    counts = sorted((float(one["metric"]["le"]), float(one["value"][1])) for one in buckets)
    assert counts[-1] == (float("inf"), 30.0)
    assert [count for _, count in counts] == sorted(count for _, count in counts)
    assert dict(counts)[0.05] == 0.0, "none of them took less than 0.1 s"
    assert prom.values(ours("celery_gconc_limit_max")) == {"queue:emails": 3.0, "app": 50.0}

    operations.set("emails", None)
    wait_until(lambda: prom.values(ours("celery_gconc_limit_max")) == {"app": 50.0}, what="unlimited has no max")
    assert prom.values("celery_gconc_limit_overridden")["queue:emails"] == 1.0
    operations.reset("emails")
    wait_until(lambda: len(prom.values(ours("celery_gconc_limit_max"))) == 2, what="it has its max again")

    # Grafana's questions: each query, and each variable.
    for title, text in queries(DASHBOARD):
        wait_until(lambda text=text: prom.query(text), 20, f"data for {title}: {text}")
    fullness = next(text for title, text in queries(DASHBOARD) if title == "Fullness")
    assert prom.values(fullness)["queue:emails"] > 1.0, "five of three run since it was unlimited"
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            found = prom.names(label, series.replace("$job", ".*"))
            assert found == ({"celery-gconc"} if label == "job" else {"queue:emails", "app", TWO})
    page = (ROOT / "docs/how-to/monitor.md").read_text()
    asked = re.findall(r"^\| [^|]+\? \| `([^`]+)` \|$", page, re.MULTILINE)
    assert len(asked) == 4
    for text in asked:
        assert prom.query(text), text


def test_two_that_are_scraped_tell_the_same_once(make_cluster: Callable[..., Cluster], prometheuses: Started) -> None:
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 3})
    prom = prometheuses[1]
    first, second = prom.ports
    with exporter(cluster, first), exporter(cluster, second):
        wait_until(lambda: len(prom.query("celery_gconc_up == 1")) == 2, what="both are scraped")
        wait_until(
            lambda: prom.values(f"max by (limit) ({ours('celery_gconc_limit_max')})") == {"queue:emails": 3.0}, what="3"
        )
        for title, text in queries(DASHBOARD):
            if title in ("Redis", "Workers", "Waiting tasks", "Full limits"):
                (one,) = prom.query(text)
                assert float(one["value"][1]) == (1.0 if title == "Redis" else 0.0)


def test_what_people_do_fires_its_alerts(make_watched: Watched, prometheuses: Started) -> None:
    prom = prometheuses[2]
    cluster, operations, _ = make_watched(prom, global_concurrency_limits={"queue:emails": 3})
    cluster.start("one")
    fired: set[str] = set()

    def fires(alert: str, limit: str = "queue:emails") -> None:
        wait_until(lambda: (alert, limit) in prom.alerts(), 30, lambda: f"{alert} fires; {prom.alerts()} do")
        fired.add(alert)

    def is_quiet() -> None:
        wait_until(lambda: not prom.alerts(), 30, lambda: f"no alert fires; {prom.alerts()} do")

    wait_until(lambda: prom.values("celery_gconc_sessions") == {"": 1.0}, what="the worker is seen")
    is_quiet()
    operations.pause("emails")
    fires("GconcPausedForLong")
    cluster.send("nap", 6, 600.0)
    wait_until(lambda: prom.values("celery_gconc_longest_wait_seconds").get("queue:emails", 0) > 2, what="they wait")
    assert {name for name, _ in prom.alerts()} == {"GconcPausedForLong"}, "a paused limit lets tasks wait"
    operations.resume("emails")
    fires("GconcLongWait")
    fires("GconcNothingStarts")
    operations.set("emails", 1)
    fires("GconcOverriddenForLong")
    fires("GconcAboveMax")
    operations.set("emails", 4)
    wait_until(lambda: ("GconcAboveMax", "queue:emails") not in prom.alerts(), 30, "it runs no more than it may")
    assert fired <= set(ALERTS)


def test_what_breaks_fires_its_alerts(make_watched: Watched, prometheuses: Started, coordination: RedisServer) -> None:
    prom = prometheuses[3]
    cluster, operations, exporting = make_watched(
        prom, global_concurrency_limits={"app": 2}, global_concurrency_on_redis_error="run"
    )
    one, two = cluster.spawn("one", queues="emails"), cluster.spawn("two", queues="other")
    cluster.ready(one, two)

    def fires(alert: str) -> None:
        wait_until(lambda: (alert, "") in prom.alerts(), 30, lambda: f"{alert} fires; {prom.alerts()} do")

    cluster.send("nap", 1, 600.0)
    cluster.send("nap", 1, 600.0, queue="other")
    wait_until(lambda: cluster.oracle.count("s") == 2, what="each runs one")
    wait_until(lambda: prom.values("celery_gconc_sessions") == {"": 2.0}, what="both workers are seen")
    wait_until(lambda: not prom.alerts(), what="no alert fires")

    one.process.send_signal(signal.SIGSTOP)
    fires("GconcPermitsReclaimed")
    one.process.send_signal(signal.SIGCONT)
    fires("GconcLeaseLost")

    # Redis stands still, and tasks run all the same.
    coordination.process.send_signal(signal.SIGSTOP)
    fires("GconcRedisDown")
    for worker in (one, two):
        worker.kill()
    (three,) = cluster.start("three", concurrency=2)
    cluster.send("nap", 1, 0.1, first=100)
    cluster.done(1)
    tried: set[int] = set()

    def tries() -> int:
        """How often it has connected: once for each try, as nobody answers."""
        for connection in psutil.Process(three.process.pid).net_connections("tcp"):
            if connection.raddr and connection.raddr.port == coordination.port:
                tried.add(connection.laddr.port)
        return len(tried)

    wait_until(lambda: tries() > 6, 60, lambda: f"it has failed six times: it tried {len(tried)} times")
    coordination.process.send_signal(signal.SIGCONT)
    fires("GconcRunsWithoutPermit")
    fires("GconcWorkersLoseRedis")

    for worker in cluster.workers:
        worker.kill()
    # Somebody looks: where nothing but a slow scrape calls Redis, the lease clock goes on by an interval with each.
    wait_until(lambda: not operations.status().sessions, what="their leases have ended")
    fires("GconcNoWorker")
    exporting.kill()
    fires("GconcMetricsMissing")


def test_these_tests_have_every_alert_fire() -> None:
    text = (ROOT / "tests/monitoring/test_prometheus.py").read_text()
    assert [alert for alert in ALERTS if f'fires("{alert}")' not in text] == []


def test_promtool_finds_nothing_wrong_with_what_is_exported(
    make_cluster: Callable[..., Cluster], coordination: RedisServer
) -> None:
    cluster = make_cluster(global_concurrency_redis_url=coordination.url, global_concurrency_limits={"queue:emails": 3})
    with exporter(cluster, port := free_port()):
        url = f"http://127.0.0.1:{port}/metrics"
        text = wait_until(lambda: answer(url), what="the exporter answers")
        checked = promtool("check", "metrics", stdin=text)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
        told = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
        assert told == {name: metric.type for name, metric in METRICS.items()}
        helps = dict(re.findall(r"^# HELP (\w+) (.+)$", text, re.MULTILINE))
        assert helps == {name: metric.help for name, metric in METRICS.items()}

        coordination.process.send_signal(signal.SIGKILL)
        coordination.process.wait(10)
        lines = [line for line in read(url).splitlines() if not line.startswith("#")]
        assert lines == ["celery_gconc_up 0.0"]


# -- The files of the example --------------------------------------------------------------------------------


def test_the_rules_and_the_configuration_are_sound() -> None:
    for arguments in (("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml")):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stderr


def test_promtool_shows_each_alert_fire_and_sees_when_one_does_not(tmp_path: Any) -> None:
    rules = (EXAMPLE / "alerts.yml").read_text()
    tests = [shutil.copy(path, tmp_path) for path in EXAMPLE.glob("alerts_test*.yml")]

    def run(changed: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "alerts.yml").write_text(changed)
        return promtool("test", "rules", *map(str, tests))

    done = run(rules)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(re.sub(r"- alert: (\w+)\n", r"- alert: \1Renamed\n", rules))
    assert done.returncode == 1
    assert set(re.findall(r"alertname: (\w+),", done.stdout + done.stderr)) == set(ALERTS)


def test_every_alert_says_what_to_do_and_has_a_line_in_the_docs() -> None:
    rules = (EXAMPLE / "alerts.yml").read_text().split("- alert: ")[1:]
    assert len(rules) == len(ALERTS)
    page = (ROOT / "docs" / "how-to" / "monitor.md").read_text()
    for rule in rules:
        name = rule.split()[0]
        assert re.search(r"summary: .+\n\s+action: .+", rule), name
        severity = re.search(r"severity: (\w+)", rule)
        assert severity is not None
        assert re.search(rf"^\| `{name}` \| .+ \| {severity[1]} \|$", page, re.MULTILINE), name


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["title"] and panel["description"] for panel in DASHBOARD["panels"])
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {"${datasource}"}
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another"
        taken |= cells


def test_the_rules_and_the_dashboard_name_only_metrics_that_there_are() -> None:
    known = {f"{name}{end}" for name in METRICS for end in ("", "_bucket", "_sum", "_count")}
    for path in EXAMPLE.iterdir():
        if path.is_file():
            assert set(re.findall(r"\bcelery_gconc_\w+", path.read_text())) - known == set(), path.name
