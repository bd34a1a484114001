"""An app with two limits, under a load that comes and goes."""

from __future__ import annotations

import os
import time

from celery import Celery

from celery_gconc import GlobalConcurrency

url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("monitoring", broker=url)
app.conf.broker_connection_retry_on_startup = True
app.conf.task_ignore_result = True
app.conf.task_routes = {"monitoring.email": {"queue": "emails"}}
app.conf.global_concurrency_limits = {"queue:emails": 3, "app": 6}
app.conf.global_concurrency_heartbeat_interval = 1.0  # workers tell what they counted with each heartbeat
gconc = GlobalConcurrency(app)


@app.task(name="monitoring.email")
def email(seconds: float) -> None:
    """Under the limits of its queue and of the app."""
    time.sleep(seconds)


@app.task(name="monitoring.report")
def report(seconds: float) -> None:
    """Under the limit of the app alone."""
    time.sleep(seconds)
