"""An app whose tasks share a database that bears three writers, and a search index that bears one."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

from celery_gconc import GlobalConcurrency

url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("shared_pool", broker=url, backend=url)
app.conf.broker_connection_retry_on_startup = True
app.conf.task_routes = {"shared_pool.import_*": {"queue": "imports"}, "shared_pool.*": {"queue": "nightly"}}

# What each resource bears. Tasks join by its name, below.
app.conf.global_concurrency_limits = {"pool:db-writers": 3, "pool:search": 1}
gconc = GlobalConcurrency(app)


@app.task(name="shared_pool.import_rows", global_concurrency="pool:db-writers")
def import_rows(number: int) -> dict[str, int]:
    """Writes to the database, from the queue ``imports``."""
    return use("db-writers")


@app.task(name="shared_pool.purge", global_concurrency="pool:db-writers")
def purge(number: int) -> dict[str, int]:
    """Writes to the database too, from the queue ``nightly``."""
    return use("db-writers")


@app.task(name="shared_pool.reindex", global_concurrency=["pool:db-writers", "pool:search"])
def reindex(number: int) -> dict[str, int]:
    """Needs both at once: it starts when both have a place, and holds neither while it waits."""
    return use("db-writers", "search")


@app.task(name="shared_pool.report")
def report(number: int) -> dict[str, int]:
    """Only reads, so it joins nothing, and waits for nobody."""
    return use()


def use(*resources: str) -> dict[str, int]:
    """Use these for a moment; return how many used each when we came, ourselves among them, as Redis counted."""
    with redis.Redis.from_url(url) as counter:
        users = {name: int(counter.incr(f"shared_pool:{name}")) for name in resources}
        try:
            time.sleep(0.2)
        finally:
            for name in resources:
                counter.decr(f"shared_pool:{name}")
    return users
