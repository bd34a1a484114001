"""The benchmark of the gate alone runs: in each of its scenarios, over a real Redis."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks.hotpath_driver as driver


@pytest.mark.parametrize("scenario", driver.SCENARIOS)
@pytest.mark.process
def test_the_gates_benchmark_measures_each_scenario(redis_url: str, scenario: str):
    command = [sys.executable, driver.__file__, redis_url, scenario, "1000"]
    done = subprocess.run(command, cwd=Path(driver.__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), float)
