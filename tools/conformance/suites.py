"""Celery's test suites, of the version that is to be judged, in a directory and a virtual environment of their own.

Nothing of them is kept in this repository: they come from Celery's source distribution, or from a checkout.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from .errors import ConformanceError

ROOT = Path(__file__).resolve().parents[2]

#: What the suites need besides Celery. pytest-celery brings the nodes, the extras bring the backends that tests import.
EXTRAS = "redis,auth,django,sqlalchemy,pydantic,tblib,msgpack,yaml,pymemcache,azureblockblob,gevent"
NEEDS = (
    "pytest>=9,<10",
    "pytest-celery[memcached]>=1.3",
    "pytest-rerunfailures>=16",
    "pytest-timeout>=2.4",
    "pytest-click>=1.1",
    "pytest-order>=1.3",
    "pytest-subtests>=0.15",
    "freezegun>=1.5",
    "psutil>=5.9",
)

#: The brokers that the suites can be run with here.
BROKERS = ["redis", "rabbitmq"]

#: Where each suite is in Celery's sources, and how many of its tests run in one pytest process.
FOLDERS = {"integration": "t/integration", "smoke": "t/smoke/tests"}
TESTS_PER_JOB = {"integration": 20, "smoke": 6}


@dataclass(frozen=True)
class Suites:
    """The suites, ready to run."""

    version: str
    tree: Path  # holds t/, and no celery/, so that the installed Celery is what is tested
    project: Path  # a copy of this repository, so that it may change while the suites run
    venv: Path

    @property
    def python(self) -> Path:
        """The Python that the suites run in."""
        return self.venv / "bin" / "python"

    def env(self, mode: str, broker: str, marks: Path, scratch: Path) -> dict[str, str]:
        """The environment of a run in one mode."""
        scratch.mkdir(parents=True, exist_ok=True)
        inherited = {n: v for n, v in os.environ.items() if not n.startswith(("PYTEST_", "CELERY_", "TEST_"))}
        return {
            **inherited,
            "PATH": f"{self.venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.project),
            "PYTHONDONTWRITEBYTECODE": "1",
            "C_FORCE_ROOT": "1",
            "WORKER_LOGLEVEL": "INFO",  # two integration tests read the worker's log; earlier files would set it
            "TMPDIR": str(scratch),
            "CONFORMANCE_MODE": mode,
            "CONFORMANCE_MARKS": str(marks),
            "CONFORMANCE_BROKERS": "redis rabbitmq" if broker == "redis" else "rabbitmq redis",
        }  # fmt: skip

    def jobs(self, suite: str, broker: str, scratch: Path, select: str | None = None) -> dict[str, list[str]]:
        """The tests of a suite in handfuls, by name; *select* is an expression as for ``pytest -k``."""
        command = [self.python, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", "--collect-only", "-q"]
        if select:
            command += ["-k", select]
        env = {
            **self.env("plain", broker, Path(os.devnull), scratch),
            "TEST_BROKER": "redis://",
            "TEST_BACKEND": "redis://",
        }
        done = subprocess.run(
            [*command, FOLDERS[suite]], cwd=self.tree, env=env, capture_output=True, text=True, check=False
        )
        found = [line for line in done.stdout.splitlines() if "::" in line and line.startswith("t/")]
        if done.returncode not in (0, 5):
            raise ConformanceError(
                f"Celery's {suite} suite can't be collected:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        jobs: dict[str, list[str]] = {}
        files: dict[str, list[str]] = {}
        for test in found:
            files.setdefault(test.split("::")[0], []).append(test)
        size = TESTS_PER_JOB[suite]
        for file, tests in files.items():
            stem = file.removeprefix(FOLDERS[suite] + "/").removesuffix(".py").replace("/", "-")
            for start in range(0, len(tests), size):
                jobs[f"{stem}-{start // size:02d}" if len(tests) > size else stem] = tests[start : start + size]
        return jobs


def prepare(work: Path, version: str, source: Path | None) -> Suites:
    """Get the suites of a Celery version (or of a checkout) and make the virtual environment that they run in.

    Raises:
        ConformanceError: they can't be had; the message says what to do.
    """
    base = work / f"celery-{version}"
    base.mkdir(parents=True, exist_ok=True)
    venv = base / "venv"
    wanted = [f"celery[{EXTRAS}]=={version}", *NEEDS]
    if not (venv / "ready").exists() or (venv / "ready").read_text().splitlines() != wanted:
        print(f"Installing what Celery {version}'s suites need ...", flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        _run([sys.executable, "-m", "venv", venv])
        _pip(venv, "install", *wanted)
        (venv / "ready").write_text("\n".join(wanted))
    if source is None:
        source = base / "source" / f"celery-{version}"
        if not source.exists():
            print(f"Downloading the sources of Celery {version} ...", flush=True)
            source.parent.mkdir(parents=True, exist_ok=True)
            _pip(venv, "download", "--no-deps", "--no-binary", ":all:", f"celery=={version}", "-d", source.parent)
            (archive,) = source.parent.glob("celery-*.tar.gz")
            with tarfile.open(archive) as tar:
                if sys.version_info >= (3, 12):
                    tar.extractall(source.parent, filter="data")
                else:
                    tar.extractall(source.parent)
    if not (source / "t" / "integration").is_dir():
        raise ConformanceError(f"{source} has no t/integration: --source takes a checkout of Celery {version}")
    suites = Suites(version, _fresh(base / "tree"), _fresh(base / "project"), venv)
    shutil.copytree(source / "t", suites.tree / "t")
    shutil.copy(source / "pyproject.toml", suites.tree)
    stock = suites.tree / "t" / "smoke" / "conftest.py"
    stock.rename(stock.with_name("stock_conftest.py"))
    shutil.copy(Path(__file__).with_name("smoke_conftest.py"), stock)
    for name in ("celery_gconc", "tests", "tools"):
        shutil.copytree(ROOT / name, suites.project / name, ignore=shutil.ignore_patterns("__pycache__", "test_*.py"))
    return suites


def installed_celery() -> str:
    """The version of the Celery that this Python has."""
    try:
        from importlib.metadata import version

        return re.sub(r"\+.*", "", version("celery"))
    except ImportError:
        raise ConformanceError("there is no Celery here: run this in the project's environment") from None


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _pip(venv: Path, *arguments: str | Path) -> None:
    _run([venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments])


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConformanceError(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
