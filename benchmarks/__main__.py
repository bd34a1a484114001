"""``python -m benchmarks``: run every scenario, alternated, and write the table, the plot and the raw figures.

Every figure is a ratio of runs that alternate in this one call, so a slow or busy machine changes both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from importlib.metadata import version
from pathlib import Path

import celery_gconc

from .at_broker import at_broker
from .intake import behind_covered
from .kit import Load, idle_commands, redis_version, run
from .report import write_report
from .rows import QUEUE, Row, alternate, median_ratio

#: How the loads of :func:`throughput` are called.
NAMES = {
    "two limits": "two limits nowhere near full",
    "one limit": "one limit nowhere near full",
    "no limit": "no limit",
    "empty step": "an empty step",
    "plain": "plain Celery",
}


def throughput(rounds: int) -> list[Row]:
    """No-op tasks under limits nowhere near full, or under none, beside plain Celery, and with a step of no use."""
    rows = []
    for pool in ("prefork", "threads"):

        def load(name: str, limits: dict[str, int] | None = None, *, step: bool = False, pool: str = pool) -> Load:
            return Load(f"no-op, {pool}, {name}", count=3000, limits=limits, pool=pool, empty_step=step)

        raw = alternate(
            3 * rounds,
            {
                "two limits": load("two limits far away", {QUEUE: 1000, "app": 2000}),
                "one limit": load("one limit far away", {QUEUE: 1000}),
                "no limit": load("no limit", {}),
                "empty step": load("plain Celery with an empty step", step=True),
                "plain": load("plain Celery"),
                "plain again": load("plain Celery again"),
            },
            rate=lambda result: result.rate,
            cpu=lambda result: result.cpu,
        )
        for these, those, target in (
            ("two limits", "plain", 0.95),
            ("one limit", "plain", 0.95),
            ("two limits", "one limit", 0.985),
            ("no limit", "empty step", 0.985),
        ):
            beside = (
                f"CPU time a task of the main process: {median_ratio(raw[these + ' cpu'], raw[those + ' cpu']):.3f}; "
                f"plain against plain: {median_ratio(raw['plain again'], raw['plain']):.3f}, "
                f"CPU {median_ratio(raw['plain again cpu'], raw['plain cpu']):.3f}"
            )
            what = f"throughput of no-op tasks, {pool}, {NAMES[these]} / {NAMES[those]}"
            kept = {these, those, "plain", "plain again"}
            figures = {name: found for name, found in raw.items() if name.removesuffix(" cpu") in kept}
            rows.append(Row(what, median_ratio(raw[these], raw[those]), target, ">=", beside, figures))
    return rows


def utilisation(rounds: int) -> list[Row]:
    """Tasks a second of what the limit allows, over four workers of eight slots, beside one dedicated worker."""
    rows = []
    for limit, seconds, count, target in (
        (16, 0.05, 2000, 0.96),
        (4, 0.05, 800, 0.97),
        (4, 0.005, 3000, 0.81),
        (1, 0.005, 800, 0.79),
    ):
        what = f"L={limit}, d={seconds * 1000:g} ms"
        raw = alternate(
            rounds,
            {
                "gconc": Load(
                    f"{what}, 4 x prefork -c 8", "nap", count, seconds, {QUEUE: limit}, workers=4, concurrency=8
                ),
                "dedicated": Load(f"{what}, one plain worker -c {limit}", "nap", count, seconds, concurrency=limit),
                "dedicated again": Load(
                    f"{what}, one plain worker -c {limit} again", "nap", count, seconds, concurrency=limit
                ),
            },
            utilisation=lambda result, limit=limit: result.utilisation(limit),
        )
        plain, again = statistics.median(raw["dedicated"]), statistics.median(raw["dedicated again"])
        beside = f"one plain worker -c {limit}: {plain:.3f}, and once more: {again:.3f}"
        rows.append(Row(f"utilisation, {what}", statistics.median(raw["gconc"]), target, ">=", beside, raw))
    return rows


def handoff_and_order(rounds: int) -> list[Row]:
    """The gap between two tasks at a limit of 1, order, peak and Redis commands."""
    raw = alternate(
        rounds + 2,
        {
            "gconc": Load("handoff, L=1, 2 x prefork -c 1", "nap", 600, 0.005, {QUEUE: 1}, workers=2, concurrency=1),
            "plain": Load("handoff, one plain worker -c 1", "nap", 600, 0.005, concurrency=1),
            "plain again": Load("handoff, one plain worker -c 1 again", "nap", 600, 0.005, concurrency=1),
        },
        gap=lambda result: result.gap * 1e6,
    )
    ratio = statistics.median(raw["gconc"]) / statistics.median(raw["plain"])
    beside = (
        f"{statistics.median(raw['gconc']):.0f} us / {statistics.median(raw['plain']):.0f} us; "
        f"plain against plain: {statistics.median(raw['plain again']) / statistics.median(raw['plain']):.3f}"
    )
    rows = [Row("handoff gap at L=1 over two workers / one plain worker -c 1", ratio, 1.5, "<=", beside, raw)]

    contended = run(Load("order, L=4, d=50 ms", "nap", 2000, 0.05, {QUEUE: 4}, workers=4, concurrency=8))
    rows.append(Row("displacement of 2,000 tasks, L=4, median positions", contended.displacement, 1, "<="))
    rows.append(Row("peak of running tasks, L=4", contended.peak, 4, "<="))
    rows.append(Row("Redis commands per task, contended (L=4, d=50 ms)", contended.commands, 2, "<="))
    far = run(Load("commands, no-op, limits far away", count=5000, limits={QUEUE: 1000, "app": 2000}))
    rows.append(Row("Redis commands per task, uncontended with a backlog", far.commands, 0.1, "<="))
    rows.append(Row("Redis commands per minute, idle worker (heartbeat 5 s)", idle_commands(), 30, "<="))
    return rows


def intake(rounds: int) -> list[Row]:
    """What a worker of four slots holds of 10,000 messages under a limit of 1, and what waits behind them."""
    rows = []
    for kind, held, before in (("redis", 44, 0.3), ("rabbitmq", 1020, 0.95)):
        own = behind_covered(kind, QUEUE)
        rows.append(Row(f"messages held, {kind}, limit of the queue, 10,000 waiting", own.held, 25, "<="))
        other = behind_covered(kind, "task:benchmarks.app.nap")
        print(f"  intake, {kind}: {own} {other}", flush=True)
        rows.append(Row(f"messages held, {kind}, limit of the task, 10,000 waiting", other.held, held, "<="))
        what = f"share of 10,000 covered tasks (5 ms) that start before an uncovered one behind them, {kind}"
        rows.append(Row(what, other.before, before, "<=", f"{other.seconds:.0f} s after the worker was started"))
    return rows


SCENARIOS = {"throughput": throughput, "utilisation": utilisation, "handoff": handoff_and_order, "intake": intake,
             "at the broker": at_broker}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--rounds", type=int, default=3, help="how often each pair is run (default 3)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results.json"))
    parser.add_argument("--only", choices=sorted(SCENARIOS), help="run one part, and keep the rest of the last results")
    arguments = parser.parse_args()
    parts = [arguments.only] if arguments.only else list(SCENARIOS)
    rows = [row for part in parts for row in SCENARIOS[part](arguments.rounds)]
    machine = {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "redis-server": redis_version(),
        **{name: version(name) for name in ("celery", "kombu", "redis")},
        "celery-gconc": celery_gconc.__version__,
    }
    table = [{**vars(row), "reached": row.reached} for row in rows]
    if arguments.only and arguments.out.exists():
        known = {row["name"]: row for row in json.loads(arguments.out.read_text())["rows"]}
        table = list({**known, **{row["name"]: row for row in table}}.values())
    arguments.out.write_text(
        json.dumps({"machine": machine, "rounds": arguments.rounds, "rows": table}, indent=1) + "\n"
    )
    write_report(machine, arguments.rounds, table)
    for row in rows:
        verdict = "ok  " if row.reached else "MISS"
        print(f"{verdict} {row.name}: {row.value:.3f} (target {row.better} {row.target:g}) {row.beside}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
