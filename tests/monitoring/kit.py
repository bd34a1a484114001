"""A real exporter, and a real Prometheus that scrapes it and judges the rules of ``examples/monitoring``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit import warm
from tests.kit.processes import celery
from tests.kit.servers import ROOT, end, free_port
from tests.kit.workers import Cluster

EXAMPLE = ROOT / "examples" / "monitoring"

#: The times of alerts.yml, shortened so that nobody has to wait for them: the rules are the same.
SHORTER = {
    r"\[15m\]": "[10s]",
    r"offset 15m": "offset 10s",
    r"\bfor: \w+": "for: 0s",
    "> (600|86400|604800)": "> 1",
    r"errors_total(.*)> 5": r"errors_total\1> 0",
}


class NoPrometheus(Exception):
    """No prometheus or promtool on this machine."""


def promtool(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool in the folder of the example.

    Raises:
        NoPrometheus: there is none.
    """
    if (found := shutil.which("promtool")) is None:
        raise NoPrometheus("no promtool on the path")
    return subprocess.run(
        [found, *arguments], cwd=EXAMPLE, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


@contextmanager
def exporter(cluster: Cluster, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``celery gconc exporter``, which listens soon."""
    process = warm.popen(
        celery(cluster.module, "gconc", "exporter", "--port", str(port)),
        cwd=ROOT, env=cluster.env, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def read(url: str) -> str:
    """What an HTTP server on this machine answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as response:
        text: str = response.read().decode()
    return text


def answer(url: str) -> str:
    """The same; nothing where nobody listens."""
    try:
        return read(url)
    except OSError:
        return ""


@dataclass(frozen=True)
class Prometheus:
    """One that runs, and scrapes what listens at these ports."""

    url: str
    ports: tuple[int, ...]

    def _ask(self, path: str, **parameters: str) -> Any:
        return json.loads(read(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"))["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What it answers to a query: an element for each series, ``metric`` (its labels) and ``value``."""
        found = self._ask("query", query=expression)
        assert found["resultType"] in ("vector", "scalar"), found
        return list(found["result"])

    def values(self, expression: str) -> dict[str, float]:
        """The value of each limit."""
        return {one["metric"].get("limit", ""): float(one["value"][1]) for one in self.query(expression)}

    def names(self, label: str, series: str) -> set[str]:
        """What a label of these series may be: as the variables of Grafana ask."""
        return set(self._ask(f"label/{label}/values", **{"match[]": series}))

    def alerts(self) -> set[tuple[str, str]]:
        """Which alerts fire, for which limit (or none)."""
        found = self._ask("alerts")["alerts"]
        return {
            (one["labels"]["alertname"], one["labels"].get("limit", "")) for one in found if one["state"] == "firing"
        }


@contextmanager
def prometheus(*ports: int, interval: float = 0.5) -> Iterator[Prometheus]:
    """Run one that scrapes these ports every *interval* seconds, with the example's rules, whose times are shorter.

    It begins to scrape 5 s after its start, whatever it is told (2.42): one that is started before it is needed has
    them behind it.

    Raises:
        NoPrometheus: there is none.
    """
    if (binary := shutil.which("prometheus")) is None:
        raise NoPrometheus("no prometheus on the path")
    with tempfile.TemporaryDirectory(prefix="gconc-prometheus-") as made:
        folder, port = Path(made), free_port()
        rules = (EXAMPLE / "alerts.yml").read_text()
        for long, short in SHORTER.items():
            rules, count = re.subn(long, short, rules)
            assert count, long
        (folder / "alerts.yml").write_text(rules)
        every = f"{interval * 1000:.0f}ms"
        targets = json.dumps([f"127.0.0.1:{one}" for one in ports])
        (folder / "prometheus.yml").write_text(
            f"global: {{scrape_interval: {every}, scrape_timeout: {every}, evaluation_interval: 500ms}}\n"
            "rule_files: [alerts.yml]\n"
            f"scrape_configs: [{{job_name: celery-gconc, static_configs: [{{targets: {targets}}}]}}]\n"
        )
        process = subprocess.Popen(
            [binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield Prometheus(f"http://127.0.0.1:{port}", ports)
        finally:
            end(process)
