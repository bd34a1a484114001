"""Writes docs/explanation/failure-modes.md from the tests of failures: what happens, and for how long.

    python -m tests.failure_modes                writes the page
    python -m tests.failure_modes --print        prints it
    python -m tests.failure_modes --run [...]    runs the tests first, and keeps the times that they measured;
                                                 arguments that follow go to pytest, to run some of them only

What a line says is what the tests' ``failure`` markers say. Times are kept in docs/explanation/failure-times.json.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.collection import collect_items
from tests.failures.report import AREAS, HEARTBEAT, VARIABLE, Failure, name_of, recorded

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "failures"
PAGE = ROOT / "docs" / "explanation" / "failure-modes.md"
TIMES = ROOT / "docs" / "explanation" / "failure-times.json"

HEADS = ("failure", "limit", "running tasks", "waiting tasks", "how long, at most", "measured", "test")

HEAD = """\
# Failure modes

<!-- Written by `python -m tests.failure_modes` from tests/failures/. Don't edit. -->

What happens when a thing breaks: to the limit, to the tasks that run, and to those that wait.
This page is made from the tests that show it, in `tests/failures/`.
They run real workers on real servers, break one thing, and look at what an oracle saw running.

| column | meaning |
| --- | --- |
| failure | what was broken, and how |
| limit | whether more tasks ran at once than the limit's max |
| running tasks | what became of the tasks that ran under the limit |
| waiting tasks | what became of the tasks that waited for a permit, or came meanwhile |
| how long, at most | the bound that the test asserts |
| measured | the times of one run, in seconds; from the shortest to the longest where the test measures several |
| test | the test that fails where this is not so |

Unless a line says otherwise, the tests' heartbeat interval is {interval:g} s and their heartbeat timeout {timeout:g} s.
With other settings the times differ as the bounds do.
Times were measured on a machine that did other things too.
To run the tests and write their times here: `python -m tests.failure_modes --run`.
"""


@dataclass
class Line:
    """One case: its tests in the order of their files, and what each test measured."""

    failure: Failure
    tests: dict[str, None] = field(default_factory=dict)
    items: list[str] = field(default_factory=list)

    def cells(self, times: Mapping[str, list[float]]) -> list[str]:
        """The line of the table."""
        said = self.failure
        measured = sorted(time for item in self.items for time in times.get(item, ()))
        bounds = [_seconds(time) for time in dict.fromkeys((measured[0], measured[-1]))] if measured else []
        return [
            said.case, said.limit, said.running, said.waiting, said.takes or "-", " to ".join(bounds) or "-",
            "<br>".join(self.tests),
        ]  # fmt: skip


def collect() -> dict[tuple[str, str], Line]:
    """The lines of the page by area and case, in the order of the tests' files and lines."""
    return lines_of(collect_items(TESTS))


def lines_of(items: Iterable[pytest.Item]) -> dict[tuple[str, str], Line]:
    """What the ``failure`` markers of these tests say. Tests without one are not on the page."""
    lines: dict[tuple[str, str], Line] = {}
    for item in sorted(items, key=lambda item: (item.location[0], item.location[1])):
        for marker in item.iter_markers("failure"):
            failure = Failure.of(marker)
            line = lines.setdefault((failure.area, failure.case), Line(failure))
            if line.failure != failure:
                raise SystemExit(f"{item.nodeid} says something else of {failure.case!r} than {line.items[0]}")
            line.tests[f"`{item.path.name}::{item.originalname}`"] = None  # type: ignore[attr-defined]
            line.items.append(name_of(item))
    return lines


def page(lines: Mapping[tuple[str, str], Line], times: Mapping[str, list[float]]) -> str:
    """The whole page."""
    interval, timeout = HEARTBEAT.values()
    text = [HEAD.format(interval=interval, timeout=timeout)]
    areas = dict.fromkeys((*AREAS, *(area for area, _ in lines)))
    for area in areas:
        found = [line.cells(times) for (of, _), line in lines.items() if of == area]
        if found:
            text += [f"## {area}", "", *([AREAS[area], ""] if area in AREAS else []), *_table(HEADS, found), ""]
    return "\n".join(text)


def without_times(text: str) -> str:
    """The page with nothing in the column of measured times, which differ from run to run."""
    column = HEADS.index("measured") + 1

    def emptied(line: str) -> str:
        cells = line.split(" | ")
        if line.startswith("| ") and len(cells) == len(HEADS):
            cells[column - 1] = "-"
        return " | ".join(cells)

    return "\n".join(emptied(line) for line in text.split("\n"))


def unmeasured(lines: Mapping[tuple[str, str], Line], times: Mapping[str, list[float]]) -> list[str]:
    """The tests that say how long a thing takes and for which no time was kept."""
    return [item for line in lines.values() if line.failure.takes for item in line.items if not times.get(item)]


def known_times() -> dict[str, list[float]]:
    """The times that are kept."""
    return json.loads(TIMES.read_text()) if TIMES.exists() else {}


def run(arguments: list[str]) -> int:
    """Run the tests, keep the times that they measured (of tests that exist), and return pytest's exit code."""
    with tempfile.TemporaryDirectory(prefix="gconc-times-") as folder:
        kept = Path(folder) / "times"
        command = [sys.executable, "-m", "pytest", "-q", *(arguments or ["-n", "2", "--dist", "loadgroup", str(TESTS)])]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, VARIABLE: str(kept)}, check=False).returncode
        exist = {item for line in collect().values() for item in line.items}
        times = {**known_times(), **recorded(kept)}
    times = {item: times[item] for item in sorted(times) if item in exist}
    TIMES.write_text(json.dumps(times, indent=1) + "\n")
    return code


def _seconds(time: float) -> str:
    return f"{time:.1f}" if time >= 1 else f"{time:.2f}"


def _table(heads: Iterable[str], lines: Iterable[list[str]]) -> list[str]:
    return [_row(heads), _row("---" for _ in heads), *map(_row, lines)]


def _row(cells: Iterable[str]) -> str:
    return re.sub(r"\s+", " ", "| " + " | ".join(cells) + " |")


def main(arguments: list[str]) -> int:
    """Run the tests where that is asked for; write the page, or print it."""
    code = run(arguments[1:]) if arguments[:1] == ["--run"] else 0
    lines, times = collect(), known_times()
    text = page(lines, times)
    if "--print" in arguments:
        sys.stdout.write(text)
    else:
        PAGE.write_text(text)
        for item in unmeasured(lines, times):
            sys.stdout.write(f"no time is known of {item}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
