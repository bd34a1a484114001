"""Writes ``docs/explanation/conformance.md`` from the runs in a results folder."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from .modes import LIMITS, MEANING
from .results import BAD, Difference, Run
from .suites import BROKERS, FOLDERS

HEAD = """\
# Celery's own tests, with celery-gconc installed

<!-- Written by `python -m tools.conformance`; change tools/conformance/report.py, not this file. -->

Celery's source distribution includes the tests that its developers run before a release.
`make conformance` runs them twice, unchanged: with Celery alone, and with celery-gconc in every worker.
A test that passes without celery-gconc and fails with it makes the command fail.

The integration suite runs one worker with a real broker; the smoke suite starts, kills and restarts workers.
Here, its nodes are local processes instead of containers.
The tests run in batches, each in its own process with clean servers.

"""

Found = Mapping[Path, list[Difference]]


def write(path: Path, runs: list[Run], found: Found) -> None:
    """Write the page. *found* is by the folder of a run."""
    path.write_text("".join(_page(runs, found)))


def _page(runs: list[Run], found: Found) -> Iterator[str]:
    yield HEAD
    yield "| Mode | What it is |\n| --- | --- |\n"
    for mode in dict.fromkeys(run.mode for run in runs):
        yield f"| `{mode}` | {MEANING[mode]} |\n"
    yield "\n## Results\n\n"
    yield from _results(runs, found)
    yield from _differences(runs, found)
    yield from _plain_only(runs)
    yield from _not_run(runs)
    yield from _how(runs)


def _results(runs: Iterable[Run], found: Found) -> Iterator[str]:
    yield _row(
        "Suite", "Broker", "Mode", "Passed", "Failed", "Skipped", "Expected failures", "Minutes of tests",
        "Minutes on the clock", "Fail only with celery-gconc",
    )  # fmt: skip
    yield _row(*["---"] * 10)
    for run in runs:
        count = run.count
        broken = sum(each.breakage for each in found.get(run.folder, []))
        yield _row(
            _name(run), run.broker, f"`{run.mode}`", count["passed"], sum(count[status] for status in BAD),
            count["skipped"], count["xfailed"], f"{sum(each.seconds for each in run.outcomes.values()) / 60:.1f}",
            f"{run.seconds / 60:.1f}", "" if run.mode == "plain" else broken,
        )  # fmt: skip
    yield "\nA failed test may have failed by chance; the next sections say which did.\n"
    yield "Batches run in parallel, so the clock time is less than the sum of the tests' minutes.\n\n"


def _differences(runs: Iterable[Run], found: Found) -> Iterator[str]:
    yield "## Tests that failed in a run with celery-gconc\n\n"
    yield "Each was run again on its own, without and with celery-gconc; the counts say how often it passed.\n"
    yield "A test that passes on its own failed because of its neighbours or a busy machine, as can happen.\n\n"
    if not any(found.values()):
        yield "None.\n\n"
        return
    for run in runs:
        rows = found.get(run.folder, [])
        if not rows:
            continue
        yield f"### {_name(run)}, {run.broker}, `{run.mode}`\n\n"
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


def _plain_only(runs: Iterable[Run]) -> Iterator[str]:
    """Tests that failed without celery-gconc, and passed in each run with it."""
    known = {(run.suite, run.broker, run.mode): run for run in runs if not run.subset}
    lines = []
    for (suite, broker, mode), run in known.items():
        others = [known[key] for key in known if key[:2] == (suite, broker) and key[2] != "plain"]
        if mode != "plain" or not others:
            continue
        for test, outcome in run.outcomes.items():
            if outcome.status in BAD and all(other.outcomes[test].status == "passed" for other in others):
                lines.append(f"- {suite}, {broker}: `{test.removeprefix('t/')}` ({outcome.reason})\n")
    if lines:
        yield "## Tests that failed only without celery-gconc\n\n"
        yield "So this too can happen by chance:\n\n"
        yield from lines
        yield "\n"


def _not_run(runs: list[Run]) -> Iterator[str]:
    yield "## What was not run\n\n"
    known = {(run.suite, run.broker, run.mode) for run in runs if not run.subset}
    for suite, mode in itertools.product(FOLDERS, LIMITS):
        brokers = [broker for broker in BROKERS if (suite, broker, mode) not in known]
        if brokers:
            part = [run.broker for run in runs if run.subset and (run.suite, run.mode) == (suite, mode)]
            but = f", except for the few tests in the table ({', '.join(part)})" if part else ""
            yield f"- The {suite} suite in mode `{mode}` on {' and '.join(brokers)}{but}.\n"
    yield "- Tests in the smoke suite that require a broker other than the run's.\n"
    yield "- Tests that skipped themselves, or that this machine can't support, the same in every mode:\n\n"
    yield _row("Suite", "Broker", "Tests", "File", "Reason")
    yield _row(*["---"] * 5)
    for run in runs:
        if run.mode != "plain" or run.subset:
            continue
        count: dict[tuple[str, str], int] = defaultdict(int)
        for test, outcome in run.outcomes.items():
            if outcome.status == "skipped":
                count[test.split("::")[0].removeprefix("t/"), outcome.first_line] += 1
        for (file, reason), number in count.items():
            yield _row(run.suite, run.broker, number, f"`{file}`", reason)
    yield "\n"


def _how(runs: Iterable[Run]) -> Iterator[str]:
    yield "## How it was run\n\n"
    by_versions: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_versions[f"{run.info['versions']}; {run.info['date']}"].append(run)
    for versions, some in by_versions.items():
        rows = "; ".join(f"{_name(run)}, {run.broker}, `{run.mode}`" for run in some)
        shared = "" if all(run.info["namespaces"] for run in some) else " (not each in network namespaces of its own)"
        yield f"- {rows}{shared}: {versions}.\n"
        for note in dict.fromkeys(str(run.info.get("note", "")) for run in some):
            yield f"  {note}\n" if note else ""
    yield "\n`make conformance` runs all of it; to run one row, whose results the next page picks up:\n\n```console\n"
    for run in runs:
        if run.mode != "plain":
            yield f"{run.command}\n"
    yield "```\n\nThe row of mode `plain` comes with the first of each kind.\n"


def _name(run: Run) -> str:
    return f"{run.suite}, {len(run.outcomes)} tests of it" if run.subset else run.suite


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |\n"
