"""The worker's own clock, by which leases and waits are measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial


def _clock() -> Callable[[], float]:
    """The first that the system has: some names stand for clocks that it then refuses to read.

    CLOCK_BOOTTIME (Linux), CLOCK_MONOTONIC (macOS) and Python's monotonic clock (Windows) go on while those sleep.
    """
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):
        try:
            clock = partial(time.clock_gettime, getattr(time, name))
            clock()
        except (AttributeError, OSError):
            continue
        return clock
    return time.monotonic


_NOW = _clock()


def now() -> float:
    """Seconds on a clock that goes on while the machine sleeps (where there is one), and never steps."""
    return _NOW()
