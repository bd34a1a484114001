"""``python -m tests.worker.spoken <redis url> <pool>``: which thread of a real worker speaks to Redis.

Runs a worker in this process until :data:`COUNT` tasks under a limit have ended, one after another with a pause, so
that each asks for a permit anew. Then it prints how many syncs the event loop has sent, and how many the link's thread
has beside those that state everything.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from typing import Any

import redis
from celery import Celery
from celery.signals import worker_ready
from celery.worker import state

from celery_gconc import GlobalConcurrency
from celery_gconc.worker.session.session import Session
from tests.kit.state import units

COUNT = 10


def main(url: str, pool: str) -> None:
    """Run the worker."""
    app = Celery("spoken", broker=url, set_as_current=False)
    app.conf.update(
        task_default_queue="spoken",
        task_ignore_result=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        global_concurrency_limits={"spoken": 1},
    )
    GlobalConcurrency(app)
    spoken = count_syncs()

    @app.task(name="spoken.nothing", shared=False)
    def nothing() -> None:
        """Do nothing."""

    client = redis.Redis.from_url(url)

    def send() -> None:
        for number in range(COUNT):
            nothing.delay()
            while state.total_count.get(nothing.name, 0) <= number or state.active_requests:
                time.sleep(0.02)
            while any(units(client).values()):  # it goes back, or the next would take it without a word
                time.sleep(0.02)
        print("spoken", spoken["loop"], spoken["link"])
        state.should_stop = 0  # type: ignore[assignment]

    worker_ready.connect(lambda **_: threading.Thread(target=send, daemon=True).start(), weak=False)
    app.Worker(
        pool=pool, concurrency=1, loglevel="ERROR", hostname="spoken@test", without_mingle=True, without_gossip=True
    ).start()


def count_syncs() -> Counter[str]:
    """Count what is said, by who says it."""
    spoken: Counter[str] = Counter()
    send, sync = Session.send, Session._sync

    def counted_send(self: Session, moment: float) -> Any:
        sent = send(self, moment)
        spoken["loop"] += sent is not None
        return sent

    def counted_sync(self: Session, moment: float, *, full: bool) -> None:
        sync(self, moment, full=full)
        spoken["link"] += not full

    Session.send, Session._sync = counted_send, counted_sync  # type: ignore[method-assign]
    return spoken


if __name__ == "__main__":
    main(*sys.argv[1:])
