"""Writes ``docs/explanation/conformance.md`` from the runs in a results folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from .modes import MEANING
from .results import BAD, Difference, Run

HEAD = """\
# Celery's own tests, with celery-gconc installed

<!-- Written by `python -m tools.conformance`; change tools/conformance/report.py, not this file. -->

Celery's source distribution holds the tests that its developers run before a release.
`make conformance` runs them twice, unchanged: with Celery alone, and with celery-gconc in every worker.
A test that passes without celery-gconc and fails with it makes the command fail.

The integration suite runs one worker with a real broker; the smoke suite starts, kills and restarts workers.
Its nodes are local processes here instead of containers.
Tests that need more of a container engine (another image of the broker, a processor quota, Celery 4) are skipped in
every mode alike.
The tests are run in handfuls, each handful in a process of its own with clean servers.

"""


def write(path: Path, runs: list[Run], found: dict[str, list[Difference]], versions: str, command: str) -> None:
    """Write the page. *found* is by the name of a run's folder."""
    path.write_text("".join(_page(runs, found, versions, command)))


def _page(runs: list[Run], found: dict[str, list[Difference]], versions: str, command: str) -> Iterator[str]:
    yield HEAD
    yield "| Mode | What it is |\n| --- | --- |\n"
    for mode in dict.fromkeys(run.mode for run in runs):
        yield f"| `{mode}` | {MEANING[mode]} |\n"
    yield "\n## What they said\n\n"
    yield _row("Suite", "Broker", "Mode", "Passed", "Failed", "Skipped", "Expected failures", "Minutes", "Broken by us")
    yield _row(*["---"] * 9)
    for run in runs:
        count = run.count
        bad = sum(count[status] for status in BAD)
        broken = sum(each.breakage for each in found.get(run.folder.name, []))
        breakage = "" if run.mode == "plain" else str(broken)
        minutes = float(str(run.info.get("seconds", 0))) / 60
        yield _row(
            run.suite, run.broker, f"`{run.mode}`", count["passed"], bad, count["skipped"], count["xfailed"],
            f"{minutes:.0f}", breakage,
        )  # fmt: skip
    yield "\n"
    yield from _differences(runs, found)
    yield f"## How it was run\n\n{versions}\n\n```console\n{command}\n```\n"


def _differences(runs: Iterable[Run], found: dict[str, list[Difference]]) -> Iterator[str]:
    yield "## Tests that failed in a run with celery-gconc\n\n"
    yield "Each was run again by itself, without and with celery-gconc; the counts are how often it passed.\n"
    yield "One that passes alone failed because of its neighbours or of a busy machine, as it may in any run.\n\n"
    if not any(found.values()):
        yield "None.\n\n"
        return
    for run in runs:
        rows = found.get(run.folder.name, [])
        if not rows:
            continue
        yield f"### {run.suite}, {run.broker}, `{run.mode}`\n\n"
        yield _row("Test", "In the run without", "Failed with", "Alone without", "Alone with", "Verdict")
        yield _row(*["---"] * 6)
        for each in sorted(rows, key=lambda row: (not row.breakage, row.test)):
            yield _row(
                f"`{each.test.removeprefix('t/')}`",
                each.plain,
                each.reason,
                f"{each.alone_plain.passed} of {each.alone_plain.runs}",
                f"{each.alone_with_us.passed} of {each.alone_with_us.runs}",
                each.verdict,
            )
        yield "\n"


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |\n"
