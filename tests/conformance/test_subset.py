"""Celery's own tests as a judge: a few of each kind here, all of them by ``make conformance``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.kit.servers import ROOT


@pytest.mark.process
@pytest.mark.takes_long
@pytest.mark.timeout(900)  # the first time, it downloads Celery's source distribution and what its tests need
def test_no_test_of_celery_that_passes_without_the_extension_fails_with_it():
    found = subprocess.run(
        [sys.executable, "-m", "tools.conformance", "--subset"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert " passed" in found.stdout
