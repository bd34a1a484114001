"""Three real worker processes and the ``celery`` commands of an operator, each in a process group of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .problem import Problem

#: The workers' names; each appears to Celery as ``<name>@demo``.
NAMES = ("w1", "w2", "w3")

#: Tasks that one worker would run at once, were it not for the limit.
LOCAL = 4

#: How long workers may take to stop by themselves, in seconds.
GRACE = 3.0

_ROOT = Path(__file__).resolve().parents[2]


class Workers:
    """The processes that the demo starts. Leaving the ``with`` block ends them all."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        path = os.pathsep.join(part for part in (str(_ROOT), environ.get("PYTHONPATH")) if part)
        self._environ = {**environ, "PYTHONPATH": path}
        self._folder = folder
        self._workers: dict[str, subprocess.Popen[str]] = {}
        self._commands: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            for process in self._workers.values():
                process.terminate()
            deadline = time.monotonic() + GRACE
            for process in self._workers.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for process in (*self._workers.values(), *self._commands):
                _kill(process)

    def start(self) -> None:
        """Start the workers; :meth:`check` tells if one fails."""
        for name in NAMES:
            arguments = ["worker", "-n", f"{name}@demo", "-P", "prefork", "-c", str(LOCAL), "-Q", "emails"]
            with self._log(name).open("w", encoding="utf-8") as log:
                self._workers[name] = self._celery(*arguments, "--loglevel", "WARNING", output=log.fileno())

    def check(self) -> None:
        """Raise Problem if a worker has ended that the demo didn't kill."""
        for name, process in self._workers.items():
            if process.poll() is not None:
                lines = self._log(name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise Problem(f"worker {name} ended with exit code {process.returncode}: {lines[-1] if lines else ''}")

    def kill(self, name: str) -> None:
        """SIGKILL a worker and its pool, as a machine that loses its power would."""
        _kill(self._workers.pop(name))

    def set_limit(self, limit: int) -> subprocess.Popen[str]:
        """Give the command that sets the limit, as one would at the shell; returns at once."""
        process = self._celery("control", *set_limit_command(limit), output=subprocess.PIPE)
        self._commands.append(process)
        return process

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _celery(self, *arguments: str, output: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "examples.demo.app", *arguments],
            env=self._environ,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def set_limit_command(limit: int) -> tuple[str, ...]:
    """What follows ``celery -A ... control``."""
    return ("set_global_concurrency", "emails", str(limit))


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
