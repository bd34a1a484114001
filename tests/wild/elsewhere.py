"""Workers and commands on systems that this one is not, as far as they can be had by taking functions away."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.kit.servers import ROOT
from tests.kit.workers import Cluster

#: Where the ``sitecustomize`` is that takes away what a system doesn't have.
TAKES_AWAY = Path(__file__).parent / "taken_away"


def env_of(system: str) -> dict[str, str]:
    """What makes a Python one of *system* (Windows, macOS)."""
    return {"TEST_SYSTEM": system, "PYTHONPATH": f"{TAKES_AWAY}:{ROOT}"}


def python(system: str, code: str, env: dict[str, str], timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run Python code there."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env={**env, **env_of(system)}, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


@dataclass
class ElsewhereCluster(Cluster):
    """A cluster whose workers and commands are elsewhere."""

    system: str = ""
    more_env: tuple[tuple[str, str], ...] = ()

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, **(env_of(self.system) if self.system else {}), **dict(self.more_env)}
