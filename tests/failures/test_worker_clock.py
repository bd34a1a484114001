"""A worker's wall clock steps: nothing goes by it. What goes on while a machine sleeps is what counts."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import celery_gconc.clock
import celery_gconc.worker.ledger.trust
from tests.conftest import unavailable
from tests.failures.worker_kit import OWN_APP, TIMEOUT, heard, no_leak, received, sessions, stats
from tests.kit.tiers import starts

_CLOCKS = "import time; print(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))"


@pytest.fixture
@starts("process")
def shift(tmp_path, monkeypatch):
    """Steps the wall clock, and no other, of processes that the test starts: a function of the shift in seconds."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        unavailable("no C compiler on this machine")
    library, file = tmp_path / "wallclock.so", tmp_path / "shift"
    source = Path(__file__).with_name("wallclock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    file.write_bytes(bytes(8))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("WALLCLOCK", str(file))

    def step(seconds: int) -> None:
        with file.open("r+b") as opened:
            opened.write(seconds.to_bytes(8, sys.byteorder, signed=True))

    return step


def clocks() -> tuple[float, float]:
    """What a process of this environment takes for the time of day, and for the time since the machine's start."""
    command = [sys.executable, "-c", _CLOCKS]
    wall, boot = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(wall), float(boot)


@pytest.mark.skipif(sys.platform != "linux", reason="the clock is shifted with LD_PRELOAD")
def test_steps_of_the_wall_clock_change_nothing(pair, shift):
    # A broker's visibility_timeout goes by the wall clock in kombu: not what is looked at here.
    options = {"visibility_timeout": 86400}
    cluster, worker, other = pair(
        concurrency=2, app=OWN_APP, global_concurrency_limits={"pool:db": 1}, broker_transport_options=options
    )
    known = sessions(cluster)
    # By a clock that goes back, the next heartbeat would come an hour too late: the second task outlasts the lease.
    for first, seconds, long in ((0, 3600, 0.5), (100, -3600, TIMEOUT + 0.5)):
        cluster.send("pooled", 1, long, first=first)
        heard(cluster, "s", first)
        cluster.send("pooled", 4, 0.05, first=first + 1)
        cluster.send("pooled", 5, 0.05, queue="other", first=first + 5)
        received(worker, first // 20 + 5)
        received(other, first // 20 + 5)
        shift(seconds)
        wall, boot = clocks()
        assert abs(wall - time.time() - seconds) < 60, "the step is one"
        assert abs(boot - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60, "of the wall clock only"
        heard(cluster, "e", *range(first, first + 10))
    no_leak(cluster)
    assert cluster.oracle.peak() == 1
    assert worker.output().count("succeeded") == 10
    assert sorted(cluster.oracle.starts()) == [*range(10), *range(100, 110)], "each ran once"
    assert sessions(cluster) == known
    assert stats(cluster, worker)["lease_losses"] == 0


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux has a clock that counts suspended time")
def test_the_lease_is_measured_by_a_clock_that_goes_on_while_the_machine_sleeps():
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    moment = celery_gconc.worker.ledger.trust.now()
    assert before <= moment <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert celery_gconc.clock._NOW.args == (time.CLOCK_BOOTTIME,)
