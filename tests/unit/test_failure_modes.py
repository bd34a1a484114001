"""The page of failure modes says what the tests of failures say; times may differ from run to run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import failure_modes
from tests.failure_modes import PAGE, ROOT, Line, page, without_times
from tests.failures.report import Failure, record, recorded

SAID = {"area": "Worker", "limit": "holds", "running": "go on", "waiting": "wait"}


def lines(*failures: Failure) -> dict[tuple[str, str], Line]:
    return {
        (failure.area, failure.case): Line(failure, {f"`test_{number}`": None}, [f"test_{number}"])
        for number, failure in enumerate(failures)
    }


def test_the_page_of_failure_modes_is_what_the_tests_say():
    result = subprocess.run(
        [sys.executable, "-m", "tests.failure_modes", "--print"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert without_times(result.stdout) == without_times(PAGE.read_text()), "run `python -m tests.failure_modes`"


def test_a_time_was_measured_for_each_failure_that_says_how_long_it_takes():
    result = subprocess.run(
        [sys.executable, "-c", "from tests.failure_modes import *; print(*unmeasured(collect(), known_times()))"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert result.stdout.split() == [], "run `python -m tests.failure_modes --run` with these"


def test_only_the_measured_times_are_left_out_of_the_comparison():
    said = lines(Failure(**SAID, case="It dies", takes="1 s"))
    once, again = page(said, {"test_0": [0.5]}), page(said, {"test_0": [0.25, 1.5]})
    assert "| 1 s | 0.50 | `test_0` |" in once
    assert "| 1 s | 0.25 to 1.5 | `test_0` |" in again
    assert without_times(once) == without_times(again)
    other = page(lines(Failure(**SAID, case="It dies", takes="2 s")), {"test_0": [0.5]})
    assert without_times(once) != without_times(other)


def test_each_area_has_a_table_of_its_own_and_a_failure_without_a_time_shows_none():
    text = page(lines(Failure(**SAID, case="It dies"), Failure(**{**SAID, "area": "Weather"}, case="It rains")), {})
    assert text.index("## Worker") < text.index("| It dies | holds | go on | wait | - | - | `test_0` |")
    assert text.index("## Weather") < text.index("| It rains | holds | go on | wait | - | - | `test_1` |")
    assert "## Broker" not in text


@pytest.mark.parametrize("wrong", [{"case": ""}, {"case": "a | b"}, {"case": "x", "takes": 2.0}], ids=repr)
def test_a_marker_that_would_break_the_table_is_refused(wrong):
    with pytest.raises(AssertionError):
        Failure(**{**SAID, **wrong})


def test_times_are_kept_by_test_where_a_file_is_named(tmp_path, monkeypatch):
    kept = tmp_path / "times"
    monkeypatch.delenv("GCONC_FAILURE_TIMES", raising=False)
    record("a", 1.0)
    assert not kept.exists()
    monkeypatch.setenv("GCONC_FAILURE_TIMES", str(kept))
    for test, seconds in (("a", 1.0), ("b", 0.12345), ("a", 2)):
        record(test, seconds)
    assert recorded(kept) == {"a": [1.0, 2.0], "b": [0.123]}
    assert failure_modes.unmeasured(lines(Failure(**SAID, case="x", takes="1 s")), recorded(kept)) == ["test_0"]
