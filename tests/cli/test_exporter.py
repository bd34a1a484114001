"""``celery gconc exporter``: one line with its address, metrics for Prometheus, and a clean end."""

from __future__ import annotations

import signal
import socket
import subprocess
import urllib.request

import pytest

from tests.cli.case import QUICK, MakeCluster
from tests.kit import warm
from tests.kit.processes import celery
from tests.kit.servers import ROOT
from tests.kit.workers import Cluster


def an_exporter(cluster: Cluster, *arguments: str) -> subprocess.Popen[str]:
    return warm.popen(
        celery(cluster.module, "gconc", "exporter", *arguments),
        cwd=ROOT, env=cluster.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_metrics_are_served_until_a_signal(make_cluster: MakeCluster, how: signal.Signals):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 3}, **QUICK)
    process = an_exporter(cluster, "--port", "0")
    try:
        line = process.stdout.readline()  # type: ignore[union-attr]
        assert line.startswith("serving http://127.0.0.1:"), line + process.stderr.read()  # type: ignore[union-attr]
        with urllib.request.urlopen(line.split()[1], timeout=10) as answer:
            text = answer.read().decode()
        assert 'celery_gconc_limit_max{limit="queue:emails"} 3.0' in text
        assert "celery_gconc_up 1.0" in text
        process.send_signal(how)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_port_in_use_is_said_in_one_line(make_cluster: MakeCluster):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = make_cluster(**QUICK).celery("gconc", "exporter", "--port", port)
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1 port {port}: Address already in use" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_prometheus_client_it_names_the_extra(make_cluster: MakeCluster, tmp_path):
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('not here')\n")
    cluster = make_cluster(**QUICK)
    done = subprocess.run(
        celery(cluster.module, "gconc", "exporter"),
        cwd=ROOT, env={**cluster.env, "PYTHONPATH": f"{tmp_path}:{ROOT}"}, capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "celery-gconc[prometheus]" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
