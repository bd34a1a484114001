"""The worker's own clock, by which leases and waits are measured."""

from __future__ import annotations

import time

if hasattr(time, "clock_gettime"):
    _CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now() -> float:
        """Seconds on a clock that goes on while the machine sleeps (where there is one), and never steps."""
        return time.clock_gettime(_CLOCK)

else:  # Windows, whose monotonic clock goes on while the machine sleeps
    now = time.monotonic
