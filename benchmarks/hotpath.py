"""``python -m benchmarks.hotpath --beside REVISION``: what the gate costs a request, beside an earlier version's.

Both versions run in turn, A B A B, each in a process of its own over one Redis: CPU time of the thread that admits,
starts and ends requests, less that of Celery's own methods (``benchmarks/hotpath_driver.py``). Beside it stands how
many calls of the version's own functions a request makes, which no other load on the machine changes; ``--calls`` names
them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks.hotpath_driver import SCENARIOS
from tests.kit.servers import redis_server

ROOT = Path(__file__).resolve().parent.parent

#: With ``--calls``, functions that are called more seldom a request are left out.
LEAST_CALLS = 0.05


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", required=True, metavar="REVISION", help="of this repository")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--count", type=int, default=20_000, help="requests a run, default: %(default)s")
    parser.add_argument("--calls", action="store_true", help="count calls only, and say of which functions")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, redis_server() as server:
        check_out(arguments.beside, Path(folder))
        roots = (ROOT, Path(folder))
        print(f"{'':20} {'us':>7} {'before':>7} {'ratio':>7} {'calls':>7} {'before':>7}")
        for scenario in SCENARIOS:
            calls = [run(root, server.url, scenario, 0) for root in roots]
            rounds = 0 if arguments.calls else arguments.rounds
            pairs = [[run(root, server.url, scenario, arguments.count) for root in roots] for _ in range(rounds)]
            print(f"{scenario:20} {_figures(pairs):23}", *(f"{sum(of.values()):7.1f}" for of in calls), flush=True)
            if arguments.calls:
                for name, count in sorted(calls[0].items(), key=lambda item: (-item[1], item[0])):
                    if count >= LEAST_CALLS:
                        print(f"    {count:5.2f} {name}")


def _figures(pairs: Sequence[Sequence[float]]) -> str:
    if not pairs:
        return ""
    ratio = statistics.median(new / old for new, old in pairs)
    new, old = (statistics.median(times) * 1e6 for times in zip(*pairs, strict=True))
    return f"{new:7.2f} {old:7.2f} {ratio:7.2f}"


def check_out(revision: str, folder: Path) -> None:
    """Put the package of a revision into a folder."""
    done = subprocess.run(["git", "archive", revision, "celery_gconc"], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder)


def run(root: Path, url: str, scenario: str, count: int) -> Any:
    """Seconds a request, of the version that is in a folder; with a *count* of 0, its calls by function."""
    command = [sys.executable, str(ROOT / "benchmarks" / "hotpath_driver.py"), url, scenario, str(count)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
