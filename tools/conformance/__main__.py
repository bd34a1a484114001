"""``python -m tools.conformance``: run Celery's suites without and with celery-gconc, compare, write the page.

Exit code 1: something passes without celery-gconc and fails with it. 2: the suites could not be run.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import itertools
import platform
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import celery_gconc
from tests.kit.servers import NoRabbitMQBinary, rabbitmq_binary

from . import results
from .errors import ConformanceError
from .modes import LIMITS
from .report import write
from .results import Alone, Difference, Run
from .runs import NO_NAMESPACES, Isolation, cores, run_jobs
from .suites import BROKERS, FOLDERS, ROOT, Suites, installed_celery, prepare

#: Where suites, environments and results go: not in version control.
WORK = ROOT / ".cache" / "conformance"
PAGE = ROOT / "docs" / "explanation" / "conformance.md"

#: Where the results of ``--subset`` are, within the results folder. Those of ``--only`` are on no page.
SUBSET_FOLDER = "subset"

#: How often a test that failed is run alone in each mode, to tell breakage from chance.
ALONE = 3

#: In a mode where one task runs at once, tests whose tasks wait for each other can't pass: it is told, not judged.
TOLD_ONLY = {"one"}

#: Some tests of each kind of thing that the integration suite does, for ``--subset``: under a minute.
SUBSET = """
test_simple_call test_trace_log_arguments test_task_retried_once_with_expires test_fail_with_unpickleable
test_apply_async_time_limits_override test_replaced_task_nesting_level_0 test_asyncresult_get_cancels_subscription
test_simple_chain test_chain_on_error test_group_in_center_of_chain test_task_replaced_with_chain
test_chord_on_error test_chain_chord_chain_chord test_nested_group_chord_body_chain
test_group_results_reach_the_next_group[False-False-False-1] test_group_results_reach_the_next_group[True-True-True-2]
test_task_received_has_access_to_stamps
test_report_with_multiserver test_active_queues test_task_accepted
"""


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; returns the exit code."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: the cells end too
    try:
        return _run(options)
    except ConformanceError as exc:
        print(f"conformance: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.conformance", description=__doc__)
    add = parser.add_argument
    add("--suite", action="append", choices=list(FOLDERS), help="which suites (default: all)")
    add("--broker", action="append", choices=BROKERS, help="which brokers (default: all)")
    add("--mode", action="append", choices=list(LIMITS), help="how celery-gconc is installed (default: plain, wide)")
    add("--only", metavar="EXPR", help="only tests that this expression selects, as for pytest -k; writes no page")
    add("--subset", action="store_true", help="only a few tests of each kind, in under a minute; for the next page")
    add("--shards", type=int, default=cores(), metavar="N", help="how many run side by side (default: %(default)s)")
    add("--source", type=Path, metavar="PATH", help="a checkout of Celery, instead of its source distribution")
    add("--work", type=Path, default=WORK, metavar="DIR", help="where suites and environments go")
    add("--results", type=Path, metavar="DIR", help="where raw results go (default: under the work directory)")
    add("--reuse", action="store_true", help="take runs that are complete in the results directory as they are")
    add("--note", metavar="TEXT", default="", help="what the page is to say of this call's runs")
    add("--page", type=Path, default=PAGE, metavar="FILE", help="the page to write")
    options = parser.parse_args(arguments)
    if options.shards < 1:
        parser.error("--shards must be at least 1")
    if options.only and options.subset:
        parser.error("--only and --subset exclude each other")
    return options


def _run(options: argparse.Namespace) -> int:
    select = " or ".join(SUBSET.split()) if options.subset else options.only
    modes = list(dict.fromkeys(["plain", *(options.mode or ["wide"])]))
    # The few tests of the subset all pass: those that don't are run without celery-gconc too, the others needn't be.
    wanted = modes[1:] if options.subset else modes
    brokers = options.broker or (["redis"] if options.subset else BROKERS)
    chosen = options.suite or (["integration"] if options.subset else list(FOLDERS))
    _look_for_servers(brokers)
    folder = (options.results or options.work / "results").resolve()
    if select:
        folder = folder / (SUBSET_FOLDER if options.subset else "selection")
    isolation = Isolation.best()
    if not isolation.namespaces:
        print(NO_NAMESPACES, file=sys.stderr)
    failed = False
    with _only_one(options.work.resolve()) as work:
        suites = prepare(work, installed_celery(), options.source)
        for suite, broker in itertools.product(chosen, brokers):
            jobs = suites.jobs(suite, broker, work / "scratch", select)
            if not jobs:
                print(f"{suite}, {broker}: no tests are selected", flush=True)
                failed |= options.subset  # all of these are there
                continue
            runs = {mode: _one(options, suites, isolation, suite, broker, mode, jobs, folder) for mode in wanted}
            runs.setdefault("plain", Run(suite, broker, "plain", folder))
            for mode in modes[1:]:
                failed |= _compare(suites, isolation, runs["plain"], runs[mode], jobs, reuse=options.reuse)
    if select is None:
        _write_page(folder, options.page)
    return int(failed)


def _look_for_servers(brokers: list[str]) -> None:
    if shutil.which("redis-server") is None:
        raise ConformanceError("no redis-server on the path: install it")
    try:
        if "rabbitmq" in brokers:
            rabbitmq_binary()
    except NoRabbitMQBinary as exc:
        raise ConformanceError(f"{exc}: install rabbitmq-server, or leave it out with --broker redis") from None


@contextlib.contextmanager
def _only_one(work: Path) -> Iterator[Path]:
    """The work directory, locked: each call makes the trees in it anew."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConformanceError(f"another call uses {work}: wait for it, or give --work DIR") from None
        yield work


def _one(
    options: argparse.Namespace,
    suites: Suites,
    isolation: Isolation,
    suite: str,
    broker: str,
    mode: str,
    jobs: Mapping[str, list[str]],
    folder: Path,
) -> Run:
    """Run one suite on one broker in one mode, or take the run that is there."""
    own = folder / f"{suite}-{broker}-{mode}"
    if options.reuse and (found := results.load(own)) is not None and found.info["celery"] == suites.version:
        print(f"{own.name}: taken from {own}", flush=True)
        return found
    shutil.rmtree(own, ignore_errors=True)
    began = time.strftime("%Y-%m-%d")
    seconds = run_jobs(
        suites, isolation, suite=suite, broker=broker, mode=mode, jobs=_slow_first(jobs, folder, suite, broker),
        folder=own, shards=options.shards, say=_speaker(own.name),
    )  # fmt: skip
    run = Run(suite, broker, mode, own)
    run.info = {
        "suite": suite, "broker": broker, "mode": mode, "celery": suites.version, "seconds": seconds, "date": began,
        "shards": options.shards, "namespaces": isolation.namespaces, "versions": _versions(suites, broker, mode),
        "command": _command(options, suite, broker, mode), "note": options.note,
        "tests": [test for tests in jobs.values() for test in tests],
    }  # fmt: skip
    run.save()
    loaded = results.load(own)
    assert loaded is not None
    if LIMITS[mode] is not None and loaded.marks == 0:
        raise ConformanceError(f"{own.name}: celery-gconc was installed in no process; the logs are in {own}")
    print(f"{own.name}: {_counts(loaded)}, {seconds / 60:.1f} min; in {loaded.marks} apps", flush=True)
    return loaded


def _compare(
    suites: Suites, isolation: Isolation, plain: Run, other: Run, jobs: Mapping[str, list[str]], *, reuse: bool
) -> bool:
    """Run the tests that failed with celery-gconc alone; tell what they say. Returns whether something is broken."""
    if reuse and (other.folder / "differences.json").exists():
        found = results.load_differences(other.folder)
    else:
        different = results.differences(plain, other)
        found = []
        for test in different:
            job = next((tests for tests in jobs.values() if test in tests), [test])
            found.append(_alone(suites, isolation, plain, other, test, together=len({*job} & {*different})))
        results.save_differences(other.folder, found)
    for each in found:
        print(
            f"{other.folder.name}: {each.test}: {each.verdict} ({each.reason}); alone it passed "
            f"{each.alone_plain.passed} of {each.alone_plain.runs} times without celery-gconc, "
            f"{each.alone_with_us.passed} of {each.alone_with_us.runs} with it",
            flush=True,
        )
    hidden = results.lost(plain, other)
    for test in hidden:
        print(f"{other.folder.name}: {test}: passed without celery-gconc, and wasn't run with it", flush=True)
    if other.mode in TOLD_ONLY:
        return False
    return bool(hidden) or any(each.breakage for each in found)


def _alone(suites: Suites, isolation: Isolation, plain: Run, other: Run, test: str, *, together: int) -> Difference:
    passed, name = {}, f"{zlib.crc32(test.encode()):08x}"
    for mode in ("plain", other.mode):
        folder = other.folder / "alone" / f"{name}-{mode}"
        jobs = {f"{name}-{number}": [test] for number in range(ALONE)}
        shutil.rmtree(folder, ignore_errors=True)
        run_jobs(
            suites, isolation, suite=other.suite, broker=other.broker, mode=mode, jobs=jobs, folder=folder,
            shards=1, say=_speaker(f"{other.folder.name}: alone, {mode}"),
        )  # fmt: skip
        ends = [results.read(path).get(test) for path in folder.glob("*.xml")]
        passed[mode] = Alone(sum(end is not None and end.status not in results.BAD for end in ends), ALONE)
    before = plain.outcomes.get(test)
    return Difference(
        test,
        before.status if before else "not run",
        other.outcomes[test].status,
        other.outcomes[test].reason,
        passed["plain"],
        passed[other.mode],
        together,
    )


def _write_page(folder: Path, page: Path) -> None:
    """The page tells of all runs that are complete in the results directory, not only of this call's."""
    names = [f"{suite}-{broker}-{mode}" for suite, broker, mode in itertools.product(FOLDERS, BROKERS, LIMITS)]
    places = [*(folder / name for name in names), *(folder / SUBSET_FOLDER / name for name in names)]
    runs = [run for place in places if (run := results.load(place)) is not None]
    write(page, runs, {run.folder: results.load_differences(run.folder) for run in runs})
    print(f"wrote {page}", flush=True)


def _slow_first(jobs: Mapping[str, list[str]], folder: Path, suite: str, broker: str) -> dict[str, list[str]]:
    """The jobs that took longest in the plain run, if there is one, come first."""
    plain = results.load(folder / f"{suite}-{broker}-plain")
    known = {test: outcome.seconds for test, outcome in plain.outcomes.items()} if plain else {}
    return dict(sorted(jobs.items(), key=lambda job: -sum(known.get(test, 0.0) for test in job[1])))


def _command(options: argparse.Namespace, suite: str, broker: str, mode: str) -> str:
    """What runs this one thing again."""
    words = ["python -m tools.conformance", "--suite", suite, "--broker", broker, "--mode", mode]
    return " ".join([*words, "--shards", str(options.shards), *(["--subset"] * options.subset)])


def _speaker(what: str) -> Callable[[str], None]:
    return lambda line: print(f"{time.strftime('%H:%M:%S')} {what} {line}", flush=True)


def _counts(run: Run) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(run.count.items()))


def _versions(suites: Suites, broker: str, mode: str) -> str:
    names = {"Celery": "celery", "kombu": "kombu", "redis-py": "redis", "pytest-celery": "pytest-celery"}
    code = f"from importlib.metadata import version; print(*map(version, {[*names.values()]!r}))"
    found = subprocess.run([suites.python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    said = [f"{name} {number}" for name, number in zip(names, found, strict=True)]
    if LIMITS[mode] is not None:
        said.append(f"celery-gconc {celery_gconc.__version__}{_commit()}")
    said.append(f"Python {platform.python_version()}")
    said.append("Redis " + _first_number(["redis-server", "--version"]))
    if broker == "rabbitmq":
        said.append("RabbitMQ " + _first_number(["rabbitmqctl", "version"]))
    return ", ".join(said)


def _commit() -> str:
    """Of what commit this is, where git tells."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    with contextlib.suppress(OSError):
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return f" (commit {found.stdout.strip()})"
    return ""


def _first_number(command: list[str]) -> str:
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "(unknown)"
    words = said.replace("v=", " ").split()
    return next((word for word in words if word[0].isdigit()), "(unknown)")


if __name__ == "__main__":
    sys.exit(main())
