"""What examples need to run for real: someone who follows a README, and a command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.servers import ROOT
from tests.kit.tiers import starts
from tests.tutorial.walk import Walk, walk

#: Longest time that one command may take, in seconds.
PATIENCE = 90


@pytest.fixture
def environ(redis_url: str) -> dict[str, str]:
    """What the reader of a README has set."""
    return {**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}


@pytest.fixture
@starts("process")
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
@starts("process")
def follow(redis_url: str, tmp_path: Path) -> Iterator[Callable[[str], Walk]]:
    """Do what the README of an example says, in a copy of the examples, with our Python; its workers live on.

    Each keyword (but for an underscore before it) is replaced by its value, in the README and the configuration.
    """
    env = {**os.environ, "REDIS_URL": redis_url, "LANG": "C.UTF-8"}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "PYTHONPATH"):
        env.pop(name, None)
    copy = tmp_path / "root" / "examples"
    shutil.copytree(ROOT / "examples", copy, ignore=shutil.ignore_patterns("__pycache__", "db.sqlite3*"))
    with walk(copy.parent, env) as walker:

        def follow(example: str, **instead: str) -> Walk:
            for page in (*(copy / example).glob("*.md"), *(copy / example).glob("*.yml")):
                text = page.read_text(encoding="utf-8")
                for words, others in instead.items():
                    text = text.replace(words.removeprefix("_"), others)
                page.write_text(text, encoding="utf-8")
            walker.follow((copy / example / "README.md").read_text(encoding="utf-8"))
            return walker

        yield follow
