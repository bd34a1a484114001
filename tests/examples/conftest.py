"""What examples need to run for real: workers in processes of their own, and a command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Longest time that one command may take, in seconds.
PATIENCE = 90


@pytest.fixture
def environ(redis_url: str) -> dict[str, str]:
    """What the reader of a README has set."""
    return {**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def run(environ: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m ...`` to its end."""

    def run(*command: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in {**environ, **variables}.items() if value is not None}
        command = (sys.executable, "-m", *command)
        return subprocess.run(
            command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    return run


@pytest.fixture
def start_workers(environ: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Start two workers of 4 processes each for an app, each with its own queue if named; they end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start_workers(app: str, *queues: str) -> None:
        for name, queue in zip(("w1", "w2"), queues or (None, None), strict=True):
            command = [sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{name}@test", "-c", "4"]
            command += ["-Q", queue] if queue else []
            with (tmp_path / f"{name}.log").open("w") as log:
                process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
                started.append(process)

    yield start_workers
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
