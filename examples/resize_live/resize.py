"""Send tasks, then set, pause, resume and reset their limit while they run; print what holds each time."""

from __future__ import annotations

import sys
import time

from celery import group

from .app import email, gconc

#: Seconds for which each value is left to show.
PAUSE = 1.5

#: Tasks to send: enough to outlast the changes with two workers of 4 processes.
TASKS = 130

#: How long to wait for a worker, and for the last task, in seconds.
PATIENCE = 60


def main() -> int:
    """Change the limit step by step."""
    if not a_worker_lives():
        print(f"no worker within {PATIENCE} s: start one first, see README.md", file=sys.stderr)
        return 1
    sent = group(email.s(number) for number in range(TASKS)).apply_async()
    print(f"sent {TASKS} tasks")
    show("as configured")

    print(gconc.set("emails", 6, reason="the provider allows more at night"))
    show("set to 6")

    print(gconc.pause("emails"))
    show("paused")

    print(gconc.resume("emails"))
    show("resumed")

    print(gconc.set("emails", 1))
    show("set to 1")

    print(gconc.reset("emails"))
    show("reset")

    print(gconc.set("emails", None))
    show("unlimited")

    sent.join(timeout=PATIENCE)
    print(f"all {sent.completed_count()} tasks are done")
    print(gconc.reset("emails"))
    return 0


def show(step: str) -> None:
    """Leave a change its moment, then print what holds and what runs."""
    time.sleep(PAUSE)
    now = gconc.status()["queue:emails"]
    maximum = "unlimited" if now.max is None else now.max
    paused = ", paused" if now.paused else ""
    by = f", set by {now.set_by}" if now.overridden else ""
    why = f" ({now.reason})" if now.reason else ""
    tasks = f"{now.running} running, {now.waiting} waiting"
    print(f"  {step + ':':<15} max {maximum}{paused}; {tasks}{by}{why}", flush=True)


def a_worker_lives() -> bool:
    """Wait for a worker; false where none comes."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if gconc.status().sessions:
            return True
        time.sleep(0.1)
    return False


if __name__ == "__main__":
    sys.exit(main())
