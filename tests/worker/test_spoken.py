"""In a real worker with an event loop, the loop speaks to Redis; with tasks on its own thread it doesn't."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.worker.spoken import COUNT


def spoken(redis_url: str, pool: str) -> tuple[int, int]:
    """How many syncs the loop has sent, and how many the link."""
    command = [sys.executable, "-m", "tests.worker.spoken", redis_url, pool]
    worker = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    said = [line for line in worker.stdout.splitlines() if line.startswith("spoken ")]
    assert said, worker.stderr
    loop, link = said[0].split()[1:]
    return int(loop), int(link)


@pytest.mark.process
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_the_loop_asks_for_each_permit_and_gives_it_back(redis_url, pool):
    loop, link = spoken(redis_url, pool)
    assert loop >= COUNT
    assert link < COUNT, "now and then it has to: the loop was late"


@pytest.mark.process
def test_where_tasks_run_on_the_loops_thread_the_link_speaks(redis_url):
    loop, link = spoken(redis_url, "solo")
    assert loop == 0
    assert link >= COUNT
