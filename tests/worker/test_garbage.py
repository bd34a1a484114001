"""A task leaves nothing behind that only Python's garbage collector could free."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.worker.garbage import COUNT


def begin(redis_url: str, pool: str, kind: str) -> subprocess.Popen[str]:
    """A worker that tells how many objects tasks leave to the collector, and ends."""
    command = [sys.executable, "-m", "tests.worker.garbage", redis_url, pool, kind]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def left(worker: subprocess.Popen[str]) -> int:
    """What it told."""
    try:
        stdout, stderr = worker.communicate(timeout=110)
    finally:
        worker.kill()
    said = [line for line in stdout.splitlines() if line.startswith("left ")]
    assert said, stderr
    return int(said[0].split()[1])


@pytest.mark.process
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_under_a_limit_leaves_no_more_cycles_of_references_than_in_plain_celery(redis_url, pool):
    with begin(redis_url, pool, "limited") as limited, begin(redis_url, pool, "plain") as plain:
        assert left(limited) - left(plain) < COUNT / 2
