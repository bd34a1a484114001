"""Writes the table of recorded runs into the page, between two marks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.kit.servers import ROOT

PAGE = ROOT / "docs" / "explanation" / "chaos.md"
BEGIN, END = "<!-- results: written by python -m tools.chaos --report -->", "<!-- end of results -->"

Result = dict[str, Any]


def write(files: Iterable[Path]) -> None:
    """Put the results in *files* into the page."""
    PAGE.write_text(rendered(PAGE.read_text(), files))


def rendered(page: str, files: Iterable[Path]) -> str:
    """*page* with the tables of these results between the marks."""
    results = sorted((json.loads(file.read_text()) for file in files), key=lambda one: (one["seed"], one["mode"]))
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{_tables(results)}\n{END}{tail}"


def _tables(results: list[Result]) -> str:
    ours = [one for one in results if one["mode"] != "plain Celery"]
    lines = [
        (
            "| seed | broker | workers | minutes | faults | limits changed | tasks "
            "| overshoot | stuck | leaks | lost or doubled beyond plain Celery |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in ours:
        broken = Counter(violation["what"] for violation in one["violations"])
        lines.append(
            f"| {one['seed']} | {one['broker']} | {', '.join(one['workers'])} | {one['minutes']:g} | "
            f"{sum(one['faults'].values())} | {one['changes']} | {one['tasks']} | {broken['overshoot']} | "
            f"{broken['stuck']} | {broken['leak'] + broken['uncounted']} | {broken['lost'] + broken['doubled']} |"
        )
    faults: Counter[str] = Counter()
    for one in ours:
        faults.update(one["faults"])
    lines += ["", "Faults survived, over all of these runs:", "", "| fault | times |", "| --- | --- |"]
    lines += [f"| {name} | {count} |" for name, count in sorted(faults.items())]
    lines += [
        "",
        "What the checker judged:",
        "",
        "| seed | starts under a max | by one value | up to the max | watched for what is stuck | drained in |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in ours:
        judged = Counter(one["starts_judged"])
        lines.append(
            f"| {one['seed']} | {judged['under a max']} | {judged['by one value']} | {judged['up to the max']} | "
            f"{one['seconds_watched_for_stuck']:.0f} s | {one['seconds_to_drain']:.0f} s |"
        )
    lines += ["", _beside_plain(results)]
    return "\n".join(lines)


def _beside_plain(results: list[Result]) -> str:
    plain = {(one["seed"], one["broker"]): one for one in results if one["mode"] == "plain Celery"}
    rows = []
    for one in results:
        other = plain.get((one["seed"], one["broker"]))
        if one["mode"] == "plain Celery" or other is None:
            continue
        causes = sorted({*one["lost"], *one["doubled"], *other["lost"], *other["doubled"]})
        rows += [
            f"| {one['seed']} | {cause.replace('?', 'no fault')} | {_times(other, cause)} | {_counts(other, cause)} | "
            f"{_times(one, cause)} | {_counts(one, cause)} |"
            for cause in causes
        ]
        rows.append(
            f"| {one['seed']} | all | {sum(other['faults'].values())} | {_totals(other)} | "
            f"{sum(one['faults'].values())} | {_totals(one)} |"
        )
    if not rows:
        return ""
    head = [
        "Lost and doubled runs by the fault that caused them, the same seed without and with celery-gconc:",
        "",
        (
            "| seed | cause | plain Celery: times | lost / doubled of tasks "
            "| celery-gconc: times | lost / doubled of tasks |"
        ),
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join(head + rows) + "\n"


def _times(one: Result, cause: str) -> str:
    return str(one["faults"].get(cause, "-"))


def _counts(one: Result, cause: str) -> str:
    return f"{one['lost'].get(cause, 0)} / {one['doubled'].get(cause, 0)}"


def _totals(one: Result) -> str:
    return f"{sum(one['lost'].values())} / {sum(one['doubled'].values())} of {one['tasks']}"
