"""Workers and commands of a small project as a person starts them at a shell, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.kit import warm
from tests.kit.processes import WORKER_OPTIONS, celery, kill, launch
from tests.kit.servers import ROOT, wait_until


@dataclass
class Shell:
    """A folder, and an app that is started there."""

    folder: Path
    module: str
    conf: dict[str, object] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "TEST_CONF": json.dumps(self.conf),
            "TEST_DATABASE": str(self.folder / "db.sqlite3"),
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)]),
            "PYTHONWARNINGS": "ignore",
            "C_FORCE_ROOT": "1",
            "COLUMNS": "200",
            **self.env,
        }

    def run(self, *arguments: str, seconds: float = 90) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments."""
        return warm.run([sys.executable, *arguments], cwd=self.folder, env=self.environment, timeout=seconds)

    def celery(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a celery command."""
        return self.run(*celery(self.module, *arguments)[1:])

    @contextmanager
    def worker(self, *arguments: str, until: str = " ready.") -> Iterator[Worker]:
        """A worker that runs, and has said so."""
        log = self.folder / "worker.log"
        command = celery(self.module, "worker", *WORKER_OPTIONS, *arguments)
        process = launch(command, log, cwd=self.folder, env=self.environment)
        worker = Worker(process, log)
        try:
            wait_until(lambda: until in worker.output() or process.poll() is not None, 60, "the worker is ready")
            assert process.poll() is None, worker.output()
            yield worker
        finally:
            kill(process)


@dataclass
class Worker:
    """One that was started at a shell."""

    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def ours(self) -> list[str]:
        """The lines of its log that are ours."""
        return [line for line in self.output().splitlines() if "gconc" in line]
