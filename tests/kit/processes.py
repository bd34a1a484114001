"""How processes of tests start and end: the one way for workers and commands, whichever kit asks for them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.kit import warm

#: What every worker that tests start is told: they wait for no other worker, and say what they do.
WORKER_OPTIONS = ("-l", "INFO", "--without-mingle", "--without-gossip")


def celery(app: str, *arguments: str) -> list[str]:
    """The celery command of an app, as a person at a shell gives it."""
    return [sys.executable, "-m", "celery", "-A", app, *arguments]


def launch(
    command: list[str], log: Path, *, cwd: Path, env: Mapping[str, str], cold: bool = False, append: bool = False
) -> subprocess.Popen[bytes]:
    """Start a process that leads a group of its own; all that it says goes into *log*."""
    start = subprocess.Popen if cold else warm.popen
    with log.open("ab" if append else "wb") as output:
        return start(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def kill(process: subprocess.Popen[Any]) -> None:
    """End the leader of a group and all of its group at once, as the OOM killer or a lost machine would."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)
