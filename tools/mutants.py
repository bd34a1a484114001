"""Break the product on purpose, one breakage at a time (tools/mutants.toml): the tests must catch each.

    python -m tools.mutants               every breakage, as `make mutants` does
    python -m tools.mutants --only gevent    those whose name, or what they break, contains the word
    python -m tools.mutants --jobs 1      one at a time (default 2: most of the time the tests wait)

Each job has a copy of the tracked files of its own, and the tests run there: what they start imports the broken code.
First all tests that are named must pass on a copy that isn't broken. A breakage counts as caught where a test fails or
hangs until its time-out, and not where it can't be collected or set up, or where the broken file is no code any more.
Exit code 1 where a breakage survives.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it there, too

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tools" / "mutants.toml"

#: What a breakage may break, with the word that stands before its name: "guard: no-turns".
KINDS = ("promise", "guard", "pool", "broker", "command", "control", "flower", "metrics")

#: Seconds that the tests of one breakage may take; each test has a time-out of its own.
TIMEOUT = 600

#: The variable by which the processes of a job are known.
JOB = "GCONC_MUTANTS_JOB"

#: What pytest-timeout prints before it ends the whole run.
_TIMEOUT = re.compile(r"^\+{3,} Timeout \+{3,}", re.MULTILINE)

#: What Redis says of a script that is no Lua any more, or goes wrong in each call.
_NO_LUA = re.compile(r"Error compiling script|nonexistent global variable|attempt to (?:call|index|perform)")


@dataclass(frozen=True)
class Mutant:
    """One breakage: what it breaks, the change, and the tests that must catch it."""

    name: str
    breaks: tuple[str, ...]
    file: str
    #: What is replaced: it occurs exactly once in the file.
    find: str
    replace: str
    #: Node ids as pytest takes them, of tests or of files.
    tests: tuple[str, ...]

    def broken(self, root: Path) -> str:
        """The file's text with the change made.

        Raises:
            ValueError: what is to be replaced isn't there exactly once, or what comes of it isn't Python.
        """
        text = (root / self.file).read_text()
        if (count := text.count(self.find)) != 1:
            raise ValueError(f"{self.name}: its text occurs {count} times in {self.file}")
        text = text.replace(self.find, self.replace)
        if self.file.endswith(".py"):
            try:
                compile(text, self.file, "exec")
            except SyntaxError as exc:
                raise ValueError(f"{self.name}: {self.file} can't be compiled any more: {exc}") from exc
        return text


@dataclass(frozen=True)
class Result:
    """What came of a run of pytest: its exit code, output, and report (JUnit's XML; empty where it was cut off)."""

    code: int
    output: str
    report: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a breakage."""

    mutant: Mutant
    #: The tests that failed; empty where it survived.
    caught_by: tuple[str, ...]
    seconds: float


def load(path: Path = LIST) -> tuple[Mutant, ...]:
    """The list of breakages."""
    rows = tomllib.loads(path.read_text())["mutant"]
    return tuple(
        Mutant(row["name"], tuple(row["breaks"]), row["file"], row["find"], row["replace"], tuple(row["tests"]))
        for row in rows
    )


def chosen(mutants: Sequence[Mutant], word: str) -> list[Mutant]:
    """Those with the word in their name, or in what they break."""
    return [one for one in mutants if any(word in text for text in (one.name, *one.breaks))]


class Copy:
    """The tracked files, as they are now, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Python takes a compiled file for a source by its size and its time in seconds: each change has a new one.
        self._changed = int(time.time())
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        (ROOT / ".cache").mkdir(exist_ok=True)  # what tests download is shared
        (folder / ".cache").symlink_to(ROOT / ".cache")

    @contextlib.contextmanager
    def broken(self, mutant: Mutant) -> Iterator[None]:
        """Have the change made meanwhile."""
        path = self.folder / mutant.file
        whole = path.read_text()
        try:
            self._write(path, mutant.broken(self.folder))
            yield
        finally:
            self._write(path, whole)

    def run(self, tests: Sequence[str], *options: str, timeout: float | None = None) -> Result:
        """Run tests here. Nothing that they have started lives on."""
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        env = {**os.environ, "PYTHONPATH": str(self.folder), JOB: str(self.folder)}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *options]
        with (self.folder / "output").open("w+") as output:
            process = subprocess.Popen(
                [*command, f"--junitxml={report}", *tests], cwd=self.folder, env=env,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
                print("\n+++ Timeout +++", file=output)
                code = 1
            finally:
                self._end_all()
            output.seek(0)
            return Result(code, output.read(), report.read_text() if report.exists() else "")

    def imported(self) -> str:
        """Where a process that is started here has the product from."""
        command = [sys.executable, "-c", "import celery_gconc; print(celery_gconc.__file__)"]
        env = {**os.environ, "PYTHONPATH": str(self.folder)}
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, check=True
        ).stdout.strip()

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        self._changed += 1
        os.utime(path, (self._changed, self._changed))

    def _end_all(self) -> None:
        """End what tests that were cut off have left."""
        import psutil  # the tests need it, too

        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(JOB) == str(self.folder):
                    process.kill()


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Break the product on purpose: the tests must catch each breakage.")
    parser.add_argument("--only", default="", metavar="WORD", help="those with the word in name or in what they break")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time (default 2)")
    asked = parser.parse_args()
    mutants = chosen(load(), asked.only)
    if not mutants:
        parser.error(f"no breakage has {asked.only!r} in its name")
    for mutant in mutants:
        mutant.broken(ROOT)  # the list is sound before anything runs
    with tempfile.TemporaryDirectory(prefix="gconc-mutants-") as folder:
        copies: queue.Queue[Copy] = queue.Queue()
        for number in range(min(asked.jobs, len(mutants))):
            (place := Path(folder).resolve() / str(number)).mkdir()
            copies.put(Copy(place))
        if not _pass(copies, mutants, asked.jobs):
            return 1
        outcomes = _break(copies, mutants, asked.jobs)
    survivors = [outcome.mutant.name for outcome in outcomes if not outcome.caught_by]
    _show(outcomes)
    print(f"\n{len(outcomes) - len(survivors)} of {len(outcomes)} caught" + _named("; survived: ", survivors))
    return 1 if survivors else 0


def _pass(copies: queue.Queue[Copy], mutants: Sequence[Mutant], jobs: int) -> bool:
    """Whether the tests pass where nothing is broken, and run the copy's code."""
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    print(f"{len(tests)} tests without a breakage ...", flush=True)

    def some(number: int) -> Result:
        mine = [test for test in tests if test.partition("::")[0] in files[number::jobs]]
        copy = copies.get()
        try:
            if not (found := copy.imported()).startswith(str(copy.folder)):
                return Result(1, f"the product is imported from {found}, and not from the copy")
            return copy.run(mine) if mine else Result(0, "")
        finally:
            copies.put(copy)

    begun = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        failed = [result.output for result in pool.map(some, range(jobs)) if result.code]
    print(f"  {'they fail' if failed else 'they pass'} ({time.monotonic() - begun:.0f} s)", flush=True)
    for output in failed:
        print(output[-5000:])
    return not failed


def _break(copies: queue.Queue[Copy], mutants: Sequence[Mutant], jobs: int) -> list[Outcome]:
    lock = threading.Lock()

    def one(mutant: Mutant) -> Outcome:
        copy = copies.get()
        try:
            with copy.broken(mutant):
                begun = time.monotonic()
                result = copy.run(mutant.tests, "-x", timeout=TIMEOUT)
        finally:
            copies.put(copy)
        outcome = Outcome(mutant, caught(result), time.monotonic() - begun)
        with lock:
            print(f"  {'caught  ' if outcome.caught_by else 'SURVIVED'} {mutant.name}", flush=True)
            if not outcome.caught_by:
                print(f"--- exit code {result.code}\n{result.output[-3000:]}\n---", flush=True)
        return outcome

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, mutants))


def caught(result: Result) -> tuple[str, ...]:
    """The tests that caught a breakage: they failed, or hung until their time-out.

    A fixture that asserts (what several tests look at) is as good as a test; one that can't be set up is not.
    """
    if result.code != 1 or _NO_LUA.search(result.output):
        return ()
    if _TIMEOUT.search(result.output):
        return ("a time-out",)
    cases = ET.fromstring(result.report).iter("testcase") if result.report else ()
    return tuple(str(case.get("name")) for case in cases if any(_is_failure(part) for part in case))


def _is_failure(part: ET.Element) -> bool:
    message = part.get("message", "")
    return part.tag == "failure" or (part.tag == "error" and ("AssertionError" in message or "on teardown" in message))


def _show(outcomes: Sequence[Outcome]) -> None:
    width = max(len(outcome.mutant.name) for outcome in outcomes)
    print()
    for outcome in outcomes:
        by = ", ".join(outcome.caught_by) or "NOTHING"
        print(f"{outcome.mutant.name:{width}}  {outcome.seconds:4.0f} s  {by}")


def _named(what: str, names: Sequence[str]) -> str:
    return what + ", ".join(names) if names else ""


if __name__ == "__main__":
    sys.exit(main())
