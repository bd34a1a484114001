"""A request on its way through the gate, and the callbacks by which its end is heard of.

pool callback -> Run -> Gate (accepted, succeed, end) -> the request's own callback
"""

from __future__ import annotations

from typing import Any, Protocol

from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.concurrency.base import BasePool

from celery_gconc.clock import now
from celery_gconc.limits.claims import Limits
from celery_gconc.permit import PERMIT_KEY
from celery_gconc.worker.ledger.permit import Permit

#: Errors that a pool reports while the child that ran the task may still live (billiard runs the callbacks of a
#: hard time limit, and Celery those of a terminate, before the kill): the permit is free when the child is gone.
_BEFORE_DEATH = (TimeLimitExceeded, Terminated, WorkerLostError, SystemExit, KeyboardInterrupt)


_HOOKS = ("execute_using_pool", "on_accepted", "on_success", "on_failure", "on_timeout")


class RunOwner(Protocol):
    """What a run tells of itself to its gate."""

    #: Whether a pool that gives nothing back has run the task (solo), or takes none any more (prefork, closed).
    runs_inline: bool

    @property
    def session(self) -> str:
        """The session whose permits are given."""

    def accepted(self, run: Run, pid: int) -> None:
        """It starts in the child *pid*."""

    def succeed(self, run: Run) -> None:
        """It runs no more."""

    def end(self, run: Run) -> None:
        """It is done with altogether."""

    def may_still_run(self, run: Run) -> bool:
        """Whether the child that had it may still be alive."""


class Run:
    """One request on its way through the gate: its callbacks are ours for as long as it lives.

    The hooks stand on the request *instance*: ``create_request_cls`` makes a subclass whose ``on_success`` and
    ``execute_using_pool`` don't call super (celery 3.1 to 5.7), so no ``Task.Request`` class could see them.
    """

    __slots__ = (
        "arrived", "counted", "ended", "gate", "granted", "job", "kept",
        "limits", "may_move", "names", "permit", "queue", "request", "waits",
    )  # fmt: skip

    def __init__(self, gate: RunOwner, request: Any, names: Limits, limits: Limits, queue: str | None) -> None:
        self.gate = gate
        self.request = request
        self.names = names
        self.limits = limits
        self.queue = queue
        self.permit: Permit | None = None
        self.arrived = 0.0
        self.granted = 0.0
        #: The limits under which its grant was told and counted: others may cover it by the time at which it ends.
        self.counted: Limits = ()
        self.ended = False
        #: What the pool gave for it.
        self.job: Any = None
        #: Whether it was seen to wait for a permit while a slot was free.
        self.waits = False
        #: Whether its message may go back to its queue for other workers to take.
        self.may_move = False
        #: When the broker was last told that its message is held.
        self.kept = 0.0

    @property
    def task_id(self) -> str:
        """The id of the task."""
        return str(self.request.id)

    @property
    def task(self) -> str:
        """The registered name of the task."""
        return str(self.request.task.name)

    @property
    def message_id(self) -> tuple[str, int]:
        """What tells its message from others, however often it is delivered: a retry has the id of its task."""
        return self.task_id, int(self.request.request_dict.get("retries") or 0)

    @property
    def is_revoked(self) -> bool:
        """Whether it is not to be run any more. Celery acknowledges and announces it on this call."""
        return bool(self.request.revoked())

    def purge(self) -> None:
        """It is not to be run: acknowledged, and announced as revoked (celery 5.4-5.7: as ``revoked()`` does it)."""
        self.request._announce_revoked("purged", False, None, False)

    @property
    def delivered_at(self) -> float:
        """When the broker delivered it, where that was noted; else when it arrived."""
        return float(self.request.__dict__.get("gconc_delivered_at", self.arrived))

    @classmethod
    def of(cls, request: Any) -> Run | None:
        """The run whose hooks a request has, if any."""
        run = getattr(request.__dict__.get("execute_using_pool"), "__self__", None)
        return run if isinstance(run, cls) else None

    def hook(self) -> None:
        """Take the request's callbacks over. They are looked up on the instance when it goes to the pool."""
        self.request.__dict__.update(
            execute_using_pool=self.execute_using_pool,
            on_accepted=self.on_accepted,
            on_success=self.on_success,
            on_failure=self.on_failure,
            on_timeout=self.on_timeout,
        )

    def unhook(self) -> None:
        """Give the callbacks back, which also breaks the reference cycle."""
        attributes = self.request.__dict__
        for name in _HOOKS:
            attributes.pop(name, None)

    def execute_using_pool(self, pool: BasePool, **kwargs: Any) -> Any:
        """Hand the request to the pool; revoked or refused, it ends here."""
        request = self.request
        if (permit := self.permit) is not None and permit.fence:
            request.delivery_info[PERMIT_KEY] = permit.for_task(self.gate.session)
        try:
            result = type(request).execute_using_pool(request, pool, **kwargs)
        except BaseException:  # TaskRevokedError is swallowed by WorkController._process_task
            self.gate.end(self)
            raise
        self.job = result
        self._follow(result)
        return result

    def _follow(self, result: Any) -> None:
        """Where the pool itself can tell that a task is over, hear it: a callback may be skipped by an error.

        (celery 5.4-5.7: ``concurrency.base.apply_target`` calls none where tracing itself raises.)
        """
        future = getattr(result, "f", result)  # celery 5.4-5.7: ApplyResult of the threads pool has it there
        if hasattr(future, "add_done_callback"):
            future.add_done_callback(lambda _: self.gate.end(self))
        elif hasattr(result, "link"):  # a greenlet
            result.link(lambda _: self.gate.end(self))
        elif result is None and self.gate.runs_inline:
            self.gate.end(self)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The task starts in the child *pid*."""
        request = self.request
        try:
            type(request).on_accepted(request, pid, time_accepted)
        finally:
            if self.permit is not None:
                self.gate.accepted(self, pid)

    def on_success(self, *args: Any, **kwargs: Any) -> Any:
        """A result has come from the task, good or bad: it runs no more."""
        self.gate.succeed(self)
        request = self.request
        try:
            return type(request).on_success(request, *args, **kwargs)
        finally:
            self.gate.end(self)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """The task failed, or the pool lost it."""
        exc = exc_info.exception
        exc = getattr(exc, "exc", exc)  # celery and billiard: ExceptionWithTraceback
        dying = isinstance(exc, _BEFORE_DEATH) and self.gate.may_still_run(self)
        if not dying:
            self.gate.succeed(self)
        request = self.request
        try:
            return type(request).on_failure(request, exc_info, *args, **kwargs)
        finally:
            if not dying:
                self.gate.end(self)

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """A time limit has passed: after a hard one the child is killed, but only after this call."""
        request = self.request
        try:
            return type(request).on_timeout(request, soft, timeout)
        finally:
            if not soft and not self.gate.may_still_run(self):
                self.gate.end(self)


def note_delivery(request: Any) -> None:
    """Remember when the broker delivered a request: before it comes to the gate, it may wait (ETA, rate limit)."""
    request.__dict__["gconc_delivered_at"] = now()
