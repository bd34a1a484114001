"""The app that benchmark workers run: plain Celery, or the same with celery-gconc, as the environment says."""

from __future__ import annotations

import json
import os
import time

from celery import Celery
from celery.bootsteps import StartStopStep

from benchmarks.tickorder import pin_tick_order

pin_tick_order()
broker = os.environ["BENCH_BROKER"]
app = Celery("bench", broker=broker)
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    **json.loads(os.environ.get("BENCH_SETTINGS", "{}")),
)
limits = json.loads(os.environ.get("BENCH_LIMITS", "null"))
if limits is not None:
    from celery_gconc import GlobalConcurrency

    app.conf.global_concurrency_limits = limits
    app.conf.global_concurrency_redis_url = os.environ["BENCH_COORDINATION"]
    GlobalConcurrency(app)

if os.environ.get("BENCH_STEP") == "empty":

    class EmptyStep(StartStopStep):
        """What any extension costs that has a step, before it does anything."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

    app.steps["consumer"].add(EmptyStep)

_log: int | None = None


def stamp(kind: str, number: int) -> None:
    """Append an event with the machine's monotonic time and our parent, in one write to a file of this process."""
    global _log
    if _log is None:
        path = os.path.join(os.environ["BENCH_LOG"], f"{os.getpid()}.log")
        _log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(_log, f"{kind} {number} {time.monotonic_ns()} {os.getppid()}\n".encode())


@app.task
def noop(number: int) -> None:
    """Nothing but its two stamps."""
    stamp("s", number)
    stamp("e", number)


@app.task
def nap(number: int, seconds: float) -> None:
    """Sleep."""
    stamp("s", number)
    time.sleep(seconds)
    stamp("e", number)
