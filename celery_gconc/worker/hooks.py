"""The callbacks by which the start and the end of a request are heard of.

    the pool -> Hooks -> Dispatcher (accepted, stopped_running, done), and the request's own callback

Thread: the consumer's hands a request to the pool; the pool calls back on any (in prefork with an event loop, on the
consumer's).
"""

from __future__ import annotations

from typing import Any, cast

from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.concurrency.base import BasePool

from celery_gconc.permit import PERMIT_KEY
from celery_gconc.worker.dispatch import Dispatcher
from celery_gconc.worker.run import RUN_KEY, Run, RunState

#: Errors that a pool reports while the child that ran the task may still live (billiard runs the callbacks of a
#: hard time limit, and Celery those of a terminate, before the kill): the permit is free when the child is gone.
_BEFORE_DEATH = (TimeLimitExceeded, Terminated, WorkerLostError, SystemExit, KeyboardInterrupt)


#: Where a request class keeps the class of its hooked requests.
_HOOKED_KEY = "_gconc_hooked"


def hook(run: Run, dispatcher: Dispatcher) -> None:
    """Take a request's callbacks over, for as long as it lives: it becomes one of a subclass of its class.

    ``create_request_cls`` makes a subclass whose ``on_success`` and ``execute_using_pool`` don't call super (celery 3.1
    to 5.7), so no ``Task.Request`` class could see them: ours is derived from that one. A request that
    :meth:`Run.let_go` has let go does what its own class does.
    """
    request = run.request
    request.__dict__[RUN_KEY] = run
    cls = type(request)
    if hasattr(cls, "gconc_own"):
        return  # it has been here before
    hooked = cls.__dict__.get(_HOOKED_KEY)
    if hooked is None or hooked.gconc_dispatcher is not dispatcher:
        # A namespace, not a second base: an instance may only change to a class of the same layout.
        added = {"__slots__": (), "gconc_own": cls, "gconc_dispatcher": dispatcher, **_METHODS}
        hooked = type(cls.__name__, (cls,), added)
        setattr(cls, _HOOKED_KEY, hooked)
    request.__class__ = hooked


class Hooks:
    """What a request of ours does at each step of its way through the pool, beside what its own class does.

    Its methods are those of each subclass that :func:`hook` makes.
    """

    #: The request's own class, and what the worker starts requests with.
    gconc_own: Any
    gconc_dispatcher: Dispatcher

    def execute_using_pool(self, pool: BasePool, **kwargs: Any) -> Any:
        """Hand the request to the pool; revoked or refused, it ends here."""
        request = cast("Any", self)
        run, dispatcher = request.__dict__.get(RUN_KEY), self.gconc_dispatcher
        if run is None:
            return self.gconc_own.execute_using_pool(self, pool, **kwargs)
        if (permit := run.permit) is not None and permit.fencing_number:
            request.delivery_info[PERMIT_KEY] = permit.for_task(dispatcher.session)
        try:
            result = self.gconc_own.execute_using_pool(self, pool, **kwargs)
        except BaseException:  # TaskRevokedError is swallowed by WorkController._process_task
            dispatcher.done(run)
            raise
        run.job = result
        _follow(result, run, dispatcher)
        if run.state is RunState.ENDED:
            run.job = None  # it ended on another thread meanwhile
        return result

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The task starts in the child *pid*."""
        run: Run | None = self.__dict__.get(RUN_KEY)
        try:
            self.gconc_own.on_accepted(self, pid, time_accepted)
        finally:
            if run is not None:
                self.gconc_dispatcher.runs.accepted(run, pid)

    def on_success(self, *args: Any, **kwargs: Any) -> Any:
        """A result has come from the task, good or bad: it runs no more."""
        run: Run | None = self.__dict__.get(RUN_KEY)
        if run is None:
            return self.gconc_own.on_success(self, *args, **kwargs)
        self.gconc_dispatcher.stopped_running(run)
        try:
            return self.gconc_own.on_success(self, *args, **kwargs)
        finally:
            self.gconc_dispatcher.done(run)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """The task failed, or the pool lost it."""
        run: Run | None = self.__dict__.get(RUN_KEY)
        if run is None:
            return self.gconc_own.on_failure(self, exc_info, *args, **kwargs)
        exc = exc_info.exception
        exc = getattr(exc, "exc", exc)  # celery and billiard: ExceptionWithTraceback
        dying = isinstance(exc, _BEFORE_DEATH) and self.gconc_dispatcher.runs.may_still_run(run)
        if not dying:
            self.gconc_dispatcher.stopped_running(run)
        try:
            return self.gconc_own.on_failure(self, exc_info, *args, **kwargs)
        finally:
            if not dying:
                self.gconc_dispatcher.done(run)

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """A time limit has passed: after a hard one the child is killed, but only after this call."""
        run: Run | None = self.__dict__.get(RUN_KEY)
        try:
            return self.gconc_own.on_timeout(self, soft, timeout)
        finally:
            if run is not None and not soft and not self.gconc_dispatcher.runs.may_still_run(run):
                self.gconc_dispatcher.done(run)


_METHODS = {name: method for name, method in vars(Hooks).items() if callable(method)}


def _follow(result: Any, run: Run, dispatcher: Dispatcher) -> None:
    """Where the pool itself can tell that a task is over, hear it: a callback may be skipped by an error.

    (celery 5.4-5.7: ``concurrency.base.apply_target`` calls none where tracing itself raises.)
    """
    if dispatcher.pool.has_children and result is not None:
        return
    future = getattr(result, "f", result)  # celery 5.4-5.7: ApplyResult of the threads pool has it there
    if hasattr(future, "add_done_callback"):
        future.add_done_callback(lambda _: dispatcher.done(run))
    elif hasattr(result, "link"):  # a greenlet
        result.link(lambda _: dispatcher.done(run))
    elif result is None and dispatcher.pool.runs_inline:
        dispatcher.done(run)
