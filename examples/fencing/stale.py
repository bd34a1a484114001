"""Freeze the worker of one writer for longer than its lease, let a second write, and wake the first one up."""

from __future__ import annotations

import os
import signal
import time

import redis

from .app import STORE, url, write

#: How long to wait for a task to start, and for its result, in seconds.
PATIENCE = 60


def writer(store: redis.Redis, value: str) -> tuple[list[int], int]:
    """The processes of the task that is to write *value*, its child and its worker, and its permit's number."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        told = store.hget("fencing:writers", value)
        if told is not None:
            *pids, number = map(int, told.split())
            return pids, number
        time.sleep(0.05)
    raise SystemExit("Error: no worker has started the task: are two of them running?")


def main() -> None:
    """Run it once."""
    with redis.Redis.from_url(url, decode_responses=True) as store:
        store.delete(STORE, "fencing:writers")
        first = write.apply_async(("old", 1.0), queue="one")
        pids, old = writer(store, "old")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        print(f"old: has permit {old}; now its worker is frozen, as by a suspended machine")
        try:
            second = write.apply_async(("new", 0.0), queue="two")
            _, new = writer(store, "new")
            print(f"new: has permit {new}, as the lease of the frozen worker has ended")
            print(f"new: {said(second.get(timeout=PATIENCE))}")
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        print(f"old: goes on; {said(first.get(timeout=PATIENCE))}")
        print(f"the store has {store.hget(STORE, 'value')!r}, of permit {store.hget(STORE, 'number')}")


def said(taken: bool) -> str:
    """What the store said."""
    return "the store took its value" if taken else "the store refused its value"


if __name__ == "__main__":
    main()
