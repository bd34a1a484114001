"""What the page of failure modes says of each test here (``failures.toml``), and the times that the tests measured."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it there, too

#: The rows of the page, by test.
TABLE = Path(__file__).with_name("failures.toml")

#: Names the file to which each measured time is written, one JSON line each; unset, none is kept.
VARIABLE = "GCONC_FAILURE_TIMES"

#: The heartbeat settings of the tests, as Celery configuration. The times on the page were measured with these.
HEARTBEAT: dict[str, object] = {
    "global_concurrency_heartbeat_interval": 0.5,
    "global_concurrency_heartbeat_timeout": 2.5,
}

#: The fixtures of tests that show a failure: they break something under workers, or measure how long it lasts.
FIXTURES = frozenset(("apart", "took"))


@dataclass(frozen=True)
class Failure:
    """One row of the page."""

    area: str
    case: str
    #: What becomes of the limit, of tasks that run, and of tasks that wait.
    limit: str
    running: str
    waiting: str
    #: The bound that the test asserts, in words; empty where there is nothing to measure.
    takes: str = ""

    def __post_init__(self) -> None:
        for name, said in asdict(self).items():
            assert isinstance(said, str), f"{self.case}: {name} is text"
            assert said or name == "takes", f"{self.case}: {name} is missing"
            assert "|" not in said and "\n" not in said, f"{self.case}: {name} has to fit a cell of a table"


@dataclass(frozen=True)
class Table:
    """The rows of the page by test, in its order, and what the failures of each area have in common."""

    areas: Mapping[str, str]
    #: By ``file::function``, or ``file::function[parameters]`` where the parameters have rows of their own.
    rows: Mapping[str, Failure]

    @classmethod
    def read(cls, text: str) -> Table:
        """The table that a TOML text has; AssertionError where it would break the page."""
        found = tomllib.loads(text)
        areas = found.pop("areas")
        rows = {name: failure for test, cells in found.items() for name, failure in _rows(test, cells)}
        assert {failure.area for failure in rows.values()} == set(areas), "each area has rows, and each row an area"
        return cls(areas, rows)

    def row_of(self, item: Any) -> str | None:
        """The name of a test's row, if it has one."""
        return next((name for name in (name_of(item), name_of(item).partition("[")[0]) if name in self.rows), None)


def _rows(test: str, cells: Mapping[str, Any]) -> Iterator[tuple[str, Failure]]:
    """The rows of a test: one, or one for each of its parameters where a cell is a table of them."""
    tables = [cell for cell in cells.values() if isinstance(cell, dict)]
    assert all(table.keys() == tables[0].keys() for table in tables), f"{test}: its cells have the same parameters"
    if not tables:
        yield test, Failure(**cells)
    for parameter in tables[0] if tables else ():
        own = {name: cell[parameter] if isinstance(cell, dict) else cell for name, cell in cells.items()}
        yield f"{test}[{parameter}]", Failure(**own)


def name_of(item: Any) -> str:
    """The name of a test by which its times are kept: file, function and parameters (pytest-xdist changes node ids)."""
    return f"{item.path.name}::{item.name}"


def record(test: str, seconds: float) -> None:
    """Keep a measured time, where somebody wants them."""
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a") as file:  # several processes write here: one short line at a time
            file.write(json.dumps({"test": test, "seconds": round(float(seconds), 3)}) + "\n")


def recorded(path: Path) -> Mapping[str, list[float]]:
    """The times that were kept in a file, by test."""
    times: dict[str, list[float]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        said = json.loads(line)
        times.setdefault(said["test"], []).append(said["seconds"])
    return times
