"""The app in the pictures of the documentation: a shop's mails, reports and stock."""

from __future__ import annotations

import json
import os
import time

from celery import Celery

from celery_gconc import GlobalConcurrency

app = Celery("shop", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(
    task_default_queue="shop",
    task_routes={"shop.send_mail": {"queue": "emails"}},
    broker_connection_retry_on_startup=True,
    **json.loads(os.environ.get("TEST_CONF", "{}")),
)
gconc = GlobalConcurrency(app)


@app.task(name="shop.send_mail")
def send_mail(seconds: float) -> None:
    """Pretend to talk to a mail server."""
    time.sleep(seconds)


@app.task(name="shop.sync_stock", global_concurrency="pool:db-writers")
def sync_stock(seconds: float) -> None:
    """Pretend to write to a database."""
    time.sleep(seconds)


@app.task(name="shop.monthly_report", global_concurrency=2)
def monthly_report(seconds: float) -> None:
    """Pretend to compute."""
    time.sleep(seconds)
