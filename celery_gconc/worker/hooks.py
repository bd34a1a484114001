"""The callbacks by which the start and the end of a request are heard of.

    the pool -> Hooks -> Dispatcher (accepted, stopped_running, done), and the request's own callback

Thread: the consumer's hands a request to the pool; the pool calls back on any (in prefork with an event loop, on the
consumer's).
"""

from __future__ import annotations

from typing import Any

from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.concurrency.base import BasePool

from celery_gconc.permit import PERMIT_KEY
from celery_gconc.worker.dispatch import Dispatcher
from celery_gconc.worker.run import RUN_KEY, Run, RunState

#: Errors that a pool reports while the child that ran the task may still live (billiard runs the callbacks of a
#: hard time limit, and Celery those of a terminate, before the kill): the permit is free when the child is gone.
_BEFORE_DEATH = (TimeLimitExceeded, Terminated, WorkerLostError, SystemExit, KeyboardInterrupt)


def hook(run: Run, dispatcher: Dispatcher) -> None:
    """Take a request's callbacks over, for as long as it lives: it looks them up on the instance.

    On the request *instance*: ``create_request_cls`` makes a subclass whose ``on_success`` and ``execute_using_pool``
    don't call super (celery 3.1 to 5.7), so no ``Task.Request`` class could see them. :meth:`Run.let_go` undoes it.
    """
    hooks = Hooks(run, dispatcher)
    attributes = run.request.__dict__
    attributes[RUN_KEY] = run
    attributes["execute_using_pool"] = hooks.execute_using_pool
    attributes["on_accepted"] = hooks.on_accepted
    attributes["on_success"] = hooks.on_success
    attributes["on_failure"] = hooks.on_failure
    attributes["on_timeout"] = hooks.on_timeout


class Hooks:
    """One request's."""

    __slots__ = ("_dispatcher", "_run")

    def __init__(self, run: Run, dispatcher: Dispatcher) -> None:
        self._run = run
        self._dispatcher = dispatcher

    def execute_using_pool(self, pool: BasePool, **kwargs: Any) -> Any:
        """Hand the request to the pool; revoked or refused, it ends here."""
        run, dispatcher = self._run, self._dispatcher
        request = run.request
        if (permit := run.permit) is not None and permit.fence:
            request.delivery_info[PERMIT_KEY] = permit.for_task(dispatcher.session)
        try:
            result = type(request).execute_using_pool(request, pool, **kwargs)
        except BaseException:  # TaskRevokedError is swallowed by WorkController._process_task
            dispatcher.done(run)
            raise
        run.job = result
        self._follow(result)
        if run.state is RunState.ENDED:
            run.job = None  # it ended on another thread meanwhile
        return result

    def _follow(self, result: Any) -> None:
        """Where the pool itself can tell that a task is over, hear it: a callback may be skipped by an error.

        (celery 5.4-5.7: ``concurrency.base.apply_target`` calls none where tracing itself raises.)
        """
        future = getattr(result, "f", result)  # celery 5.4-5.7: ApplyResult of the threads pool has it there
        if hasattr(future, "add_done_callback"):
            future.add_done_callback(self._over)
        elif hasattr(result, "link"):  # a greenlet
            result.link(self._over)
        elif result is None and self._dispatcher.pool.runs_inline:
            self._dispatcher.done(self._run)

    def _over(self, _result: Any) -> None:
        self._dispatcher.done(self._run)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The task starts in the child *pid*."""
        request = self._run.request
        try:
            type(request).on_accepted(request, pid, time_accepted)
        finally:
            self._dispatcher.runs.accepted(self._run, pid)

    def on_success(self, *args: Any, **kwargs: Any) -> Any:
        """A result has come from the task, good or bad: it runs no more."""
        self._dispatcher.stopped_running(self._run)
        request = self._run.request
        try:
            return type(request).on_success(request, *args, **kwargs)
        finally:
            self._dispatcher.done(self._run)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """The task failed, or the pool lost it."""
        exc = exc_info.exception
        exc = getattr(exc, "exc", exc)  # celery and billiard: ExceptionWithTraceback
        dying = isinstance(exc, _BEFORE_DEATH) and self._dispatcher.runs.may_still_run(self._run)
        if not dying:
            self._dispatcher.stopped_running(self._run)
        request = self._run.request
        try:
            return type(request).on_failure(request, exc_info, *args, **kwargs)
        finally:
            if not dying:
                self._dispatcher.done(self._run)

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """A time limit has passed: after a hard one the child is killed, but only after this call."""
        request = self._run.request
        try:
            return type(request).on_timeout(request, soft, timeout)
        finally:
            if not soft and not self._dispatcher.runs.may_still_run(self._run):
                self._dispatcher.done(self._run)
