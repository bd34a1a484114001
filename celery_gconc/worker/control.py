"""Remote control: a front end to the limits in Redis.

    celery control -> argument types (in the CLI) -> broadcast -> handler -> ChangeRequest -> link -> Redis

Thread: consumer.

Redis is the source of truth, so a worker that was down obeys too. The argument types refuse bad input at the shell,
and take a ticket from Redis when the command is *given*: Redis applies a ticket once, and none after a later one.
So ten workers may handle one broadcast, and one that is handled late undoes nothing. Callers that send plain values
(``app.control.broadcast``) take their ticket when they are handled: the last write wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import asdict, dataclass
from typing import Any

from celery.worker import state as worker_state
from celery.worker.control import control_command, inspect_command

from celery_gconc.errors import GlobalConcurrencyError, LimitError, StoreUnavailable
from celery_gconc.limits.name import parse_limit, shown
from celery_gconc.limits.rules import parse_max
from celery_gconc.operations.arguments import TAKES_TWO, limit_argument, max_argument, size_argument, ticketed_limit
from celery_gconc.protocol.status import Change
from celery_gconc.protocol.store import Store

#: How long, in seconds, a handler waits for Redis before it answers "accepted but not confirmed".
CONFIRM_SECONDS = 0.5

#: How many requests a worker discards for one command: each is acknowledged and announced by its event loop.
MAX_PURGED = 500

#: The highest ticket, and the longest name of who makes a change, that are taken from a broadcast.
MAX_TICKET, MAX_BY = 10**13, 200


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """What one broadcast asks for: ``set`` (to :attr:`max`; None = unlimited), ``reset``, ``pause`` or ``resume``."""

    kind: str
    limit: str
    by: str
    ticket: int
    max: int | None = None

    def apply(self, store: Store) -> Change:
        """Make the change. On the link's thread."""
        if self.kind == "set":
            return store.set(self.limit, self.max, by=self.by, ticket=self.ticket)
        if self.kind == "reset":
            return store.reset(self.limit, by=self.by, ticket=self.ticket)
        return store.pause(self.limit, self.kind == "pause", by=self.by, ticket=self.ticket)


@control_command(args=[("limit", ticketed_limit), ("max", max_argument)], signature="<limit> <max|unlimited>")
def set_global_concurrency(state: Any, limit: Any = None, max: Any = None, **kwargs: Any) -> dict[str, Any]:
    """Set how many tasks may run at once under a limit across the cluster."""
    if max is None:
        return {"error": TAKES_TWO}
    return _change(state, limit, "set", max)


@control_command(args=[("limit", ticketed_limit)], signature="<limit>")
def reset_global_concurrency(state: Any, limit: Any = None, **kwargs: Any) -> dict[str, Any]:
    """Go back to the configured max of a limit."""
    return _change(state, limit, "reset")


@control_command(args=[("limit", ticketed_limit)], signature="<limit>")
def pause_global_concurrency(state: Any, limit: Any = None, **kwargs: Any) -> dict[str, Any]:
    """Stop starting tasks under a limit; running tasks continue."""
    return _change(state, limit, "pause")


@control_command(args=[("limit", ticketed_limit)], signature="<limit>")
def resume_global_concurrency(state: Any, limit: Any = None, **kwargs: Any) -> dict[str, Any]:
    """Resume a limit after a pause."""
    return _change(state, limit, "resume")


@control_command(args=[("limit", limit_argument)], signature="<limit>")
def purge_global_concurrency(state: Any, limit: Any = None, **kwargs: Any) -> dict[str, Any]:
    """Discard the tasks that wait for a limit in this worker; `celery gconc purge` empties the broker too."""
    step = _step(state)
    if step is None:
        return {"error": _NOT_INSTALLED}
    try:
        name = step.full_name(parse_limit(limit))
    except LimitError as exc:
        return {"error": f"{exc}; nothing was discarded"}
    purged = step.parts.gate.purge(name, MAX_PURGED)
    more = "; there may be more" if purged == MAX_PURGED else ""
    return {"ok": f"{name}: {purged} discarded{more}", "purged": purged}


@control_command(signature="")
def state_global_concurrency(state: Any, **kwargs: Any) -> dict[str, Any]:
    """Have a worker tell Redis at once what it runs and holds, and what waits; `celery gconc status --now` does."""
    step = _step(state)
    if step is None:
        return {"error": _why_none(state)}
    try:
        step.parts.metering.count()
        step.parts.link.state().result(CONFIRM_SECONDS)
    except FutureTimeout:
        return {"error": f"the coordination Redis did not answer within {CONFIRM_SECONDS} s"}
    except GlobalConcurrencyError as exc:
        return {"error": str(exc)}
    return {"ok": "told"}


@control_command(args=[("size", size_argument)], signature="<pool size>")
def set_local_concurrency(state: Any, size: Any = None, **kwargs: Any) -> dict[str, Any]:
    """Change this worker's pool size, to an absolute number."""
    step = _step(state)
    if step is None:
        return {"error": _why_none(state)}
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        return {"error": f"a pool size must be a whole number >= 1; got {shown(size)}"}
    try:
        done = step.parts.pool.resize(size)
    except LimitError as exc:
        return {"error": str(exc)}
    step.parts.turns.wake()
    return {"ok": done}


@inspect_command(args=[("limit", limit_argument)], signature="[limit]")
def global_concurrency(state: Any, limit: Any = None, **kwargs: Any) -> dict[str, Any]:
    """Show limits across the cluster: max, running, waiting, who set them and when."""
    step = _step(state)
    if step is None:
        return {"error": _why_none(state)}
    try:
        name = None if limit is None else parse_limit(limit)
        status = step.parts.link.call(lambda store: store.status(name, sessions=False)).result(CONFIRM_SECONDS)
    except FutureTimeout:
        return {"error": f"the coordination Redis did not answer within {CONFIRM_SECONDS} s"}
    except GlobalConcurrencyError as exc:
        return {"error": str(exc)}
    return {found.limit: _without_none(asdict(found)) for found in status}


@inspect_command(args=[("task_id", str)], signature="<task id>")
def global_concurrency_task(state: Any, task_id: Any = None, **kwargs: Any) -> dict[str, Any]:
    """Show what a worker is doing with a task (parked, running, scheduled...), and whether it is revoked."""
    step = _step(state)
    if step is None:
        return {"error": _why_none(state)}
    task_id = str(task_id)
    found: dict[str, Any] = step.parts.gate.where(task_id) or _before_the_gate(state.consumer, task_id)
    return {**found, "revoked": True} if task_id in worker_state.revoked else found


def _before_the_gate(consumer: Any, task_id: str) -> dict[str, Any]:
    """A task that has not come to the gate yet: Celery itself holds it (celery 5.4-5.7; query_task sees neither)."""
    for entry in list(consumer.timer.schedule.queue):
        request: Any = next(iter(getattr(entry.entry, "args", None) or ()), None)
        if getattr(request, "id", None) == task_id:
            return {"state": "scheduled", "task": request.name, "eta": str(request.eta)}
    for name, bucket in list(consumer.task_buckets.items()):
        for request, _ in list(bucket.contents if bucket is not None else ()):
            if request.id == task_id:
                return {"state": "rate limited", "task": name, "rate": consumer.app.tasks[name].rate_limit}
    return {}


_NOT_INSTALLED = "celery-gconc is not installed in this worker's app: add GlobalConcurrency(app)"


def _step(state: Any) -> Any:
    return getattr(state.consumer, "global_concurrency", None)


def _why_none(state: Any) -> str:
    return getattr(state.consumer, "global_concurrency_off", _NOT_INSTALLED)


def _change(state: Any, limit: Any, kind: str, maximum: object = None) -> dict[str, Any]:
    """Have the link make a change, and wait for it only a moment: this is the worker's loop."""
    step = _step(state)
    if step is None:
        return {"error": _why_none(state)}
    command = limit if isinstance(limit, Mapping) else {"name": limit}
    by, ticket = command.get("by") or state.hostname, command.get("ticket") or 0
    if not isinstance(ticket, int) or not 0 <= ticket <= MAX_TICKET:  # bool: as good as a number
        return {"error": f"invalid ticket: {shown(ticket)}; nothing was changed"}
    by = str(by)[:MAX_BY].encode("utf-8", "replace").decode()  # whoever broadcasts may claim to be anybody
    try:
        name = step.full_name(parse_limit(command.get("name")))
        request = ChangeRequest(kind, name, by, ticket, parse_max(maximum))
        return {"ok": str(step.parts.link.call(request.apply).result(CONFIRM_SECONDS))}
    except FutureTimeout:
        return {"ok": f"{name}: accepted but not confirmed: Redis did not answer within {CONFIRM_SECONDS} s"}
    except StoreUnavailable as exc:
        return {"error": f"{exc}; it is not known whether the change was applied"}
    except GlobalConcurrencyError as exc:
        return {"error": f"{exc}; nothing was changed"}


def _without_none(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if value is not None or key == "max"}
