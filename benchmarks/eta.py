"""``python -m benchmarks.eta``: many tasks that are due at one instant, under a limit far away, beside plain Celery."""

from __future__ import annotations

import argparse
import statistics
import sys

from .kit import Load, Result, run


def measure(count: int, due_in: float, limits: dict[str, int] | None, patience: float) -> Result:
    """One run: the tasks are all received before they are due, and then run in four processes."""
    name = "plain Celery" if limits is None else "limit far away"
    load = Load(name, "nap", count, 0.01, limits, due_in=due_in)
    return run(load, patience=patience)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eta")
    parser.add_argument("--count", type=int, default=50_000, help="how many tasks of 10 ms (default 50,000)")
    parser.add_argument("--rounds", type=int, default=1, help="how often the pair is run (default 1)")
    parser.add_argument("--due-in", type=float, help="seconds after which all are due (default: 2.5 ms a task)")
    parser.add_argument("--only", choices=["plain", "limited"])
    arguments = parser.parse_args()
    due_in = arguments.due_in or arguments.count * 0.0025 + 10
    patience = due_in + arguments.count * 0.02 + 60
    paces: dict[str, list[float]] = {"plain": [], "limited": []}
    for _ in range(arguments.rounds):
        for kind, limits in (("plain", None), ("limited", {"queue:celery": 100})):
            if arguments.only in (None, kind):
                result = measure(arguments.count, due_in, limits, patience)
                paces[kind].append(result.rate)
                print(
                    f"  {kind}: {result.rate:.1f} tasks a second, {result.cpu * 1e6:.0f} us of the main process a task",
                    flush=True,
                )
    if all(paces.values()):
        ratio = statistics.median(this / that for this, that in zip(paces["limited"], paces["plain"], strict=True))
        what = f"{arguments.count} tasks of 10 ms with one ETA, limit far away / plain Celery"
        print(f"{what}: {ratio:.3f} (target >= 0.9)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
