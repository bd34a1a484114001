"""``python -m tools.chaos --seed 7 --minutes 10``: one run. ``--report``: write the page from recorded runs.

Exit code 0: all promises held; 1: one was broken; 2: the run itself failed, and says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from tests.kit.servers import ROOT

from . import report, schedule
from .run import ChaosRun

#: Logs of workers and events: not in version control.
WORK = ROOT / ".cache" / "chaos"

#: How many events before a violation are printed.
SLICE = 60

#: What of a result is printed.
TOLD = (
    "tasks", "done", "excused", "faults", "changes", "changes_not_confirmed", "lost", "doubled", "starts_judged",
    "starts_excused", "seconds_watched_for_stuck", "seconds_to_drain", "shutdowns_hung",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run or report; returns the exit code."""
    options = _options(arguments)
    if options.report is not None:
        report.write(options.report)
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    plan = schedule.make(
        seed, options.minutes * 60, workers=options.workers, broker=options.broker, rough=options.rough,
        faults=tuple(filter(None, options.faults.split(","))),
    )  # fmt: skip
    again = f"python -m tools.chaos {_again(options, seed)}"
    print(f"seed {seed}: {options.minutes:g} minutes, broker {plan.broker}, limits {plan.limits}")
    print("workers", ", ".join(f"{member.name} {member.pool} -c {member.slots}" for member in plan.members))
    for step in plan.steps:
        print(step)
    os.environ["CHAOS_AT_BROKER"] = "1" if options.at_broker else ""
    folder = WORK / f"{'plain-' if options.plain else ''}{seed}-{time.strftime('%H%M%S')}"
    run = ChaosRun(
        plan, folder, extended=not options.plain, broken=options.broken, say=lambda text: print(text, flush=True),
        to_the_end=options.to_the_end,
    )  # fmt: skip
    sys.stdout.flush()
    result = run.carry_out()
    result["command"] = again
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    _tell(result, run, folder)
    if result["errors"]:
        return 2
    return 1 if result["violations"] else 0


def _tell(result: dict[str, Any], run: ChaosRun, folder: Path) -> None:
    print()
    for key in TOLD:
        print(f"{key:28} {result[key]}")
    for text in result["errors"]:
        print(f"\nThe run itself failed: {text}")
    print(f"{'violations':28} {len(result['violations'])}")
    for violation in result["violations"][:5]:
        print(f"\npromise {violation['promise']}, {violation['what']}, at {violation['time']:.6f}: {violation['text']}")
    if result["violations"]:
        last = result["violations"][0]["time"]
        before = [
            event for event in run.events if event.time <= last + 0.1 and event.kind not in ("keys", "got", "sent")
        ]
        print("\nEvents before it:")
        for event in before[-SLICE:]:
            print(f"  {event}")
        print(f"\nReplay:  {result['command']}")
    print(f"Logs: {folder.relative_to(ROOT)}")


def _again(options: argparse.Namespace, seed: int) -> str:
    words = ["--seed", str(seed), "--minutes", f"{options.minutes:g}"]
    for name, default in (("workers", 6), ("broker", ""), ("rough", schedule.ROUGH), ("faults", "")):
        if getattr(options, name) != default:
            words += [f"--{name}", str(getattr(options, name))]
    if options.at_broker:
        words.append("--at-broker")
    if options.broken:
        words += ["--break", options.broken]
    return shlex.join(words + (["--plain"] if options.plain else []))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="a whole number; a random one, printed, where none is given")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long load and faults last")
    parser.add_argument("--plain", action="store_true", help="the same without celery-gconc, to compare")
    parser.add_argument("--out", type=Path, help="write the result there, as JSON")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--broker", choices=("redis", "rabbitmq"), default="", help="else as the seed says")
    parser.add_argument("--rough", type=float, default=schedule.ROUGH, help="seconds with faults between calm ones")
    parser.add_argument("--faults", default="", help="only these, by name with commas")
    parser.add_argument("--break", dest="broken", choices=("worker", "leak"), default="",
                        help="make it wrong, to see the checker find it")  # fmt: skip
    parser.add_argument("--at-broker", action="store_true", help="what waits for a queue's limit waits at the broker")
    parser.add_argument("--to-the-end", action="store_true", help="go on after a violation")
    parser.add_argument("--report", type=Path, nargs="+", help="results to write into docs/explanation/chaos.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
