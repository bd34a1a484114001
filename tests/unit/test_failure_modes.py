"""The page of failure modes says what the table of failures does; each row has its test, each such test its row."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.failure_modes import ROOT, lines_of, page, without_times, wrongs
from tests.failures.report import Failure, Table, record, recorded

SAID = {"area": "Worker", "limit": "holds", "running": "go on", "waiting": "wait"}

TABLE = """
[areas]
Worker = "A worker dies."
Weather = "It is bad."

["test_w.py::test_rain"]
area = "Weather"
case = "It rains"
limit = "holds"
running = "go on"
waiting = "wait"

["test_w.py::test_death"]
area = "Worker"
limit = "holds"
running = "die"
waiting = { one = "wait", other = "start" }
case = { one = "It dies", other = "It dies late" }
takes = "1 s"
"""


def item(name: str, *fixtures: str) -> SimpleNamespace:
    """A test as pytest collects it."""
    return SimpleNamespace(path=Path("test_w.py"), name=name, fixturenames=fixtures)


ITEMS = [
    item("test_rain[a]", "apart"),
    item("test_rain[b]", "apart"),
    item("test_death[one]", "took"),
    item("test_death[other]", "took"),
    item("test_store", "redis_url"),
]
TIMES = {"test_w.py::test_death[one]": [0.5], "test_w.py::test_death[other]": [0.25, 1.5]}


def written(times: dict[str, list[float]], text: str = TABLE) -> str:
    table = Table.read(text)
    return page(table, lines_of(table, ITEMS), times)


@pytest.mark.process
def test_the_page_of_failure_modes_its_table_and_the_tests_agree():
    result = subprocess.run(
        [sys.executable, "-m", "tests.failure_modes", "--check"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_each_area_has_a_table_of_its_own_and_a_row_that_differs_by_parameter_is_several():
    text = written(TIMES)
    places = [
        text.index(line)
        for line in (
            "## Worker",
            "| It dies | holds | die | wait | 1 s | 0.50 | `test_w.py::test_death` |",
            "| It dies late | holds | die | start | 1 s | 0.25 to 1.5 | `test_w.py::test_death` |",
            "## Weather",
            "| It rains | holds | go on | wait | - | - | `test_w.py::test_rain` |",
        )
    ]
    assert places == sorted(places)


def test_only_the_measured_times_are_left_out_of_the_comparison():
    assert written(TIMES) != written({})
    assert without_times(written(TIMES)) == without_times(written({}))
    assert without_times(written({}, TABLE.replace("1 s", "2 s"))) != without_times(written({}))


def test_rows_without_a_test_tests_without_a_row_and_times_that_nobody_knows_are_named():
    table = Table.read(TABLE)
    assert list(wrongs(table, ITEMS, TIMES)) == []
    without_rain = list(wrongs(table, ITEMS[2:], TIMES))
    assert [found.partition(":: ")[0] for found in without_rain] == [
        "test_w.py::test_rain: failures.toml has a row for it (It rains), and there is no such test"
    ]
    for one_more, said in (
        (item("test_snow", "apart"), "test_w.py::test_snow: it shows a failure and has no row"),
        (item("test_rain[c]", "took"), "test_w.py::test_rain[c]: it measures a time"),
        (item("test_death[one]"), "test_w.py::test_death[one]: it measures a time"),
    ):
        (found,) = wrongs(table, [*ITEMS, one_more], TIMES)
        assert found.startswith(said)
    (found,) = wrongs(table, ITEMS, {**TIMES, "test_w.py::test_death[one]": []})
    assert found.startswith("test_w.py::test_death[one]: no time is known")


@pytest.mark.parametrize("wrong", [{"case": ""}, {"case": "a | b"}, {"case": "x", "takes": 2.0}], ids=repr)
def test_a_row_that_would_break_the_page_is_refused(wrong):
    with pytest.raises(AssertionError):
        Failure(**{**SAID, **wrong})


def test_a_row_of_an_unknown_area_is_refused():
    with pytest.raises(AssertionError, match="area"):
        Table.read(TABLE.replace('area = "Weather"', 'area = "Wether"'))


def test_times_are_kept_by_test_where_a_file_is_named(tmp_path, monkeypatch):
    kept = tmp_path / "times"
    monkeypatch.delenv("GCONC_FAILURE_TIMES", raising=False)
    record("a", 1.0)
    assert not kept.exists()
    monkeypatch.setenv("GCONC_FAILURE_TIMES", str(kept))
    for test, seconds in (("a", 1.0), ("b", 0.12345), ("a", 2)):
        record(test, seconds)
    assert recorded(kept) == {"a": [1.0, 2.0], "b": [0.123]}
