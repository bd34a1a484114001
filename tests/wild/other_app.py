"""Another app in the namespace of the cluster tests' workers."""

from __future__ import annotations

import json
import os

from celery import Celery

from celery_gconc import GlobalConcurrency

app = Celery("other", broker=os.environ["TEST_BROKER"])
app.conf.update(json.loads(os.environ["TEST_CONF"]))
GlobalConcurrency(app)
