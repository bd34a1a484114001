"""What the benchmarks pin: the order in which kombu's event loop calls what waits for its turns."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.kit.servers import ROOT

#: Two callbacks, in an order that a set of functions has by chance: of many pairs some would be called the other way.
CODE = """
from copy import copy
from kombu.asynchronous.hub import Hub
from benchmarks.tickorder import pin_tick_order
pin_tick_order()
for _ in range(64):
    hub, pool, broker = Hub(), lambda: None, lambda: None
    hub.on_tick.add(pool)
    hub.on_tick.add(broker)
    hub.on_tick.add(pool)
    assert list(copy(hub.on_tick)) == [broker, pool]
    hub.on_tick.discard(broker)
    assert list(hub.on_tick) == [pool] and len(hub.on_tick) == 1
"""


@pytest.mark.process
def test_benchmarks_have_the_broker_first_in_each_turn_of_the_loop() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
