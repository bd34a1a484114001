"""``python -m benchmarks.commit_interval``: what each commit interval saves and costs, and the table of its page.

The intervals take turns, round after round, so a slow or busy machine changes all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

from tests.kit.servers import redis_server, wait_until

from .kit import SENT, Load, environment, killed, redis_version, send, stamps, worker_process

PAGE = Path("docs/how-to/tune-the-commit-interval.md")
RESULTS = Path("benchmarks/commit_interval.json")

#: What stands around the table in the page.
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"

#: The columns of the tables.
COLUMNS = (
    "interval, ms",
    "changes per write",
    "writes a minute",
    "Redis' CPU",
    "release to next start, ms: median",
    "95 %",
    "tasks a second",
    "of those with 0",
)

#: The intervals that are compared, in milliseconds; the first is what the others are compared with.
INTERVALS = (0, 5, 20, 100, 500)


@dataclass(frozen=True)
class Case:
    """Tasks that are looked at for some seconds, while there are always more of them in the queue."""

    title: str
    load: Load
    limit: int | None  # the limit that is full; None: it is far away
    seconds: float


def nap(limit: int, seconds: float, count: int) -> Load:
    return Load("nap", "nap", count, seconds, {"queue:celery": limit}, workers=2, concurrency=limit)


CASES = {
    "short": Case("A full limit of 4, tasks of 50 ms", nap(4, 0.05, 1000), 4, 6.0),
    "long": Case("A full limit of 8, tasks of 500 ms", nap(8, 0.5, 400), 8, 12.0),
    "free": Case(
        "A limit of 1000 that is nowhere near full, tasks that do nothing",
        Load("noop", "noop", 12_000, limits={"queue:celery": 1000}, workers=2),
        None,
        5.0,
    ),
}


@dataclass(frozen=True)
class Figures:
    """What one run gave, in its window."""

    changes_per_write: float  # tasks that came to their gate or ended, for each write to Redis
    writes_per_minute: float  # commands that both workers together sent for their limits, a script as one
    redis_cpu: float  # of one core, the broker's work included
    tasks_per_second: float
    latency_median: float | None  # ms from a release to the start that takes its place; None: the limit isn't full
    latency_95: float | None


def measure(case: Case, interval: int) -> Figures:
    """Run the case with a commit interval of so many milliseconds."""
    load = replace(case.load, settings={"global_concurrency_commit_interval": interval / 1000})
    with redis_server() as server, tempfile.TemporaryDirectory() as log, redis.Redis.from_url(server.url) as client:
        env = environment(load, server.url, log)
        send(load, env)
        workers = [worker_process(load, env, index) for index in range(load.workers)]
        with killed(workers):
            warm = 3 * (case.limit or 100)
            wait_until(lambda: len(stamps(Path(log))[1]) >= warm, 60, f"{load.name}: {warm} tasks have ended")
            client.config_resetstat()
            began, cpu = time.monotonic(), cpu_seconds(client)
            time.sleep(case.seconds)
            stats, cpu = client.info("commandstats"), cpu_seconds(client) - cpu
            window = (began, time.monotonic())
        starts, ends = (sorted(moment for moment, _ in kind) for kind in stamps(Path(log)))
    assert len(starts) < load.count, f"{case.title}: too few tasks for the window"
    calls = {name.removeprefix("cmdstat_"): item["calls"] for name, item in stats.items()}
    seconds = window[1] - window[0]
    ended = within(ends, window)
    full = case.limit is not None
    taken = zip(ends, starts[case.limit or 0 :], strict=False)  # a release, and the start that takes its place
    gaps = [start - end for end, start in taken if window[0] <= end < window[1]]
    return Figures(
        (len(within(starts, window)) + len(ended)) / calls["evalsha"],
        sum(calls.get(name, 0) for name in SENT) * 60 / seconds,
        cpu / seconds,
        len(ended) / seconds,
        statistics.median(gaps) * 1000 if full else None,
        statistics.quantiles(gaps, n=20)[-1] * 1000 if full else None,
    )


def cpu_seconds(client: redis.Redis) -> float:
    """The time that a Redis has had of the cores so far."""
    used = client.info("cpu")
    return float(used["used_cpu_sys"] + used["used_cpu_user"])


def within(moments: list[float], window: tuple[float, float]) -> list[float]:
    return [moment for moment in moments if window[0] <= moment < window[1]]


def table(found: dict[str, Any]) -> str:
    """What the page shows between its marks, of what the file has."""
    machine = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    lines = [
        f"Medians of {found['rounds']} rounds in which the intervals took turns; two workers, one Redis, one machine.",
        f"Machine: {machine}.",
        f"Load average of the machine before the first run: {found['load_before']:.1f}.",
    ]
    for name, case in CASES.items():
        runs = found["runs"][name]
        lines += [
            "",
            f"{case.title}:",
            "",
            f"| {' | '.join(COLUMNS)} |",
            f"| {' | '.join(['---:'] * len(COLUMNS))} |",
        ]
        lines += [row(runs, interval) for interval in INTERVALS]
    return "\n".join(lines) + "\n"


def row(runs: dict[str, list[dict[str, float]]], interval: int) -> str:
    """A line of the table."""
    mine, first = runs[str(interval)], runs[str(INTERVALS[0])]

    def median(key: str, form: str) -> str:
        values = [run[key] for run in mine]
        return "-" if values[0] is None else format(statistics.median(values), form)

    share = statistics.median(a["tasks_per_second"] / b["tasks_per_second"] for a, b in zip(mine, first, strict=True))
    cells = [
        str(interval),
        median("changes_per_write", ".1f"),
        median("writes_per_minute", ".0f"),
        median("redis_cpu", ".1%"),
        median("latency_median", ".1f"),
        median("latency_95", ".1f"),
        median("tasks_per_second", ".1f"),
        f"{share:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commit_interval")
    parser.add_argument("--rounds", type=int, default=5, help="how often each interval is run (default 5)")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {
        name: {str(interval): [] for interval in INTERVALS} for name in CASES
    }
    for name, case in CASES.items():
        for _ in range(arguments.rounds):
            for interval in INTERVALS:
                figures = measure(case, interval)
                runs[name][str(interval)].append(asdict(figures))
                print(f"{name}, {interval} ms: {figures}", flush=True)
    machine = {
        "cores": os.cpu_count(),
        "Python": platform.python_version(),
        "redis-server": redis_version(),
        **{name: version(name) for name in ("celery", "redis")},
    }
    found = {"machine": machine, "rounds": arguments.rounds, "load_before": load_before, "runs": runs}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + table(found) + "\n" + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
