"""ETA, countdown and expiry: time passes for a parked request as for any other."""

from __future__ import annotations

import pytest

from tests.kit.servers import wait_until
from tests.lifecycle.bench import PATIENCE


@pytest.mark.feature("ETA and countdown", "parked", broker_matters=True)
def test_a_countdown_that_ends_while_the_limit_is_full_parks_the_task_and_it_runs_once(bench):
    sent = bench.send("nap", 1, countdown=0.3)
    bench.parked(1)
    assert bench.starts(1) == []
    bench.limit(1)
    assert bench.result(sent) == 1
    assert len(bench.starts(1)) == 1


@pytest.mark.feature("ETA and countdown", "running", broker_matters=True)
def test_a_task_holds_no_permit_before_its_eta_and_does_not_start_earlier(bench):
    bench.limit(1)
    asked = bench.oracle.now()
    sent = bench.send("held", 1, countdown=1.0)
    wait_until(lambda: bench.inspect().scheduled()[bench.node], PATIENCE, "the worker has scheduled it")
    between = bench.passes(2)
    assert between.time < asked + 1.0
    bench.started(1)
    assert bench.starts(1)[0] >= asked + 0.99, "timers of Celery and gevent may be early by a part of a millisecond"
    bench.running(1)
    bench.let_go(1)
    assert bench.result(sent) == 1


@pytest.mark.feature("expires", "parked", broker_matters=True)
def test_a_task_that_expires_while_parked_is_let_go_and_never_runs(bench):
    sent = bench.send("nap", 1, expires=1.2)  # by then a busy machine has delivered it
    bench.parked(1)
    bench.state(sent, "REVOKED")
    wait_until(lambda: not bench.left(), PATIENCE, "its message and its want are gone")
    bench.limit(1)
    bench.passes(2)
    assert bench.starts(1) == []


@pytest.mark.feature("expires", "parked", broker_matters=True)
def test_a_task_that_is_parked_and_starts_before_it_expires_runs(bench):
    sent = bench.send("nap", 1, expires=60)
    bench.parked(1)
    bench.limit(1)
    assert bench.result(sent) == 1


@pytest.mark.feature("expires", "running")
def test_a_task_that_started_before_it_expired_runs_to_its_end(bench):
    bench.limit(1)
    expired = bench.oracle.now() + 1.3
    sent = bench.send("held", 1, expires=1.2)
    bench.started(1)
    wait_until(lambda: bench.oracle.now() > expired, PATIENCE, "it would have expired")
    bench.running(1)
    bench.let_go(1)
    assert bench.result(sent) == 1
