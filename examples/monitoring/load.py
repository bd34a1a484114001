"""Send tasks for some minutes, more in one half of each minute than the limits let through."""

from __future__ import annotations

import argparse
import random
import time

from .app import email, report


def main() -> None:
    """Send two to ten emails and a report each second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for how long (default: %(default)g)")
    seconds = parser.parse_args().seconds
    began, sent = time.monotonic(), 0
    print(f"sending tasks for {seconds:g} s; Ctrl-C ends it", flush=True)
    while time.monotonic() - began < seconds:
        is_rush = (time.monotonic() - began) % 60 < 30
        for _ in range(10 if is_rush else 2):
            email.delay(random.uniform(0.2, 0.6))
        report.delay(random.uniform(0.5, 1.5))
        sent += (10 if is_rush else 2) + 1
        time.sleep(1)
    print(f"sent {sent} tasks")


if __name__ == "__main__":
    main()
