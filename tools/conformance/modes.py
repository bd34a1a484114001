"""The ways in which celery-gconc is put under Celery's suites, and the function that does it in their processes.

Runs inside the suites' own virtual environment: it imports Celery and celery-gconc only when it installs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

#: The queues that the suites' workers consume from.
QUEUES = (
    "celery",
    "smoke_tests_queue",
    "other_smoke_tests_queue",
    "celery_latest_tests_queue",
    "non_default_queue",
    "alias",
)

#: Limits by mode. None: celery-gconc isn't installed.
LIMITS: dict[str, dict[str, int] | None] = {
    "plain": None,
    "installed": {},
    "wide": {"app": 100, **{f"queue:{name}": 50 for name in QUEUES}},
    "one": {f"queue:{name}": 1 for name in QUEUES},
}

#: What each mode is for, in the words of the report.
MEANING = {
    "plain": "Celery alone, the measure for the others",
    "installed": "celery-gconc installed, no limits",
    "wide": "celery-gconc installed; each task runs under two limits, of its app and its queue, that no test reaches",
    "one": "celery-gconc installed; one task at once from each queue, over all workers",
}


def install(app: Celery) -> None:
    """Install celery-gconc on an app as the mode in the environment says, and leave a mark that it was."""
    limits = LIMITS[os.environ["CONFORMANCE_MODE"]]
    if limits is None:
        return
    from celery_gconc import GlobalConcurrency

    conf = {"global_concurrency_limits": limits}
    if not _is_redis(app.conf.broker_url):
        # Not every test with RabbitMQ has a Redis for its results.
        host, port = os.environ.get("REDIS_HOST", "127.0.0.1"), os.environ.get("REDIS_PORT", "6379")
        conf["global_concurrency_redis_url"] = f"redis://{host}:{port}/0"
    else:
        conf["global_concurrency_redis_url"] = app.conf.broker_url
    if limits and min(limits.values()) == 1:
        # A killed worker's permit has to return within the time that tests wait for a result.
        conf |= {"global_concurrency_heartbeat_interval": 1.0, "global_concurrency_heartbeat_timeout": 4.0}
    app.conf.update(conf)
    GlobalConcurrency(app)
    with Path(os.environ["CONFORMANCE_MARKS"]).open("a") as marks:
        marks.write(f"{os.getpid()}\n")


def _is_redis(url: str | None) -> bool:
    return bool(url) and url.split(":", 1)[0] in {"redis", "rediss"}
