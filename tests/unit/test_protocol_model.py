"""The protocol's model: the smallest search holds, and a guard that is taken out is found. `make model` runs them all."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.servers import ROOT

pytestmark = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("gcc") is None, reason="spin or gcc is missing: `make model` gets them"
)


@pytest.mark.parametrize(
    ("name", "result"),
    [("places-rules", "holds"), ("no-turns", "found:"), ("caches-late", "found:"), ("unreserves-silently", "found:")],
)
def test_a_search_comes_out_as_it_must(name: str, result: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / "model.py"), "--only", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{name}: " in done.stdout or f"| {name} |" in done.stdout
    assert result in done.stdout
