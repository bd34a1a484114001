"""Retries: a task that waits to be tried again holds no permit, and is a new arrival when its time has come."""

from __future__ import annotations

import pytest

from tests.kit.servers import wait_until
from tests.lifecycle.bench import PATIENCE


@pytest.mark.feature("retry", "running", broker_matters=True)
def test_a_retry_gives_its_permit_back_during_the_countdown(bench):
    bench.limit(1)
    sent = bench.send("retries", 1, 1.0)
    bench.state(sent, "RETRY")
    wait_until(lambda: bench.permits() == 0, PATIENCE, "its permit is back")
    between = bench.passes(2)
    assert bench.result(sent) == 1
    first, second = bench.starts(1)
    assert first < between.time < second


@pytest.mark.feature("retry", "parked", broker_matters=True)
def test_a_retry_that_finds_the_limit_full_parks_and_keeps_its_count_of_retries(bench):
    bench.limit(1)
    sent = bench.send("retries", 1, 0.5)
    bench.started(1)
    bench.limit(0)
    bench.parked(1)
    assert bench.waiters() == [sent.id]
    bench.limit(1)
    assert bench.result(sent) == 1
    assert len(bench.starts(1)) == 2
