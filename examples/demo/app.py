"""The Celery app that the demo's workers run: one queue, one limit, one task that tells the witness what it does."""

from __future__ import annotations

import os
import random
import time
from functools import lru_cache
from typing import Any

from celery import Celery

from celery_gconc import GlobalConcurrency

from .witness import Witness

#: Tasks of the queue ``emails`` that may run at once at first, over all workers.
FIRST_LIMIT = 3

#: How long a task runs, in seconds.
SHORTEST, LONGEST = 0.2, 0.3

url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
#: Keeps each run of the demo apart from others, and from what else lives in that Redis.
namespace = os.environ.get("GCONC_DEMO_NAMESPACE", "gconc-demo")

app = Celery("demo", broker=url)
app.conf.update(
    task_default_queue="emails",
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"global_keyprefix": f"{namespace}:"},
)

# What celery-gconc needs: the limits, and one line. The rest here only makes a short demo of it.
app.conf.global_concurrency_limits = {"queue:emails": FIRST_LIMIT}
app.conf.global_concurrency_heartbeat_interval = 1.0
app.conf.global_concurrency_heartbeat_timeout = 3.0
app.conf.global_concurrency_key_prefix = namespace
gconc = GlobalConcurrency(app)


@lru_cache(maxsize=1)
def witness() -> Witness:
    """This process's own connection; made by the first task, so never shared with a fork."""
    return Witness(url, namespace)


@app.task(bind=True)
def send_email(self: Any, number: int) -> None:
    """Stand in for work that must not run too often at once."""
    about = {"task": self.request.id, "worker": self.request.hostname.partition("@")[0], "pid": os.getpid()}
    witness().tell("start", **about)
    time.sleep(random.uniform(SHORTEST, LONGEST))
    witness().tell("end", **about)
