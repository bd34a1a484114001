"""The app of the run's workers, made by the environment. Its tasks tell the oracle what runs; it judges nothing."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.signals import task_received
from kombu import Exchange, Queue

from .log import Log
from .plan import INTERVAL, KINDS, LEASE, QUEUES, VISIBILITY, Kind

#: Which life of which worker this is: ``w3.2`` is the second of w3. Empty in a client.
LIFE = os.environ.get("CHAOS_LIFE", "")

app = Celery("chaos", broker=os.environ.get("CHAOS_BROKER", "memory://"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_heartbeat=0,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_prefetch_multiplier=1,
    # celery 5.7, plain too: with gevent and RabbitMQ, what follows a lost connection reads the channel from the task's
    # greenlet (_restore_prefetch_count_after_connection_restart): ConcurrentObjectUseError, and the task hangs.
    worker_enable_prefetch_count_reduction=False,
    task_ignore_result=True,
    task_queues=[Queue(name, Exchange(name), routing_key=name) for name in QUEUES],
    task_default_queue=QUEUES[-1],
    worker_hijack_root_logger=False,
)
if str(app.conf.broker_url).startswith("redis"):
    app.conf.broker_transport_options = {
        "visibility_timeout": VISIBILITY,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 5,
        "health_check_interval": 5,
    }
if os.environ.get("CHAOS_EXTENSION") == "1":
    from celery_gconc import GlobalConcurrency

    app.conf.update(
        global_concurrency_redis_url=os.environ["CHAOS_REDIS"],
        global_concurrency_heartbeat_interval=INTERVAL,
        global_concurrency_heartbeat_timeout=LEASE,
        global_concurrency_limits=json.loads(os.environ["CHAOS_LIMITS"]),
        global_concurrency_wait_at_broker=os.environ.get("CHAOS_AT_BROKER") == "1",
    )
    gconc = GlobalConcurrency(app)

_log: Log | None = None


def tell(kind: str, **data: Any) -> None:
    """Tell the oracle, by a connection of this process."""
    global _log
    if _log is None:
        _log = Log(os.environ["CHAOS_ORACLE"])
    _log.tell(kind, **data)


def _body(kind: Kind) -> Callable[..., None]:
    def body(self: Any, seconds: float) -> None:
        run, request = secrets.token_hex(6), self.request
        again = kind.retries and request.retries == 0
        tell("start", run=run, id=request.id, n=request.retries, w=LIFE, pid=os.getpid())
        try:
            time.sleep(seconds)
        finally:
            tell("end", run=run, again=again)
        if again:
            raise self.retry(countdown=0.3, max_retries=1)

    body.__name__ = body.__qualname__ = kind.name
    return body


for _kind in KINDS.values():
    app.task(
        bind=True,
        name=_kind.task,
        acks_late=_kind.late,
        reject_on_worker_lost=_kind.requeues,
        **({"global_concurrency": list(_kind.limits)} if _kind.limits else {}),
    )(_body(_kind))


@task_received.connect
def _received(request: Any, **_: Any) -> None:
    tell("got", id=request.id, w=LIFE)
