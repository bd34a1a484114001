"""Writes docs/explanation/failure-modes.md from the tests of failures: what happens, and for how long.

    python -m tests.failure_modes                writes the page
    python -m tests.failure_modes --print        prints it
    python -m tests.failure_modes --check        says what is wrong with it, and with its table
    python -m tests.failure_modes --run [...]    runs the tests first, and keeps the times that they measured;
                                                 arguments that follow go to pytest, to run some of them only

What a row says stands in tests/failures/failures.toml. Times are kept in docs/explanation/failure-times.json.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.collection import collect_items
from tests.failures.report import FIXTURES, HEARTBEAT, TABLE, VARIABLE, Failure, Table, name_of, recorded

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "failures"
PAGE = ROOT / "docs" / "explanation" / "failure-modes.md"
TIMES = ROOT / "docs" / "explanation" / "failure-times.json"

HEADS = ("failure", "limit", "running tasks", "waiting tasks", "how long, at most", "measured", "test")

HEAD = """\
# Failure modes

<!-- Written by `python -m tests.failure_modes` from tests/failures/. Don't edit. -->

What happens when something breaks: to the limit, to running tasks, and to waiting ones.
This page is generated from the tests that show it, in `tests/failures/`.
They run real workers on real servers, break one thing, and check what an oracle saw running.

| column | meaning |
| --- | --- |
| failure | what was broken, and how |
| limit | whether more tasks ran at once than the limit's max |
| running tasks | what happened to the tasks running under the limit |
| waiting tasks | what happened to the tasks that waited for a permit, or arrived meanwhile |
| how long, at most | the bound that the test asserts |
| measured | the times of one run, in seconds; from the shortest to the longest if the test measures several |
| test | the test that fails if this is not so |

Unless a row says otherwise, tests use a heartbeat interval of {interval:g} s and a heartbeat timeout of {timeout:g} s.
With other settings, the times differ as the bounds do.
Times were measured on a machine that was doing other things too.
To run the tests and record their times here: `python -m tests.failure_modes --run`.
"""


@dataclass
class Line:
    """One row of the table, and the tests that show it: one function, with one or several parameters."""

    failure: Failure
    test: str
    items: list[str] = field(default_factory=list)

    def cells(self, times: Mapping[str, list[float]]) -> list[str]:
        """The line of the page."""
        said = self.failure
        measured = sorted(time for item in self.items for time in times.get(item, ()))
        bounds = [_seconds(time) for time in dict.fromkeys((measured[0], measured[-1]))] if measured else []
        return [
            said.case, said.limit, said.running, said.waiting, said.takes or "-", " to ".join(bounds) or "-",
            f"`{self.test}`",
        ]  # fmt: skip


def lines_of(table: Table, items: Iterable[Any]) -> list[Line]:
    """The rows of the table with their tests among these."""
    lines = {name: Line(failure, name.partition("[")[0]) for name, failure in table.rows.items()}
    for item in items:
        if name := table.row_of(item):
            lines[name].items.append(name_of(item))
    return list(lines.values())


def page(table: Table, lines: Iterable[Line], times: Mapping[str, list[float]]) -> str:
    """The whole page."""
    interval, timeout = HEARTBEAT.values()
    text = [HEAD.format(interval=interval, timeout=timeout)]
    for area, about in table.areas.items():
        found = [line.cells(times) for line in lines if line.failure.area == area]
        text += [f"## {area}", "", about, "", *_table(HEADS, found), ""]
    return "\n".join(text)


def wrongs(table: Table, items: Iterable[Any], times: Mapping[str, list[float]]) -> Iterator[str]:
    """What is wrong with the table: rows and tests that lack one another, times that nobody measures or says."""
    for line in lines_of(table, items):
        if not line.items:
            yield f"{line.test}: {TABLE.name} has a row for it ({line.failure.case}), and there is no such test"
        if line.failure.takes:
            unmeasured = [item for item in line.items if not times.get(item)]
            yield from (f"{item}: no time is known, run `python -m tests.failure_modes --run`" for item in unmeasured)
    for item in items:
        fixtures, row = set(item.fixturenames), table.row_of(item)
        if row is None and fixtures & FIXTURES:
            yield f"{name_of(item)}: it shows a failure and has no row in {TABLE.name}"
        elif row is not None and bool(table.rows[row].takes) != ("took" in fixtures):
            yield f"{name_of(item)}: it measures a time with `took` where its row says what it `takes`, and only there"


def without_times(text: str) -> str:
    """The page with nothing in the column of measured times, which differ from run to run."""
    column = HEADS.index("measured") + 1

    def emptied(line: str) -> str:
        cells = line.split(" | ")
        if line.startswith("| ") and len(cells) == len(HEADS):
            cells[column - 1] = "-"
        return " | ".join(cells)

    return "\n".join(emptied(line) for line in text.split("\n"))


def known_times() -> dict[str, list[float]]:
    """The times that are kept."""
    return json.loads(TIMES.read_text()) if TIMES.exists() else {}


def run(arguments: list[str]) -> int:
    """Run the tests, keep the times that they measured, and return pytest's exit code."""
    with tempfile.TemporaryDirectory(prefix="gconc-times-") as folder:
        kept = Path(folder) / "times"
        command = [sys.executable, "-m", "pytest", "-q", *(arguments or ["-n", "2", "--dist", "loadgroup", str(TESTS)])]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, VARIABLE: str(kept)}, check=False).returncode
        times = {**known_times(), **recorded(kept)}
    TIMES.write_text(json.dumps(times, indent=1, sort_keys=True) + "\n")
    return code


def _seconds(time: float) -> str:
    return f"{time:.1f}" if time >= 1 else f"{time:.2f}"


def _table(heads: Iterable[str], lines: Iterable[list[str]]) -> list[str]:
    return [_row(heads), _row("---" for _ in heads), *map(_row, lines)]


def _row(cells: Iterable[str]) -> str:
    return re.sub(r"\s+", " ", "| " + " | ".join(cells) + " |")


def main(arguments: list[str]) -> int:
    """Run the tests where that is asked for; then write the page, print it, or check it."""
    code = run(arguments[1:]) if arguments[:1] == ["--run"] else 0
    table, items = Table.read(TABLE.read_text()), collect_items(TESTS)
    kept = {name_of(item) for item in items if table.row_of(item)}
    times = {item: times for item, times in known_times().items() if item in kept}
    text, found = page(table, lines_of(table, items), times), list(wrongs(table, items, times))
    if "--print" in arguments:
        sys.stdout.write(text)
        return code
    if "--check" in arguments:
        if without_times(text) != without_times(PAGE.read_text()):
            found.append(f"{PAGE.relative_to(ROOT)}: run `python -m tests.failure_modes`")
        code = code or bool(found)
    else:
        PAGE.write_text(text)
        TIMES.write_text(json.dumps(times, indent=1, sort_keys=True) + "\n")
    sys.stdout.writelines(f"{wrong}\n" for wrong in found)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
