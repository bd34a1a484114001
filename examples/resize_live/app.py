"""An app with one limit, on the queue ``emails``."""

from __future__ import annotations

import os
import time

from celery import Celery

from celery_gconc import GlobalConcurrency

url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("resize_live", broker=url, backend=url)
app.conf.task_default_queue = "emails"
app.conf.broker_connection_retry_on_startup = True

app.conf.global_concurrency_limits = {"queue:emails": 2}
gconc = GlobalConcurrency(app)


@app.task(name="resize_live.email")
def email(number: int) -> None:
    """Take a moment."""
    time.sleep(0.3)
