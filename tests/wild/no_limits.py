"""An app with no limit at all, for workers of the cluster tests."""

from __future__ import annotations

import json
import os

from celery import Celery

from celery_gconc import GlobalConcurrency

app = Celery("bare", broker=os.environ["TEST_BROKER"])
app.conf.update(json.loads(os.environ["TEST_CONF"]))
GlobalConcurrency(app)
