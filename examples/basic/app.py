"""An app with three limits: on a queue, on a task by name in the configuration, and on a task by its option."""

from __future__ import annotations

import os
import time

from celery import Celery

from celery_gconc import GlobalConcurrency

url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("basic", broker=url, backend=url)
app.conf.task_default_queue = "emails"
app.conf.broker_connection_retry_on_startup = True

# The two lines: what is limited, and the extension.
app.conf.global_concurrency_limits = {"queue:emails": 4, "task:basic.sync": 2}
gconc = GlobalConcurrency(app)


@app.task(name="basic.email")
def email(number: int) -> tuple[float, float]:
    """Covered by ``queue:emails``, as every task of that queue is: at most 4 at once in the whole cluster."""
    return _work()


@app.task(name="basic.sync")
def sync(number: int) -> tuple[float, float]:
    """Covered by ``task:basic.sync`` too: at most 2 of those 4."""
    return _work()


@app.task(name="basic.report", global_concurrency=1)
def report(number: int) -> tuple[float, float]:
    """Its option says the same as ``"task:basic.report": 1`` in the configuration: one at a time."""
    return _work()


def _work() -> tuple[float, float]:
    """Take a moment; return when it began and ended."""
    began = time.time()
    time.sleep(0.25)
    return began, time.time()
