"""Check the protocol's model (model) with spin: exhaustively, and with each guard taken out.

    python tools/model.py                  every configuration and every mutation, as `make model` does
    python tools/model.py --only units     those whose names contain the word
    python tools/model.py --trace NAME     the steps that lead to what spin found in one of them

A configuration must hold in all its states; a mutation must be found out. Exit code 1 where one doesn't, 2 where spin
or gcc is missing. Nothing is installed, and nothing is left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODELS = Path(__file__).resolve().parent.parent / "model"

#: MB that one run of the checker may use; two run at a time.
MEMORY = 1900

#: Seconds that one run may take.
TIMEOUT = 600

#: Most steps of a run; one that is longer counts as not exhaustive.
DEPTH = 3_000_000


@dataclass(frozen=True)
class Run:
    """One search: a model with macros set, a line of runs.json or next.json."""

    name: str
    model: str
    macros: str
    #: What may go wrong in it; of a mutation, the configuration that it belongs to.
    what: str
    #: The property that must hold; empty for a mutation.
    promise: str = ""
    #: The guard that is taken out, in words; empty for a configuration.
    takes_out: str = ""
    #: Whether it looks for runs that never come to something (with weak fairness), and not only for bad states.
    liveness: bool = False

    @property
    def options(self) -> list[str]:
        """The macros as spin takes them."""
        return [f"-D{macro}" for macro in self.macros.split()]


#: The searches: of the protocol as it is, and of what comes next and has no code yet.
FILES = ("runs.json", "next.json")


def all_runs() -> list[Run]:
    """Every configuration, then every mutation."""
    texts = [json.loads((MODELS / file).read_text(encoding="utf-8")) for file in FILES]
    return [Run(**fields) for group in ("configurations", "mutations") for text in texts for fields in text[group]]


@dataclass(frozen=True)
class Outcome:
    """What spin said of one run."""

    run: Run
    states: int = 0
    depth: int = 0
    seconds: float = 0.0
    #: What was found: an assertion, or a cycle; empty = nothing.
    found: str = ""
    #: Why the run says nothing: out of memory, of time, of depth; empty = it was exhaustive.
    failed: str = ""

    @property
    def is_good(self) -> bool:
        """Whether a configuration holds, or a mutation was found."""
        if self.failed:
            return False
        return bool(self.found) == bool(self.run.takes_out)

    @property
    def result(self) -> str:
        """In words, for the table."""
        if self.failed:
            return self.failed
        if self.run.takes_out:
            return f"found: {self.found}" if self.found else "NOT FOUND"
        return f"VIOLATED: {self.found}" if self.found else "holds"


def missing() -> str:
    """One line on what is missing here; empty where all is there."""
    for program, package in (("spin", "spin"), ("gcc", "gcc")):
        if shutil.which(program) is None:
            return (
                f"{program} is missing: install the Debian package {package} (sh tools/install.sh spin gcc libc6-dev)."
            )
    return ""


@contextmanager
def built(run: Run) -> Iterator[Path]:
    """A folder with the checker for one run, made and removed."""
    with tempfile.TemporaryDirectory(prefix="gconc-model-") as name:
        folder = Path(name)
        for part in MODELS.glob(f"{run.model}*.pml"):
            shutil.copy(part, folder)
        options = ["-DSAFETY", "-DNOCLAIM"] if not run.liveness else ["-DNFAIR=7"]
        _call(["spin", "-a", *run.options, f"{run.model}.pml"], folder)
        # A mutation is found soon, a configuration searched to the end: what counts is the compiler, or what it makes.
        # COLLAPSE stores states in less memory, each of them whole: no hashing away.
        level = "-O0" if run.takes_out else "-O1"
        flags = ["-w", "-DCOLLAPSE", "-DVECTORSZ=4096", f"-DMEMLIM={MEMORY}", *options]
        _call(["gcc", level, *flags, "-o", "pan", "pan.c"], folder)
        yield folder


def _call(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode or "Error" in done.stdout:
        raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2000:]}")


def search(run: Run, folder: Path) -> Outcome:
    """Run the checker and read what it says."""
    command = ["./pan", f"-m{DEPTH}", "-w22", *(["-a", "-f"] if run.liveness else [])]
    began = time.monotonic()
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(run, seconds=time.monotonic() - began, failed=f"NOT DONE in {TIMEOUT} s")
    seconds, text = time.monotonic() - began, done.stdout
    states = re.search(r"^\s*(\d+) states, stored", text, re.MULTILINE)
    depth = re.search(r"depth reached (\d+)", text)
    failed = ""
    if "max search depth too small" in text:
        failed = "NOT EXHAUSTIVE: too deep"
    elif "out of memory" in text or ("Search not completed" in text and "errors: 0" in text):
        failed = f"NOT EXHAUSTIVE: more than {MEMORY} MB"
    elif states is None:
        failed = f"NO ANSWER: {(text + done.stderr)[-300:]}"
    found = re.search(r"^pan:\d+: (.*?) \(at depth (\d+)\)", text, re.MULTILINE)
    what = ""
    if found:
        what, failed = f"{_words(found[1])}, at depth {found[2]}", ""
    return Outcome(run, int(states[1]) if states else 0, int(depth[1]) if depth else 0, seconds, what, failed)


def _words(found: str) -> str:
    if found.startswith("acceptance cycle"):
        return "waits forever"
    if "invalid end state" in found:
        return "nothing can happen any more"
    what = found.removeprefix("assertion violated").strip()
    for part, words in (
        ("gb[", "a unit is used that Redis doesn't count"),
        ("used[0]", "more than max are running"),
        ("told==r", "Redis has other requests than it was told"),
        ("moved", "a message leaves a worker although nobody has room"),
        ("lossy", "an epoch begun without need"),
        ("roomy[i]", "a grant to a session without room"),
        ("waits[q]", "enough is free, and a waiter is neither served nor asked"),
        ("at[2]==1", "a younger one passes a heavier one"),
        ("at[i]", "one that stands in line passes one that came before"),
        ("settled", "a task that isn't counted starts under an open limit"),
        ("trust[", "Redis ends a lease that its worker trusts"),
        ("last[", "a lease ends late although somebody waits"),
        ("task[", "a limit opens while a task that isn't counted runs"),
    ):
        if part in what:
            return words
    return what


def check(run: Run) -> Outcome:
    """Build and search one configuration or mutation."""
    with built(run) as folder:
        return search(run, folder)


def check_all(runs: Iterable[Run], jobs: int) -> list[Outcome]:
    """Check each, so many at a time; those that fail are told at once, on stderr."""
    outcomes = []
    with ThreadPoolExecutor(jobs) as threads:
        for outcome in threads.map(check, runs):
            outcomes.append(outcome)
            print(
                "." if outcome.is_good else f"\n{outcome.run.name}: {outcome.result}",
                end="",
                file=sys.stderr,
                flush=True,
            )
    print(file=sys.stderr)
    return outcomes


def table(outcomes: Iterable[Outcome]) -> str:
    """Two tables in Markdown: what holds, and what is found when a guard is taken out."""
    outcomes = list(outcomes)
    lines = []
    configurations = [outcome for outcome in outcomes if not outcome.run.takes_out]
    mutations = [outcome for outcome in outcomes if outcome.run.takes_out]
    if configurations:
        lines += [
            "| configuration | property | states | depth | time | result |",
            "| --- | --- | ---: | ---: | ---: | --- |",
        ]
        lines += [
            f"| {o.run.name}: {o.run.what} | {o.run.promise} | {o.states:,} | {o.depth:,} | {o.seconds:.1f} s "
            f"| {o.result} |"
            for o in configurations
        ]
    if mutations:
        lines += ["", "| removed | in | states | time | result |", "| --- | --- | ---: | ---: | --- |"]
        lines += [
            f"| {o.run.takes_out} | {o.run.name}: {o.run.what} | {o.states:,} | {o.seconds:.1f} s | {o.result} |"
            for o in mutations
        ]
    return "\n".join(lines).strip()


def trace(run: Run) -> str:
    """The steps to what was found in a run: each process's guard, and the variables that it changed."""
    with built(run) as folder:
        outcome = search(run, folder)
        if not outcome.found:
            return f"{run.name}: {outcome.result}"
        # A shorter one, if there is one within reach: what a reader can follow.
        if not run.liveness:
            subprocess.run(
                ["./pan", "-i", "-m400", "-w22"], cwd=folder, capture_output=True, timeout=TIMEOUT, check=False
            )
        command = ["spin", *run.options, "-t", "-p", "-g", f"{run.model}.pml"]
        steps = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False).stdout
    lines, known, changed, last = [outcome.result], dict[str, str](), dict[str, str](), ""
    for line in steps.splitlines():
        if line.startswith("#processes"):
            break
        if step := re.match(r"\s*(\d+):\s+proc\s+(\d+) \((\w+):1\) \S+ \(state \d+\)\s*(\[.*\])?", line):
            if step[1] != last:
                lines += [" ".join(f"{name}={value}" for name, value in changed.items() if known.get(name) != value)]
                known |= changed
                changed, last = {}, step[1]
                lines += [f"{step[1]:>4} {step[3]} {step[2]}: {(step[4] or '')[:110]}"]
        elif value := re.match(r"\s+(\w{2,}\S*) = (\d+)", line):
            changed[value[1]] = value[2]
    lines += [" ".join(f"{name}={value}" for name, value in changed.items() if known.get(name) != value)]
    return "\n".join(line if re.match(r" *\d", line) else f"       {line}" for line in lines if line)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", metavar="WORD", help="only the runs whose names contain it")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="how many at a time (2)")
    parser.add_argument("--trace", metavar="NAME", help="show the steps to what spin finds in this run")
    parser.add_argument("--list", action="store_true", help="only name the runs")
    chosen = parser.parse_args(arguments)
    if says := missing():
        print(says, file=sys.stderr)
        return 2
    runs = [run for run in all_runs() if chosen.only is None or chosen.only in run.name]
    if chosen.trace:
        runs = [run for run in runs if run.name == chosen.trace]
    if not runs:
        print("no such run: --list names them all", file=sys.stderr)
        return 2
    if chosen.list:
        print("\n".join(run.name for run in runs))
        return 0
    if chosen.trace:
        print(trace(runs[0]))
        return 0
    outcomes = check_all(runs, chosen.jobs)
    print(table(outcomes))
    bad = [outcome for outcome in outcomes if not outcome.is_good]
    for outcome in bad:
        print(
            f"{outcome.run.name}: {outcome.result} (python tools/model.py --trace {outcome.run.name})", file=sys.stderr
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
