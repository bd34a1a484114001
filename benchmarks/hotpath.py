"""``python -m benchmarks.hotpath --beside REVISION``: what the gate costs a request, beside an earlier version's.

Both versions run in turn, A B A B, each in a process of its own over one Redis: CPU time of the thread that admits,
starts and ends requests, less that of Celery's own methods (``benchmarks/hotpath_driver.py``).
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
from io import BytesIO
from pathlib import Path

from benchmarks.hotpath_driver import SCENARIOS
from tests.kit.servers import redis_server

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", required=True, metavar="REVISION", help="of this repository")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--count", type=int, default=20_000, help="requests a run, default: %(default)s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, redis_server() as server:
        check_out(arguments.beside, Path(folder))
        print(f"{'':20} {'us':>7} {'before':>7} {'ratio':>7}")
        for scenario in SCENARIOS:
            pairs = [
                [run(root, server.url, scenario, arguments.count) for root in (ROOT, Path(folder))]
                for _ in range(arguments.rounds)
            ]
            ratio = statistics.median(new / old for new, old in pairs)
            new, old = (statistics.median(times) * 1e6 for times in zip(*pairs, strict=True))
            print(f"{scenario:20} {new:7.2f} {old:7.2f} {ratio:7.2f}", flush=True)


def check_out(revision: str, folder: Path) -> None:
    """Put the package of a revision into a folder."""
    done = subprocess.run(["git", "archive", revision, "celery_gconc"], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder)


def run(root: Path, url: str, scenario: str, count: int) -> float:
    """Seconds a request, of the version that is in a folder."""
    command = [sys.executable, str(ROOT / "benchmarks" / "hotpath_driver.py"), url, scenario, str(count)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(json.loads(done.stdout))


if __name__ == "__main__":
    main()
