"""Whatever happens to workers, Redis and the way between them, the promises hold: searched for by Hypothesis.

    rules (machine.py, faults.py) -> Cluster -> workers made of the real parts -> the real Lua
    the promises <- what the pools really run, and what operators did (oracle.py); and the keys as they are (keys.py)

What stands for a person, a system or a broker is made here: requests, pools, queues, the time, the way to Redis. The
threads of a worker are turns, which the rules order; two threads inside of one part are not shown here.

``GCONC_MACHINE_EXAMPLES`` says how many histories are tried (``make machine``, each night, tries more and others),
``GCONC_MACHINE_STEPS`` how long each is at most.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from .faults import FaultyMachine


@pytest.mark.takes_long(40)
@pytest.mark.timeout(900)  # a failure is made smaller before it is shown: for up to five minutes
def test_whatever_happens_to_workers_and_redis_the_promises_hold(redis_url: str):
    class OnThisRedis(FaultyMachine):
        url = redis_url

    examples = os.environ.get("GCONC_MACHINE_EXAMPLES")
    run_state_machine_as_test(
        OnThisRedis,
        settings=settings(
            max_examples=int(examples or 15),
            stateful_step_count=int(os.environ.get("GCONC_MACHINE_STEPS", "16")),
            deadline=None,
            derandomize=examples is None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
