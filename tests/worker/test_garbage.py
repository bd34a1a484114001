"""A task leaves nothing behind that only Python's garbage collector could free."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.worker.garbage import COUNT


def left(redis_url: str, pool: str, kind: str) -> int:
    """How many objects tasks of a worker leave to the collector."""
    command = [sys.executable, "-m", "tests.worker.garbage", redis_url, pool, kind]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    said = [line for line in ended.stdout.splitlines() if line.startswith("left ")]
    assert said, ended.stderr
    return int(said[0].split()[1])


@pytest.mark.process
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_under_a_limit_leaves_no_more_cycles_of_references_than_in_plain_celery(redis_url, pool):
    assert left(redis_url, pool, "limited") - left(redis_url, pool, "plain") < COUNT / 2
