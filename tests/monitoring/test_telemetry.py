"""What a worker tells OpenTelemetry's SDK, and that it needs none of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from celery_gconc.metrics.opentelemetry import INSTRUMENTS
from celery_gconc.protocol.counted import BUCKETS
from tests.kit.servers import ROOT, wait_until
from tests.kit.workers import Cluster

#: A trace of whoever sends the tasks, as W3C's header has it.
TRACE, SENDER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def points(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The newest data points: of each instrument and limit."""
    lines = [line for line in (folder / "metrics").read_text().splitlines() if line.endswith("}")]
    if not lines:
        return {}
    scopes = [scope for resource in json.loads(lines[-1])["resource_metrics"] for scope in resource["scope_metrics"]]
    return {
        metric["name"]: {point["attributes"].get("limit", ""): point for point in metric["data"]["data_points"]}
        for scope in scopes
        if scope["scope"]["name"] == "celery_gconc"
        for metric in scope["metrics"]
    }


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_tells_of_waits_holds_and_permits_and_a_wait_is_a_span_in_its_sender_s_trace(
    make_cluster: Callable[..., Cluster], pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_TELEMETRY", str(tmp_path))
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1, "app": 9})
    cluster.module = "tests.monitoring.telemetry_app"
    cluster.start("one", pool=pool)
    cluster.send("nap", 3, 0.3, headers={"traceparent": f"00-{TRACE}-{SENDER}-01"})

    def is_told() -> bool:
        found = points(tmp_path)
        held = found.get("celery.gconc.hold.duration", {}).get("queue:emails", {})
        return held.get("count") == 3 and found["celery.gconc.permits"]["queue:emails"]["value"] == 0

    wait_until(is_told, what="three have ended")
    found = points(tmp_path)
    for limit in ("queue:emails", "app"):
        assert found["celery.gconc.wait.duration"][limit]["count"] == 3
        assert found["celery.gconc.hold.duration"][limit]["sum"] == pytest.approx(0.9, abs=0.6)

    bounds = found["celery.gconc.wait.duration"]["app"]["explicit_bounds"]
    assert bounds == list(BUCKETS[:-1]), "seconds, where the SDK's own are made for milliseconds"

    spans = [json.loads(line) for line in (tmp_path / "spans").read_text().splitlines()]
    assert 2 <= len(spans) <= 3, "the first has hardly waited"
    for span in spans:
        assert span["name"] == "wait/tests.cluster.app.nap"
        assert (span["context"]["trace_id"], span["parent_id"]) == (f"0x{TRACE}", f"0x{SENDER}")
        assert span["attributes"]["celery.gconc.limits"] == ["app", "queue:emails"]
        assert re.fullmatch(r"[0-9a-f-]{36}", span["attributes"]["messaging.message.id"])
    lengths = sorted(_moment(span["end_time"]) - _moment(span["start_time"]) for span in spans)
    assert lengths[-1] == pytest.approx(found["celery.gconc.wait.duration"]["app"]["max"], abs=0.001)
    assert lengths[-1] > 0.5


def _moment(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


METERS = "from opentelemetry import metrics; from opentelemetry.sdk.metrics import MeterProvider\n"
TRACES = "from opentelemetry import trace; from opentelemetry.sdk.trace import TracerProvider\n"


@pytest.mark.parametrize(
    ("before", "connected"),
    [
        ("import sys; sys.modules['opentelemetry'] = None\n", False),
        ("", False),
        ("from opentelemetry import trace; trace.set_tracer_provider(trace.NoOpTracerProvider())\n", False),
        (f"{METERS}metrics.set_meter_provider(MeterProvider())\n", True),
        (f"{TRACES}trace.set_tracer_provider(TracerProvider())\n", True),
    ],
    ids=["not installed", "no provider", "one that records nothing", "a meter provider", "a tracer provider"],
)
def test_signals_are_connected_only_where_somebody_is_told(before: str, connected: bool) -> None:
    code = (
        f"{before}"
        "from celery_gconc import signals\n"
        "from celery_gconc.metrics import opentelemetry as telemetry\n"
        "telemetry.install()\n"
        f"assert any(getattr(signals, name).receivers for name in signals.__all__) is {connected}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_instrument_has_a_line_with_its_unit() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text()
    for name, (unit, what) in INSTRUMENTS.items():
        assert re.search(
            rf"^\| `{re.escape(name)}` \| .+ \| `{re.escape(unit)}` \| {re.escape(what)} \|$", page, re.MULTILINE
        ), name
