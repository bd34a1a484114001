"""Reads and changes the limits of a namespace from any process, with no worker alive: the base of API, CLI, Flower.

caller -> Operations -> Store -> Redis
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

from celery import Celery

from celery_gconc.errors import LimitError
from celery_gconc.limits.name import parse_limit, shown
from celery_gconc.limits.rules import parse_max
from celery_gconc.operations.arguments import caller
from celery_gconc.operations.declared import configured_limits, full_name
from celery_gconc.protocol.status import Change, EndedTask, Holder, Overview, Status, Totals, Waiter, Whereabouts
from celery_gconc.protocol.store import CALL_TIMEOUT, Store
from celery_gconc.settings import Settings

#: The longest that a value which is set for a time may hold, in seconds: ten years.
MAX_DURATION = 10 * 366 * 86400.0

T = TypeVar("T")


class Operations:
    """The limits of an app's namespace, from any process.

    The methods connect when called, take at most *call_timeout* seconds each, and raise
    :class:`~celery_gconc.errors.StoreUnavailable` if Redis is unreachable. Name limits as in the shell: ``"emails"``
    (a queue), ``"task:proj.tasks.sync"``, ``"pool:db"``, ``"app"``; an invalid name or value raises
    :class:`~celery_gconc.errors.LimitError`. Changes are recorded as made by *by*, by default ``user@host``. Several
    threads may share the object.
    """

    def __init__(self, app: Celery, *, call_timeout: float = CALL_TIMEOUT) -> None:
        self.app = app
        self._call_timeout = call_timeout
        self._store: Store | None = None

    @property
    def settings(self) -> Settings:
        """The app's settings, checked. Loads its configuration."""
        return Settings.from_app(self.app)

    def full_name(self, limit: str) -> str:
        """The full name of a limit: a bare name is a queue, and a queue's alias is resolved."""
        return full_name(self.app, parse_limit(limit))

    def configured(self) -> dict[str, int]:
        """The limits that this app configures, in its settings and tasks."""
        return configured_limits(self.app, self.settings)

    # -- Changes -----------------------------------------------------------------------------------------

    def set(
        self,
        limit: str,
        max: int | str | None,
        *,
        reason: str | None = None,
        duration: float | timedelta | None = None,
        by: str | None = None,
    ) -> Change:
        """Set the max of a limit at run time, for the whole cluster; ``None`` or ``"unlimited"`` lifts it.

        The value survives restarts and deploys until it is set again or reset; with a *duration* (seconds) it expires
        within a heartbeat interval of that time by Redis' clock. Raising it starts waiting tasks at once. Lowering it
        never ends a task: running tasks finish undisturbed.
        """
        name, value, seconds = self.full_name(limit), parse_max(max), _seconds(duration)
        return self._do(
            lambda store: store.set(
                name, value, by=by or caller(), reason=reason, duration=seconds, config=self.configured()
            )
        )

    def reset(self, limit: str, *, by: str | None = None) -> Change:
        """Go back to the configured max. A pause stays in force."""
        name = self.full_name(limit)
        return self._do(lambda store: store.reset(name, by=by or caller(), config=self.configured()))

    def pause(
        self,
        limit: str,
        *,
        reason: str | None = None,
        duration: float | timedelta | None = None,
        by: str | None = None,
    ) -> Change:
        """Stop starting tasks under a limit; running tasks continue. Its max is kept for :meth:`resume`.

        With a *duration* (seconds), the pause expires on its own.
        """
        name, seconds = self.full_name(limit), _seconds(duration)
        return self._do(
            lambda store: store.pause(
                name, True, by=by or caller(), reason=reason, duration=seconds, config=self.configured()
            )
        )

    def resume(self, limit: str, *, by: str | None = None) -> Change:
        """End a pause."""
        name = self.full_name(limit)
        return self._do(lambda store: store.pause(name, False, by=by or caller(), config=self.configured()))

    # -- What holds --------------------------------------------------------------------------------------

    def get(self, limit: str) -> int | None:
        """The current max of a limit; None if it is unlimited.

        A pause doesn't change it: see :meth:`status`. While no worker is alive, the caller's own configuration counts.
        """
        name = self.full_name(limit)
        status = self.status(name, workers=False)
        return status[name].max if name in status else None

    def status(self, limit: str | None = None, *, workers: bool = True) -> Status:
        """All limits, or one, and all live workers, unless *workers* is false.

        The numbers of a limit are of one instant. With many limits or workers they are read in several calls, one after
        the other: a task may end, or a worker go, between them.
        """
        name = None if limit is None else self.full_name(limit)
        return self._do(lambda store: store.status(name, self.configured(), sessions=workers))

    def overview(self, count: int) -> Overview:
        """Up to *count* limits, those with a max first; how many limits there are in all, and how many workers live."""
        return self._do(lambda store: store.overview(count, self.configured()))

    def holders(self, limit: str, count: int = 1000) -> tuple[Holder, ...]:
        """The tasks that hold a permit under a limit, longest-running first, up to *count* of them.

        As their workers last reported: a permit that passed from one task to the next within a worker is shown with the
        earlier one for up to a heartbeat interval.
        """
        name = self.full_name(limit)
        return self._do(lambda store: store.holders(name, count))

    def waiting(self, limit: str, count: int = 1000) -> tuple[Waiter, ...]:
        """The tasks in a limit's line, in order, up to *count* of them.

        A task with several limits stands in one line at a time. Those that a worker holds behind a full line of its own
        (``LimitStatus.parked``), and messages still in the broker, stand in none yet.
        """
        name = self.full_name(limit)
        return self._do(lambda store: store.waiting(name, count))

    def find(self, task_id: str) -> tuple[Whereabouts, ...]:
        """Where a task is, as far as Redis knows: one entry for each delivery that waits for a permit or holds one."""
        return self._do(lambda store: store.find(task_id))

    def history(self, limit: str, seconds: float = 600.0) -> tuple[EndedTask, ...]:
        """Tasks that have ended under a limit in the last *seconds*: a sample of them.

        In the order in which they ended, as workers reported them; each has a weight, in case it stands for several.
        About the last 5,000 heartbeats in which tasks ended are kept, and none 15 minutes after the last.
        """
        name = self.full_name(limit)
        return self._do(lambda store: store.history(name, seconds))

    def totals(self) -> Totals:
        """Counters and histograms of the namespace, across all its workers."""
        return self._do(lambda store: store.totals())

    # -- The server --------------------------------------------------------------------------------------

    def audit(self, repair: bool = False) -> tuple[str, ...]:
        """Inconsistent records in Redis, one sentence each; with *repair*, they are removed, and waiting tasks proceed.

        They only come about if somebody else writes to the keys, never through celery-gconc's own scripts.
        """
        return self._do(lambda store: store.audit(repair=repair))

    def server_time(self) -> float:
        """The time by Redis' clock, as Unix time in seconds."""
        return self.status("app", workers=False).at

    def server_info(self) -> Mapping[str, str]:
        """The server's ``INFO``, as text; empty if our user may not call it."""
        return self._do(lambda store: store.server_info())

    def check_rights(self) -> tuple[str, ...]:
        """What workers can't see because they lack optional rights, one sentence each.

        If they lack required ones, :class:`~celery_gconc.errors.StoreUnusable` names all of them.
        """
        return self._do(lambda store: store.check_rights())

    def close(self) -> None:
        """Close the connections that were opened. The next call opens new ones."""
        store, self._store = self._store, None
        if store is not None:
            with suppress(Exception):
                store.close()

    def _do(self, function: Callable[[Store], T]) -> T:
        if self._store is None:
            self._store = Store.from_settings(self.settings, self._call_timeout)
        return function(self._store)


def _seconds(duration: float | timedelta | None) -> float | None:
    if duration is None:
        return None
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= MAX_DURATION:
        raise LimitError(f"a duration must be a number of seconds above 0 and at most ten years; got {shown(duration)}")
    return float(seconds)
