"""Runs a load on real workers over a real Redis, and reads what happened from the tasks' own stamps."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis

from tests.kit.servers import redis_binary, redis_server

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Load:
    """One run: workers, limits, and tasks that are all sent before the workers start."""

    name: str
    task: str = "noop"
    count: int = 2000
    seconds: float = 0.0
    limits: dict[str, int] | None = None  # None: plain Celery, without celery-gconc
    empty_step: bool = False  # plain Celery, with a consumer step that does nothing
    pool: str = "prefork"
    concurrency: int = 4
    workers: int = 1
    first: int = 0
    settings: dict[str, object] = field(default_factory=dict)  # further settings of the app
    apart: bool = False  # the coordination Redis is another than the broker
    due_in: float | None = None  # so many seconds after the first is sent, all are due (one ETA); None: at once


@dataclass
class Result:
    """What one run gave. Times in seconds."""

    load: Load
    starts: list[tuple[float, int]] = field(default_factory=list)
    ends: list[tuple[float, int]] = field(default_factory=list)
    commands: float = 0.0  # commands that clients sent, each EVALSHA as one, a task
    scripts: float = 0.0  # EVALSHA a task
    cpu: float = 0.0  # seconds a task that the workers' main processes computed
    by_worker: dict[int, list[float]] = field(default_factory=dict)  # of each worker of children, its tasks' starts

    @property
    def rate(self) -> float:
        """Tasks a second, of the middle nine tenths."""
        ends = sorted(t for t, _ in self.ends)
        skip = len(ends) // 20
        return (len(ends) - 2 * skip - 1) / (ends[-skip - 1] - ends[skip])

    def utilisation(self, limit: int) -> float:
        """Tasks a second, of what the limit allows."""
        return self.rate * self.load.seconds / limit

    @property
    def window(self) -> tuple[float, float]:
        """From when every worker has begun until nine tenths of all tasks have ended."""
        ends = sorted(t for t, _ in self.ends)
        return max(min(starts) for starts in self.by_worker.values()), ends[len(ends) * 9 // 10]

    def busy(self, limit: int) -> float:
        """The share of the limit that was in use, on average of :attr:`window`."""
        begin, end = self.window
        ends = {number: moment for moment, number in self.ends}
        spans = (min(ends[number], end) - max(start, begin) for start, number in self.starts)
        return sum(span for span in spans if span > 0) / (end - begin) / limit

    @property
    def shares(self) -> list[float]:
        """The part of each worker in the tasks of :attr:`window`."""
        begin, end = self.window
        counts = [sum(1 for start in starts if begin <= start < end) for starts in self.by_worker.values()]
        return [count / sum(counts) for count in counts]

    @property
    def displacement_p99(self) -> float:
        """The same as :attr:`displacement`, of all but the hundredth part that were displaced most."""
        order = [number for _, number in sorted(self.starts)]
        return sorted(abs(rank - number) for rank, number in enumerate(order))[len(order) * 99 // 100]

    @property
    def displacement(self) -> float:
        """Median distance of a task's place in the order of starts to its place in the order of sends."""
        order = [number for _, number in sorted(self.starts)]
        return statistics.median(abs(rank - number) for rank, number in enumerate(order))

    @property
    def gap(self) -> float:
        """Median seconds from the end of a task to the start of the next, where one runs at a time."""
        starts, ends = sorted(t for t, _ in self.starts), sorted(t for t, _ in self.ends)
        return statistics.median(start - end for start, end in zip(starts[1:], ends, strict=False))

    @property
    def peak(self) -> int:
        """Most tasks that ran at one instant."""
        running = peak = 0
        for _, step in sorted([(t, 1) for t, _ in self.starts] + [(t, -1) for t, _ in self.ends]):
            running += step
            peak = max(peak, running)
        return peak


def run(load: Load, *, patience: float = 120.0) -> Result:
    """Send the tasks, start the workers, wait for the last task, stop everything."""
    with contextlib.ExitStack() as stack:
        broker = server = stack.enter_context(redis_server())
        if load.apart:
            server = stack.enter_context(redis_server())
        log = stack.enter_context(tempfile.TemporaryDirectory())
        env = environment(load, broker.url, log, server.url)
        send(load, env)
        client = redis.Redis.from_url(server.url)
        workers = [worker_process(load, env, index) for index in range(load.workers)]
        with killed(workers):
            cpu, counted = _wait(load, Path(log), workers, patience, client.config_resetstat)
            stats = client.info("commandstats")
        result = Result(load, *stamps(Path(log)), cpu=cpu, by_worker=by_worker(Path(log)))
        calls = {name.removeprefix("cmdstat_"): item["calls"] for name, item in stats.items()}
        result.scripts = calls.get("evalsha", 0) / counted
        result.commands = sum(calls.get(name, 0) for name in SENT) / counted
        return result


#: What celery-gconc itself sends to Redis: its scripts, and what keeps its subscription alive. (Commands inside
#: scripts count in commandstats too; those are told apart by the name: Celery's own worker calls none of these.)
SENT = ("evalsha", "eval", "subscribe", "client|id", "client|unblock", "info")


def environment(load: Load, broker: str, log: str, coordination: str = "") -> dict[str, str]:
    """What ``benchmarks/app.py`` reads."""
    return {
        **os.environ,
        "BENCH_BROKER": broker,
        "BENCH_COORDINATION": coordination or broker,
        "BENCH_LOG": log,
        "BENCH_LIMITS": json.dumps(load.limits),
        "BENCH_STEP": "empty" if load.empty_step else "",
        "BENCH_SETTINGS": json.dumps(load.settings),
        "PYTHONPATH": str(ROOT),
        "C_FORCE_ROOT": "1",
    }


def stamps(log: Path) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
    """The starts and the ends of tasks: their time in seconds, and their number."""
    starts, ends = [], []
    for path in log.glob("*.log"):
        for line in path.read_text().splitlines():
            kind, number, stamp, _ = line.split()
            (starts if kind == "s" else ends).append((int(stamp) / 1e9, int(number)))
    return starts, ends


def by_worker(log: Path) -> dict[int, list[float]]:
    """When the tasks of each worker started that has children for them, by the worker's process id."""
    found: dict[int, list[float]] = {}
    for path in log.glob("*.log"):
        for line in path.read_text().splitlines():
            kind, _, stamp, worker = line.split()
            if kind == "s":
                found.setdefault(int(worker), []).append(int(stamp) / 1e9)
    return found


@contextlib.contextmanager
def killed(workers: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """End these workers, with all that they started, however the block ends."""
    try:
        yield
    finally:
        for process in workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def send(load: Load, env: dict[str, str]) -> None:
    """Send a load's tasks."""
    eta = "None" if load.due_in is None else f"datetime.now(timezone.utc) + timedelta(seconds={load.due_in})"
    code = (
        "import sys; from benchmarks.app import app, noop, nap\n"
        "from datetime import datetime, timedelta, timezone\n"
        f"eta = {eta}\n"
        f"with app.producer_pool.acquire(block=True) as producer:\n"
        f"    for number in range({load.first}, {load.first + load.count}):\n"
        f"        {load.task}.apply_async(({'number,' if load.task == 'noop' else f'number, {load.seconds}'}), "
        "producer=producer, eta=eta)\n"
    )
    subprocess.run([sys.executable, "-c", code], env=env, check=True, cwd=ROOT)


def worker_process(load: Load, env: dict[str, str], index: int) -> subprocess.Popen[bytes]:
    """Start a worker."""
    command = [
        sys.executable, "-m", "celery", "-A", "benchmarks.app", "worker", "-n", f"bench{index}@local",
        "-P", load.pool, "-c", str(load.concurrency), "-l", "WARNING",
        "--without-mingle", "--without-gossip", "--without-heartbeat",
    ]  # fmt: skip
    return subprocess.Popen(
        command, env=env, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _wait(
    load: Load, log: Path, workers: Sequence[subprocess.Popen[bytes]], patience: float, begin: Callable[[], object]
) -> tuple[float, int]:
    """Wait for the last task; return the CPU time of the main processes for a task, and how many that is of.

    It is looked at, and *begin* called, from when each worker has begun: what the start costs is no task's.
    """
    give_up = time.monotonic() + patience
    first, begun = 0, 0.0
    while time.monotonic() < give_up:
        done = sum(path.read_bytes().count(b"e ") for path in log.glob("*.log"))
        if done and not first and (load.pool != "prefork" or len(by_worker(log)) == len(workers)):
            first, begun = done, _cpu(workers)
            begin()
        if done >= load.count:
            return (_cpu(workers) - begun) / max(done - first, 1), max(done - first, 1)
        if any(process.poll() is not None for process in workers):
            raise RuntimeError(f"{load.name}: a worker has died")
        time.sleep(0.25)
    raise RuntimeError(f"{load.name}: {done} of {load.count} tasks after {patience} s")


def _cpu(workers: Sequence[subprocess.Popen[bytes]]) -> float:
    times = [psutil.Process(worker.pid).cpu_times() for worker in workers]
    return sum(float(one.user + one.system) for one in times)


def idle_commands(seconds: float = 30.0) -> float:
    """How many commands an idle worker's celery-gconc sends to Redis, a minute: to one that only it uses."""
    load = Load("idle worker", limits={"queue:celery": 4})
    with redis_server() as broker, redis_server() as server, tempfile.TemporaryDirectory() as log:
        client = redis.Redis.from_url(server.url)
        with killed([worker_process(load, environment(load, broker.url, log, server.url), 0)]):
            time.sleep(5)
            client.config_resetstat()
            time.sleep(seconds)
            stats = client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): item["calls"] for name, item in stats.items()}
    return sum(calls.get(name, 0) for name in (*SENT, "ping") if name != "info") * 60 / seconds


def redis_version() -> str:
    """The version of the redis-server that is measured on."""
    printed = subprocess.run([redis_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return printed.split("v=")[-1].split()[0]
