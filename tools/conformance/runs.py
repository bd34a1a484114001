"""Runs jobs in several cells side by side, and tells how it goes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ConformanceError
from .results import read
from .suites import Suites

#: The namespaces that a cell has to itself: ports, process table (tests count the processes called "celery"), and
#: with the first process of it everything ends.
UNSHARE = ("unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")

NO_NAMESPACES = """\
No network namespaces here (this needs Linux, `unshare` from util-linux, and root or user namespaces that are allowed):
the suites run on free ports of this machine instead. Tests that count processes or need default ports may fail in all
modes. To have namespaces, run as root, or allow them: sysctl kernel.unprivileged_userns_clone=1."""


@dataclass(frozen=True)
class Isolation:
    """How cells are kept apart."""

    prefix: tuple[str, ...]

    @property
    def namespaces(self) -> bool:
        """Whether cells have namespaces of their own."""
        return bool(self.prefix)

    @classmethod
    def best(cls) -> Isolation:
        """Namespaces as root, or as a user who is root in them, or nothing."""
        for prefix in (UNSHARE, (*UNSHARE, "--user", "--map-root-user")):
            with contextlib.suppress(OSError):
                if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
                    return cls(prefix)
        return cls(())


class Cell:
    """A process of ``tools.conformance.cell`` that takes one job after another."""

    def __init__(
        self, suites: Suites, isolation: Isolation, env: Mapping[str, str], broker: str, servers: bool
    ) -> None:
        command = [*isolation.prefix, str(suites.python), "-m", "tools.conformance.cell", "--broker", broker]
        command += ["--servers"] * servers + ["--isolated"] * isolation.namespaces
        self.process = subprocess.Popen(
            command, cwd=suites.project, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def run(self, job: Mapping[str, object]) -> dict[str, float]:
        """Run one job.

        Raises:
            ConformanceError: the cell died.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            raise ConformanceError("a cell ended: its servers didn't start; what they said stands above")
        return json.loads(answer)

    def kill(self) -> None:
        """End it and all that it started, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let it end its servers."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self.process.communicate(timeout=30)
        if self.process.poll() is None:
            self.kill()
            self.process.wait()


@dataclass
class _Line:
    """The jobs of one run, and the threads that take them; each thread feeds one cell."""

    suites: Suites
    isolation: Isolation
    suite: str
    broker: str
    mode: str
    folder: Path
    say: Callable[[str], None]
    count: int
    waiting: queue.Queue[tuple[str, list[str]]] = field(default_factory=queue.Queue)
    done: int = 0
    failed: list[BaseException] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, number: int) -> None:
        """Run jobs in a cell until there are no more."""
        scratch = self.folder / f"scratch-{number}"
        env = self.suites.env(self.mode, self.broker, self.folder / "marks", scratch)
        try:
            with _cell(self.suites, self.isolation, env, self.broker, servers=self.suite == "integration") as cell:
                self.cells.append(cell)
                while not self.failed:
                    self.run(cell, *self.waiting.get_nowait())
        except queue.Empty:
            pass
        except Exception as exc:  # noqa: BLE001  # handed to the caller's thread
            self.failed.append(exc)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def run(self, cell: Cell, name: str, tests: list[str]) -> None:
        """Run one job, and say how it went."""
        plugin = ["-p", "tools.conformance.plugin"] if self.suite == "integration" else []
        xml = self.folder / f"{name}.xml"
        job = {
            "directory": str(self.suites.tree), "xml": str(xml), "log": str(self.folder / f"{name}.log"),
            "arguments": [*plugin, *tests],
        }  # fmt: skip
        answer = cell.run(job)
        with self.lock:
            self.done += 1
            self.say(f"[{self.done}/{self.count}] {name}: {_count(xml, len(tests))}, {answer['seconds']:.0f} s")


def run_jobs(
    suites: Suites,
    isolation: Isolation,
    *,
    suite: str,
    broker: str,
    mode: str,
    jobs: Mapping[str, list[str]],
    folder: Path,
    shards: int,
    say: Callable[[str], None],
) -> float:
    """Run all *jobs* in *shards* cells; their XML and logs are in *folder* then. Returns the seconds it took."""
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    line = _Line(suites, isolation, suite, broker, mode, folder, say, len(jobs))
    for item in jobs.items():
        line.waiting.put(item)
    threads = [threading.Thread(target=line.work, args=(number,)) for number in range(min(shards, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException as exc:  # Ctrl-C: what runs in the cells must not go on alone
        line.failed.append(exc)
        for cell in line.cells:
            cell.kill()
        raise
    if line.failed:
        raise line.failed[0]
    return time.monotonic() - began


@contextlib.contextmanager
def _cell(
    suites: Suites, isolation: Isolation, env: Mapping[str, str], broker: str, *, servers: bool
) -> Iterator[Cell]:
    cell = Cell(suites, isolation, env, broker, servers)
    try:
        yield cell
    finally:
        cell.close()


def _count(xml: Path, expected: int) -> str:
    statuses = [outcome.status for outcome in read(xml).values()]
    statuses += ["missing"] * (expected - len(statuses))
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))


def cores() -> int:
    """How many cells are reasonable: most of their time is waiting."""
    return max(2, min(4, (os.cpu_count() or 2)))
