"""Writes docs/explanation/compatibility.md: which feature of Celery is tested where, and what of the wild is.

    python -m tests.compatibility            writes the page
    python -m tests.compatibility --print    prints it

It collects the tests and runs none; what a cell says is what the tests' ``feature`` and ``wild`` markers say.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.collection import collect_items
from tests.lifecycle.matrix import BROKERS, COLUMNS, POOLS, STATES, Column, Feature, reason
from tests.wild import AREAS

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "lifecycle"
WILD = (ROOT / "tests" / "wild", ROOT / "tests" / "brokers")
PAGE = ROOT / "docs" / "explanation" / "compatibility.md"

BROKER_NAMES = {"redis": "Redis", "rabbitmq": "RabbitMQ"}

HEAD = """\
# Compatibility

<!-- Written by `python -m tests.compatibility` from tests/lifecycle/ and tests/wild/. Don't edit. -->

Celery's features work under a limit, on each pool and with each broker.
This page is generated from the tests that show it, in `tests/lifecycle/` and `tests/wild/`.
They run real workers, and check the permits in Redis, the results, and what an oracle saw running.

*Parked* means that the feature applies to a request that waits for a permit; *running*, to a task that holds one.

| cell | meaning |
| --- | --- |
| yes | tested here |
| in part | tested here except for a part that doesn't exist; the note says why |
| as on Redis | tested on this pool with Redis as the broker; the broker makes no difference |
| as on prefork | tested on prefork; the pool makes no difference |
| none | Celery does not have it here, or it can't be seen; the note says why |
| no | not supported; the note says what happens instead |
"""


@dataclass
class Row:
    """One feature in one state: its tests, and the columns in which they run."""

    features: list[Feature] = field(default_factory=list)
    tests: dict[str, None] = field(default_factory=dict)
    columns: set[Column] = field(default_factory=set)
    needs_no_worker: bool = False


def collect() -> dict[tuple[str, str], Row]:
    """The rows of the table, in the order of the tests' files and lines."""
    rows: dict[tuple[str, str], Row] = {}
    for item in sorted(collect_items(TESTS), key=lambda item: (item.location[0], item.location[1])):
        marker = item.get_closest_marker("feature")
        if marker is None:
            raise SystemExit(f"{item.nodeid} has no feature marker")
        feature = Feature.of(marker)
        row = rows.setdefault((feature.name, feature.state), Row())
        row.features.append(feature)
        row.tests[item.originalname] = None  # type: ignore[attr-defined]
        column: Column | None = getattr(item, "callspec", None) and item.callspec.params.get("column")  # type: ignore[attr-defined]
        if column is None:
            row.needs_no_worker = True
        else:
            row.columns.add(column)
    return rows


def collect_wild() -> dict[str, list[tuple[str, str, str]]]:
    """What is tested of each area: the case, what comes of it, and the test's file."""
    found: dict[str, list[tuple[str, str, str]]] = {area: [] for area in AREAS}
    for item in sorted(collect_items(*WILD), key=lambda item: (item.location[0], item.location[1])):
        for marker in item.iter_markers("wild"):  # those without show a detail of another's case
            area, case = marker.args
            row = (case, marker.kwargs.get("result", "works"), Path(item.location[0]).name)
            if row not in found[area]:
                found[area].append(row)
    return found


class Notes:
    """The numbered notes under the table."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str) -> int:
        """The number of a note; the same text has one number."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def cell(row: Row, column: Column, notes: Notes) -> str:
    """What the table says of one feature in one column."""
    for feature in row.features:
        if why := reason(feature.unsupported, column):
            return f"no ({notes.number(why)})"
    whys = [reason(feature.not_on, column) for feature in row.features]
    if column in row.columns:
        missing = dict.fromkeys(filter(None, whys))
        return f"in part ({', '.join(str(notes.number(why)) for why in missing)})" if missing else "yes"
    if all(whys):
        return f"none ({notes.number(next(filter(None, whys)))})"
    if column.broker != "redis" and Column(column.pool, "redis") in row.columns:
        return "as on Redis"
    return "as on prefork"


def page(rows: dict[tuple[str, str], Row], wild: dict[str, list[tuple[str, str, str]]]) -> str:
    """The whole page."""
    notes = Notes()
    on_workers = {key: row for key, row in rows.items() if not row.needs_no_worker}
    elsewhere = {key: row for key, row in rows.items() if row.needs_no_worker}
    names = [f"{pool}, {BROKER_NAMES[broker]}" for pool in POOLS for broker in BROKERS]
    lines = [
        HEAD,
        "## On each pool and broker",
        "",
        *_table(
            ["feature", "request", *names],
            [
                [name, state, *(cell(row, column, notes) for column in COLUMNS)]
                for (name, state), row in _sorted(on_workers)
            ],
        ),
        "",
        "Notes:",
        "",
        *(f"{number}. {text}" for number, text in enumerate(notes.texts, 1)),
        "",
        "## Where neither pool nor broker matters",
        "",
        *_table(
            ["feature", "request", ""],
            [[name, state or "-", "yes"] for (name, state), _ in _sorted(elsewhere)],
        ),
        "",
        "## In the wild",
        "",
        "An app that runs under Celery runs with the two lines added and no other settings.",
        "If it can't, the worker says so at its start, in one line.",
        "",
        *_areas(wild),
        "## What the tests say",
        "",
        *_sentences(rows),
    ]
    return "\n".join(lines) + "\n"


def _areas(wild: dict[str, list[tuple[str, str, str]]]) -> list[str]:
    lines = []
    for area, title in AREAS.items():
        if wild[area]:
            table = _table(
                ["case", "result", "test"], [[case, result, f"`{test}`"] for case, result, test in wild[area]]
            )
            lines += [f"### {title}", "", *table, ""]
    return lines


def _sorted(rows: dict[tuple[str, str], Row]) -> Iterable[tuple[tuple[str, str], Row]]:
    """Keep the order of the features; within one, parked comes first."""
    order = list(dict.fromkeys(name for name, _ in rows))
    return sorted(rows.items(), key=lambda item: (order.index(item[0][0]), STATES.index(item[0][1])))


def _table(heads: list[str], lines: list[list[str]]) -> list[str]:
    return [_row(heads), _row(["---"] * len(heads)), *map(_row, lines)]


def _row(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _sentences(rows: dict[tuple[str, str], Row]) -> list[str]:
    lines = []
    last = None
    for (name, state), row in _sorted(rows):
        if name != last:
            lines += [*([""] if last else []), f"**{name}**", ""]
            last = name
        lines += [f"- {state}: {_sentence(test)}" if state else f"- {_sentence(test)}" for test in row.tests]
    return lines


def _sentence(test: str) -> str:
    return re.sub(r"^test_", "", test).replace("_", " ")


def main(arguments: list[str]) -> None:
    """Write the page, or print it."""
    text = page(collect(), collect_wild())
    if "--print" in arguments:
        sys.stdout.write(text)
    else:
        PAGE.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
