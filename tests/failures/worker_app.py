"""The cluster tests' app, with tasks and a handler that do to their worker what it should bear."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import subprocess
import sys
import time
from typing import Any

from celery.signals import task_received
from celery.worker.control import control_command

from tests.cluster.app import app, oracle, tell

#: Objects for the garbage collector to look at: a pass over them takes some 0.2 s, with the interpreter's lock held.
HEAP_OBJECTS = 1_000_000

#: For how long, in seconds, the consumer's thread stays blocked where nobody lets it go.
MAX_BLOCKED = 60.0


@task_received.connect
def block_the_consumer(request: Any = None, **kwargs: Any) -> None:
    """Block the consumer's thread, before a ``blocking`` task comes to its gate, until the oracle lets it go."""
    if request.name.endswith(".blocking"):
        number, seconds, *_ = (*request.args, MAX_BLOCKED)
        tell("s", number, "blocked loop")
        ends = time.monotonic() + seconds
        while not oracle().exists("let go") and time.monotonic() < ends:
            time.sleep(0.01)
        tell("e", number, "blocked loop")


@control_command()
def maintain_pool(state: Any, **kwargs: Any) -> dict[str, str]:
    """Do at once what the pool does every 5 s: start the children by which it has been told to grow (celery 5.7)."""
    state.consumer.pool._pool.maintain_pool()
    return {"ok": "maintained"}


@app.task(name="tests.cluster.app.blocking")
def blocking(number: int, seconds: float = MAX_BLOCKED) -> int:
    """Do nothing: the handler above does it."""
    return number


@app.task(name="tests.cluster.app.hold_gil")
def hold_gil(number: int, seconds: float) -> int:
    """Sleep in native code that keeps the interpreter's lock: no other thread of the process can run."""
    tell("s", number, "hold_gil")
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    tell("e", number, "hold_gil")
    return number


@app.task(name="tests.cluster.app.collect_garbage")
def collect_garbage(number: int, seconds: float) -> int:
    """Have the garbage collector pass over many objects, again and again."""
    heap = [[index] for index in range(HEAP_OBJECTS)]
    tell("s", number, "collect_garbage")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        gc.collect()
    tell("e", number, "collect_garbage")
    return len(heap)


@app.task(name="tests.cluster.app.fork")
def fork(number: int, kind: str, seconds: float) -> int:
    """Start a process that sleeps, in one of the ways that Python has, and wait for it."""
    tell("s", number, "fork")
    if kind == "subprocess":
        subprocess.run([sys.executable, "-c", f"import time; time.sleep({seconds})"], check=True)
    elif kind == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(seconds,))
        process.start()
        process.join()
    else:
        pid = os.fork()
        if pid == 0:
            time.sleep(seconds)
            os._exit(0)
        os.waitpid(pid, 0)
    tell("e", number, "fork")
    return number
