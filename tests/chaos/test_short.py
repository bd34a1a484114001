"""A short run of chaos, and the oracle's eyes: it finds what is made wrong. Real servers, workers and faults."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.servers import ROOT
from tools.chaos import schedule


def chaos(folder: Path, options: str) -> tuple[int, dict, str]:
    """Run it; returns exit code, result and output."""
    out = folder / "result.json"
    command = [sys.executable, "-m", "tools.chaos", *options.split(), "--broker", "redis", "--out", str(out)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    text = ended.stdout + ended.stderr
    assert out.exists(), text
    return ended.returncode, json.loads(out.read_text()), text


@pytest.mark.takes_long(30)
@pytest.mark.process
def test_all_promises_hold_in_a_short_run(tmp_path: Path) -> None:
    # (By this seed workers are killed and stopped for longer and for less than a lease, and all data are lost.)
    code, result, text = chaos(tmp_path, "--seed 442 --minutes 0.17 --workers 4")
    assert code == 0, text
    assert result["violations"] == []
    assert len(result["faults"]) >= 5, "too quiet to show anything"
    assert result["done"] >= 50


@pytest.mark.process
def test_a_worker_without_the_extension_is_found(tmp_path: Path) -> None:
    code, result, text = chaos(tmp_path, "--seed 3 --minutes 0.3 --workers 2 --faults none --break worker")
    assert code == 1, text
    assert result["violations"][0]["what"] == "overshoot"
    assert "Replay:  python -m tools.chaos --seed 3 " in text


@pytest.mark.process
def test_a_holder_that_nobody_owns_is_found(tmp_path: Path) -> None:
    code, result, text = chaos(tmp_path, "--seed 3 --minutes 0.02 --workers 2 --faults none --break leak")
    assert code == 1, text
    assert "leak" in {violation["what"] for violation in result["violations"]}


@pytest.mark.parametrize("seed", range(20))
def test_the_same_seed_gives_the_same_schedule(seed: int) -> None:
    assert schedule.make(seed, 300) == schedule.make(seed, 300)
    assert schedule.make(seed, 300) != schedule.make(seed + 1, 300)


def test_every_fault_is_in_some_schedule() -> None:
    found = {step.what for seed in range(20) for step in schedule.make(seed, 600).steps}
    assert found >= set(schedule.FAULTS)


def test_a_stop_meant_to_be_short_is_never_as_long_as_the_lease() -> None:
    for seed in range(50):
        for step in schedule.make(seed, 600).steps:
            least, most = schedule.FAULTS.get(step.what, (0, 1e9))
            assert least <= step.seconds <= most, step
