"""One look at a namespace, its workers and its Redis: all that the checks of ``doctor`` judge, and all of its I/O."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from celery import Celery

from celery_gconc.brokers.backlog import BrokerUnavailable
from celery_gconc.connection.urls import without_secrets
from celery_gconc.errors import StoreUnusable
from celery_gconc.operations.operations import Operations
from celery_gconc.operations.worker_query import Answers, Question, ask
from celery_gconc.protocol.status import LimitStatus, SessionStatus, Status
from celery_gconc.settings import Settings

#: How long, in seconds, a task that nothing keeps waiting is watched at most before that is called wrong.
MAX_PATIENCE = 10.0

#: The longest run of a task is looked for among those that ended in this many seconds.
RECENT_SECONDS = 900.0


@dataclass(frozen=True)
class Look:
    """What there is to judge. Times are Unix times in seconds, by Redis' clock."""

    app: Celery
    settings: Settings
    status: Status
    #: When it began and ended.
    begun: float = 0.0
    ended: float = 0.0
    #: How far this machine's clock is ahead of Redis', in seconds.
    skew: float = 0.0
    #: What hinders the import of the app's tasks, or nothing.
    imports: str = ""
    #: What each worker answered to ``stats`` and ``active_queues``, by its node name.
    stats: Answers = field(default_factory=dict)
    queues: Answers = field(default_factory=dict)
    #: Why workers could not be asked, or nothing.
    trouble: str = ""
    #: What the server tells of itself (INFO).
    server: Mapping[str, str] = field(default_factory=dict)
    #: What workers would not see for lack of a right, in sentences; and which rights they need and lack, or nothing.
    unseen: tuple[str, ...] = ()
    lacking: str = ""
    #: What in Redis doesn't fit together, in sentences.
    records: tuple[str, ...] = ()
    #: How long, in seconds, the longest of the tasks ran that ended lately under each limit, where a Redis broker could
    #: redeliver one that is acknowledged late.
    longest_runs: Mapping[str, float] = field(default_factory=dict)
    #: Tasks that are first in line, by limit, though nothing keeps them waiting.
    stuck: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def limits_in_use(self) -> list[LimitStatus]:
        """The limits that limit something."""
        return [limit for limit in self.status if limit.max is not None or limit.paused]

    @property
    def knows_queues(self) -> bool:
        """Whether every live worker has said what it consumes: a silent one may be the only one to know a queue."""
        return not self.trouble and all(session.node in self.queues for session in self.status.sessions)

    @cached_property
    def driver(self) -> str:
        """The type of the broker's transport, where that is known."""
        return driver_of(self.app)

    @property
    def is_rabbitmq(self) -> bool:
        """Whether the broker speaks AMQP."""
        return self.driver in ("amqp", "py-amqp")

    @property
    def broker(self) -> str:
        """The app's broker, as sessions name it."""
        return without_secrets(self.app.conf.broker_url or "")[:500]

    @cached_property
    def strangers(self) -> list[SessionStatus]:
        """Live sessions of another app or broker."""
        own = (self.app.main or "", self.broker)
        return [one for one in self.status.sessions if (one.app or one.broker) and (one.app, one.broker) != own]


def look(operations: Operations, timeout: float) -> Look:
    """Read everything once. Workers have *timeout* seconds for their answers.

    Raises:
        StoreUnavailable: the coordination Redis can't be reached.
    """
    imports = _import_tasks(operations.app)
    before = time.time()
    begun = operations.server_time()
    skew = (before + time.time()) / 2 - begun
    status, server = operations.status(), operations.server_info()
    stats: Answers = {}
    queues: Answers = {}
    trouble = ""
    try:
        stats, queues = ask(operations.app, [Question("stats"), Question("active_queues")], timeout)
    except BrokerUnavailable as exc:
        trouble = str(exc)
    ended = operations.server_time()
    unseen, lacking = _rights(operations)
    return Look(
        app=operations.app,
        settings=operations.settings,
        status=status,
        begun=begun,
        ended=ended,
        skew=skew,
        imports=imports,
        stats=stats,
        queues=queues,
        trouble=trouble,
        server=server,
        unseen=unseen,
        lacking=lacking,
        records=operations.audit(),
        longest_runs=_longest_runs(operations, status),
        stuck=_stuck(operations, status),
    )


def _import_tasks(app: Celery) -> str:
    try:
        app.loader.import_default_modules()
    except Exception as exc:  # noqa: BLE001 - whatever a module of the user's raises
        return f"{type(exc).__name__}: {exc}".splitlines()[0][:200]
    return ""


def _rights(operations: Operations) -> tuple[tuple[str, ...], str]:
    try:
        return operations.check_rights(), ""
    except StoreUnusable as exc:
        return (), str(exc)


def _longest_runs(operations: Operations, status: Status) -> dict[str, float]:
    tasks: Any = operations.app.tasks
    if driver_of(operations.app) != "redis" or not any(task.acks_late for task in tasks.values()):
        return {}
    ended = {limit.limit: operations.history(limit.limit, RECENT_SECONDS) for limit in status}
    return {name: max(task.held for task in tasks) for name, tasks in ended.items() if tasks}


def _stuck(operations: Operations, status: Status) -> dict[str, str]:
    """Those that wait for nothing now, and still do when a lost notice would have been made good: an interval later."""
    suspects = {limit.limit: task for limit in status if (task := _waits_for_nothing(operations, limit.limit))}
    if not suspects:
        return {}
    time.sleep(min(operations.settings.heartbeat_interval + 0.5, MAX_PATIENCE))
    return {name: task for name, task in suspects.items() if _waits_for_nothing(operations, name) == task}


def _waits_for_nothing(operations: Operations, limit: str) -> str | None:
    """The task that is first in a limit's line though nothing keeps it there."""
    for waiting in operations.waiting(limit, 1):
        for found in operations.find(waiting.task_id):
            if found.is_waiting and found.session == waiting.session and not found.full and found.room > 0:
                return found.task_id
    return None


def driver_of(app: Celery) -> str:
    """The type of the transport of an app's broker; empty where that is not known."""
    with suppress(Exception):
        return str(app.connection_for_write().get_transport_cls().driver_type)
    return ""
