"""Tests of one file, or of one column of the life-cycle matrix, run in one process; those that take long come first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.order import group_of
from tests.kit.servers import ROOT
from tests.lifecycle.matrix import COLUMNS

CONFTEST = """
from tests.kit.order import Order
def pytest_configure(config):
    config.pluginmanager.register(Order())
"""

TESTS = """
import os, pathlib, pytest, time
@pytest.mark.parametrize("number", range(6))
def test_it(number):
    with open("order", "a") as told:
        print(__name__, os.getpid(), file=told)
    time.sleep(0.05)
"""


def test_a_group_is_a_file_or_a_column():
    assert group_of("tests/store/test_who.py::test_it[prefork-redis]") == "tests/store/test_who.py"
    for column in COLUMNS:
        assert group_of(f"tests/lifecycle/test_retry.py::test_it[{column}]") == str(column)
        assert group_of(f"tests/lifecycle/test_retry.py::test_it[{column}-late]") == str(column)
    assert group_of("tests/lifecycle/test_retry.py::test_it") == "tests/lifecycle/test_retry.py"


@pytest.mark.process
def test_groups_are_handed_out_whole_and_what_takes_long_first(tmp_path: Path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = takes_long\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in ("a", "b", "c", "d"):
        mark = "pytestmark = pytest.mark.takes_long(9)" if name in "bd" else ""
        (tmp_path / f"test_{name}.py").write_text(TESTS.replace("@", f"{mark}\n@"))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "-p", "no:celery"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert "24 passed" in done.stdout, done.stdout + done.stderr
    ran = [line.split() for line in (tmp_path / "order").read_text().splitlines()]
    assert len({(module, pid) for module, pid in ran}) == 4, "no file is in two processes"
    assert {module for module, _ in ran[:2]} == {"test_d", "test_b"}
