"""What examples need to run for real: someone who follows a README, and a command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kit.namespace import empty_namespace
from tests.kit.servers import ROOT, redis_server
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


@dataclass
class Walks:
    """Follows the READMEs of examples in a copy of them, with our Python: some at a time, for they mostly wait.

    Each has a Redis of its own, as their workers would share limits. What a README has started lives on.
    """

    folder: Path
    readers: ThreadPoolExecutor
    stack: ExitStack
    walked: dict[str, Future[Walk]] = field(default_factory=dict)

    def begin(self, example: str, instead: Mapping[str, str]) -> None:
        """Follow one as soon as a reader is free, with each word of *instead* replaced in README and configuration."""
        self.walked[example] = self.readers.submit(self._follow, example, instead)

    def of(self, example: str) -> Walk:
        """Whoever has followed it, to the end."""
        return self.walked[example].result()

    def root(self, example: str) -> Path:
        """The copy of the repository's root for it."""
        return self.folder / example

    def _follow(self, example: str, instead: Mapping[str, str]) -> Walk:
        url = self.stack.enter_context(redis_server()).url
        empty_namespace(url)
        env = {**os.environ, "REDIS_URL": url, "LANG": "C.UTF-8", "PIP_DISABLE_PIP_VERSION_CHECK": "yes"}
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
        for name in ("COLUMNS", "LINES", "FORCE_COLOR", "PYTHONPATH"):
            env.pop(name, None)
        copy = self.root(example) / "examples"
        shutil.copytree(ROOT / "examples", copy, ignore=shutil.ignore_patterns("__pycache__", "db.sqlite3*"))
        for page in (*(copy / example).glob("*.md"), *(copy / example).glob("*.yml")):
            text = page.read_text(encoding="utf-8")
            for words, others in instead.items():
                text = text.replace(words, others)
            page.write_text(text, encoding="utf-8")
        walker = self.stack.enter_context(walk(copy.parent, env))
        walker.follow((copy / example / "README.md").read_text(encoding="utf-8"))
        return walker


@contextmanager
def following(folder: Path, readers: int) -> Iterator[Walks]:
    """Someone who follows READMEs; what they started ends with them."""
    with ExitStack() as stack, ThreadPoolExecutor(readers) as threads:
        try:
            yield Walks(folder, threads, stack)
        finally:
            threads.shutdown(cancel_futures=True)
