"""The lines of the table: figures of runs that alternate, each against its target."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from .kit import Load, Result, run

QUEUE = "queue:celery"


@dataclass
class Row:
    """One line of the table: a ratio against its target."""

    name: str
    value: float
    target: float
    better: str  # ">=" or "<="
    beside: str = ""
    raw: dict[str, list[float]] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        return self.value >= self.target if self.better == ">=" else self.value <= self.target


def alternate(rounds: int, loads: dict[str, Load], **figures: Callable[[Result], float]) -> dict[str, list[float]]:
    """Run the loads in turn, A B A B, and keep figures of each run: the first as ``<load>``, others with their name."""
    (first, *_) = figures
    raw: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, load in loads.items():
            result = run(load)
            for kind, figure in figures.items():
                raw.setdefault(name if kind == first else f"{name} {kind}", []).append(figure(result))
            print(f"  {load.name}: {raw[name][-1]:.4g}", flush=True)
    return raw


def median_ratio(these: list[float], those: list[float]) -> float:
    """The median of the ratios of runs that followed each other: a slow minute of the machine slows both of a pair."""
    return statistics.median(this / that for this, that in zip(these, those, strict=True))
