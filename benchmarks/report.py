"""Writes what was measured: a page of the docs with its table, and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path("docs/explanation/benchmarks.md")
PLOT = Path("docs/images/benchmarks.svg")

#: What the page says around the table; kept by hand, so that a new run replaces figures and not words.
NOTES = Path(__file__).with_name("notes.md")


def write_report(machine: dict[str, Any], rounds: int, rows: list[dict[str, Any]]) -> None:
    """Write the page and the plot."""
    lines = [
        "# Benchmarks",
        "",
        "Measured by `make bench`, which writes this page; the raw figures are in `benchmarks/results.json`.",
        f"Each figure is the median of {rounds} or more runs that alternate with the runs they are compared to.",
        "The intake was run once.",
        f"Machine: {', '.join(f'{name} {value}' for name, value in machine.items())}.",
        "",
        "![Targets and what was measured](../images/benchmarks.svg)",
        "",
        "| what | measured | target | reached | beside it |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        reached = "yes" if row["reached"] else "**no**"
        target = f"{row['better'].replace('>=', '≥').replace('<=', '≤')} {row['target']:g}"
        lines.append(f"| {row['name']} | {row['value']:.3f} | {target} | {reached} | {row['beside']} |")
    lines += ["", NOTES.read_text(encoding="utf-8").strip(), ""]
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    _plot(rows)


def _plot(rows: list[dict[str, Any]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    shown = [row for row in rows if row["better"] == ">="]
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(shown) + 1.4))
    for index, row in enumerate(reversed(shown)):
        axes.barh(index, row["value"], color="#3a7d44" if row["reached"] else "#d08c2e", height=0.6)
        axes.plot([row["target"]] * 2, [index - 0.4, index + 0.4], color="#222222", linewidth=2)
        axes.text(0.01, index, f"{row['value']:.3f}", va="center", color="white", fontsize=9)
    names = [row["name"].replace(", limits nowhere near full", "") for row in reversed(shown)]
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("ratio; the black mark is the target")
    axes.set_title("celery-gconc beside plain Celery", fontsize=10)
    figure.tight_layout()
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})
