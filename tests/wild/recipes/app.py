"""A small app, with the settings that the test gives it, and the two lines."""

from __future__ import annotations

import json
import os

from celery import Celery

from celery_gconc import GlobalConcurrency

app = Celery("proj", broker="memory://", backend="cache+memory://")
app.conf.update(json.loads(os.environ.get("TEST_CONF", "{}")))
GlobalConcurrency(app)


@app.task(global_concurrency=json.loads(os.environ.get("TEST_OPTION", "null")))
def add(x: int, y: int) -> int:
    return x + y
