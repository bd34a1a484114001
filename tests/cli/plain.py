"""An app of the same broker, queues and task names as the cluster tests' app, whose workers don't have celery-gconc."""

from __future__ import annotations

import os
import time

from celery import Celery

from tests.cluster.queues import with_special

app = Celery("cluster", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(broker_connection_retry_on_startup=True, task_queues=with_special(""))


@app.task(name="tests.cluster.app.nap")
def nap(number: int, seconds: float = 0.05) -> int:
    """Sleep."""
    time.sleep(seconds)
    return number
