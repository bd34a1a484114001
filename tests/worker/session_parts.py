"""A worker's session and link without a worker: the real ones, over a real Redis, with a pool of so many slots.

ledger -> session -> Redis;  what would wake a worker's consumer is counted
"""

from __future__ import annotations

import selectors
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from celery import Celery

from celery_gconc.clock import now
from celery_gconc.limits.claims import Claims, claims_on
from celery_gconc.protocol.session_store import SessionStore
from celery_gconc.settings import Settings
from celery_gconc.worker.children import Children
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.ledger.permit import Permit
from celery_gconc.worker.session.counts import Counters
from celery_gconc.worker.session.health import Health
from celery_gconc.worker.session.identity import Identity
from celery_gconc.worker.session.link import Link
from celery_gconc.worker.session.notices import Notices
from celery_gconc.worker.session.session import Session
from celery_gconc.worker.turns import Caller, Turns
from celery_gconc.worker.wake import Bell

#: Of every session here unless a test says otherwise, in seconds.
INTERVAL, TIMEOUT = 5.0, 15.0

#: What a request claims unless a test says otherwise.
APP = claims_on(("app",))


@dataclass(eq=False)
class Request:
    """A request as the ledger sees it."""

    candidates: Claims = APP
    claims: Claims = ()
    permit: Permit | None = None
    arrived: float = field(default_factory=now)
    started_at: float = 0.0
    task_id: str = "id-1"
    task: str = "t"
    queue: str | None = "emails"
    may_move: bool = True
    ended: bool = False


@dataclass
class Pool:
    """A pool as the ledger sees it."""

    startable: int = 2
    growth: int | None = None
    is_stalled: bool = False


class Consumer:
    """A consumer as the link sees it: it notes that it was woken."""

    def __init__(self) -> None:
        self.wakes = 0

    def wake(self) -> None:
        """There is news."""
        self.wakes += 1


class Runs:
    """The requests of a pool as the link sees them: it notes what it heard of children."""

    def __init__(self) -> None:
        self.exited: list[int] = []
        self.written: list[int] = []

    def child_exited(self, pid: int) -> None:
        """A child is gone."""
        self.exited.append(pid)

    def result_written(self, job: int) -> None:
        """A result was written."""
        self.written.append(job)


class NoLoop:
    """Celery's consumer, where there is no event loop."""

    hub = None
    pool = SimpleNamespace(is_green=False)


class Parts:
    """What a link is made of, for the Redis of *url*; other settings as :meth:`Settings.from_app` reads them."""

    def __init__(self, url: str, *, config: dict[str, int] | None = None, slots: int = 2, **conf: Any) -> None:
        self.app = Celery("parts", broker="memory://", set_as_current=False)
        self.app.conf.update(
            {
                "global_concurrency_redis_url": url,
                "global_concurrency_heartbeat_interval": INTERVAL,
                "global_concurrency_heartbeat_timeout": TIMEOUT,
                **conf,
            }
        )
        self.settings = Settings.from_app(self.app)
        self.config = {"app": 1} if config is None else config
        self.bell, self.pool, self.consumer, self.runs = Bell(), Pool(slots), Consumer(), Runs()
        self.health, self.counters = Health(self.settings.safe_url), Counters()
        self.children = Children(self.bell)
        self.identity = Identity({"node": "w", "app": "parts", "broker": "memory://", "pid": 1}, self.config, self.app)
        self.ledger: Ledger[Any] = Ledger(self.config, pool=self.pool, bell=self.bell)
        self.ledger.take_queues("some broker", [])

    def link(self) -> Link:
        """A link, not started."""
        return Link(
            self.settings,
            self.ledger,
            bell=self.bell,
            health=self.health,
            counters=self.counters,
            identity=self.identity,
            children=self.children,
            runs=self.runs,
            consumer=self.consumer,
            caller=Caller(Turns(NoLoop), self.pool, self.bell),
        )


class Running(Parts):
    """A session by itself, with a clock that goes on only when the test says so."""

    def __init__(self, url: str, **how: Any) -> None:
        super().__init__(url, **how)
        self.store = SessionStore.from_settings(self.settings)
        self.selector = selectors.DefaultSelector()
        self.floor = threading.RLock()
        self.notices = Notices(
            self.store,
            self.ledger,
            self.selector,
            consumer=self.consumer,
            floor=self.floor,
            patience=self.settings.heartbeat_interval,
        )
        self.session = Session(
            self.settings,
            self.store,
            self.ledger,
            self.notices,
            identity=self.identity,
            counters=self.counters,
            health=self.health,
            consumer=self.consumer,
        )
        #: By how much its clock is ahead of the real one.
        self.ahead = 0.0
        #: When the session wanted to be called again, as it last said.
        self.due_at = 0.0

    @property
    def moment(self) -> float:
        """What its clock shows."""
        return now() + self.ahead

    def run_once(self, *, after: float = 0.0, patience: float = 0.0) -> float:
        """Have *after* seconds go by on the session's clock, and call it; return in how many it is due again."""
        self.ahead += after
        moment = self.moment
        self.due_at = self.session.run_once(moment, patience)
        return self.due_at - moment

    def open(self) -> None:
        """Open the session, and have it synced, by the limits that it is told."""
        self.run_once()
        self.run_once()
        assert self.session.is_synced
        self.run_once()

    def hear(self, seconds: float = 10.0) -> bool:
        """Wait for a notice, and have it read. Return whether one came."""
        found = self.selector.select(seconds)
        for key, _ in found:
            key.data()
        return bool(found)

    def close(self) -> None:
        """Close every connection."""
        self.notices.close()
        self.store.close()
        self.selector.close()
        self.bell.close()
