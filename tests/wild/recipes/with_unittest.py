"""Workers started and stopped by hand, one after the other, in a plain ``unittest``."""

from __future__ import annotations

import gc
import json
import os
import threading
import unittest

import psutil
from celery import signals
from celery.contrib.testing.worker import start_worker
from celery.worker import state

from tests.wild.recipes.app import add, app


def what_is_left() -> dict[str, object]:
    """What a worker may leave behind in its process."""
    for _ in range(2):  # one collection now and then leaves a whole worker, to which nothing refers, to the next
        gc.collect()
    return {
        "threads": sorted(thread.name for thread in threading.enumerate() if "gconc" in thread.name),
        "files": psutil.Process().num_fds(),
        "receivers": sum(
            len(signal.receivers or ()) for signal in vars(signals).values() if isinstance(signal, signals.Signal)
        )
        + len(app.on_after_configure.receivers or ()),
        "flags": [state.should_stop, state.should_terminate],
        "requests": len(state.reserved_requests) + len(state.active_requests) + len(state.requests),
    }


class Workers(unittest.TestCase):
    def test_workers_after_each_other(self) -> None:
        found = []
        for number in range(int(os.environ["TEST_COUNT"])):
            with start_worker(app, pool=os.environ["TEST_POOL"], perform_ping_check=False):
                self.assertEqual(add.delay(1, number).get(timeout=20), 1 + number)
            found.append(what_is_left())
        with open(os.environ["TEST_OUT"], "w") as out:
            json.dump(found, out)
