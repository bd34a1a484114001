"""A full limit of a queue whose messages wait at the broker, beside plain workers that were arranged by hand for it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from .kit import Load, Result
from .rows import QUEUE, Row, alternate

WORKERS, SLOTS = 4, 8


@dataclass(frozen=True)
class Cell:
    """Tasks of one length (seconds) under one limit; by how much less of it may be in use than by hand."""

    limit: int
    seconds: float
    count: int
    slack: float

    @property
    def name(self) -> str:
        return f"L={self.limit}, d={self.seconds * 1000:g} ms"

    def by_hand(self, again: str = "") -> Load:
        """As many slots as the limit allows, over as many workers."""
        workers = min(self.limit, WORKERS)
        return Load(
            f"{self.name}, plain, arranged by hand{again}", "nap", self.count, self.seconds,
            workers=workers, concurrency=self.limit // workers,
        )  # fmt: skip

    def limited(self, limits: dict[str, int], *, at_broker: bool = True) -> Load:
        """More slots than the limit allows, over all workers."""
        return Load(
            f"{self.name}, wait {'at the broker' if at_broker else 'in workers'}, {limits}",
            "nap", self.count, self.seconds, limits, workers=WORKERS, concurrency=SLOTS, apart=True,
            settings={"global_concurrency_wait_at_broker": at_broker},
        )  # fmt: skip


CELLS = (
    Cell(4, 0.05, 1600, 0.015),
    Cell(16, 0.05, 6000, 0.015),
    Cell(4, 0.005, 6000, 0.03),
    Cell(16, 0.005, 9000, 0.03),
    Cell(1, 0.005, 2500, 0.04),
)


def at_broker(rounds: int) -> list[Row]:
    """How much of the limit is in use, calls for a task, order and shares, with four workers of eight slots."""
    return [row for cell in CELLS for row in _rows(cell, rounds)]


def _rows(cell: Cell, rounds: int) -> list[Row]:
    limit = cell.limit
    raw = alternate(
        rounds,
        {
            "by hand": cell.by_hand(),
            "at the broker": cell.limited({QUEUE: limit}),
            "with app": cell.limited({QUEUE: limit, "app": 1000}),
            "in workers": cell.limited({QUEUE: limit}, at_broker=False),
            "by hand again": cell.by_hand(", again"),
        },
        busy=lambda result: result.busy(limit),
        scripts=lambda result: result.scripts,
        displaced=lambda result: result.displacement_p99,
        unequal=_unequal,
    )
    middle = {name: statistics.median(figures) for name, figures in raw.items()}
    beside = (
        f"plain workers arranged by hand: {middle['by hand']:.3f}, once more: {middle['by hand again']:.3f}; "
        f"waiting in workers: {middle['in workers']:.3f}"
    )
    rows = []
    for name, also in (("at the broker", ""), ("with app", ", with app=1000")):
        kept = {key: raw[key] for key in (name, "by hand", "by hand again")}
        what = f"share of the limit in use, waiting at the broker, {cell.name}{also}"
        rows.append(Row(what, middle[name], middle["by hand"] - cell.slack, ">=", beside, kept))
    for what, figure, most in (
        ("scripts for a task", "scripts", 0.02),
        ("displacement, 99 %", "displaced", 2 * (limit + WORKERS)),
        ("how far a worker's share is from an equal one, at most", "unequal", 0.2),
    ):
        if figure != "unequal" or cell.seconds >= 0.05:  # over seconds: shorter tasks leave too little time
            there = f"waiting in workers: {middle[f'in workers {figure}']:.3f}"
            name = f"{what}, waiting at the broker, {cell.name}"
            rows.append(Row(name, middle[f"at the broker {figure}"], most, "<=", there))
    return rows


def _unequal(result: Result) -> float:
    """By what part the share of the worker that is farthest from it differs from an equal one."""
    equal = 1 / len(result.shares)
    return max(abs(share - equal) / equal for share in result.shares)
