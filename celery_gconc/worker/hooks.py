"""The callbacks by which the start and the end of a request are heard of.

    the pool -> Hooks -> Dispatcher (accepted, stopped_running, done), and the request's own callback

Thread: the consumer's hands a request to the pool; the pool calls back on any (in prefork with an event loop, on the
consumer's).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.concurrency.base import BasePool

from celery_gconc.permit import PERMIT_KEY
from celery_gconc.worker.dispatch import Dispatcher
from celery_gconc.worker.run import ENDED, RUN_KEY, Run

#: Errors that a pool reports while the child that ran the task may still live (billiard runs the callbacks of a
#: hard time limit, and Celery those of a terminate, before the kill): the permit is free when the child is gone.
_BEFORE_DEATH = (TimeLimitExceeded, Terminated, WorkerLostError, SystemExit, KeyboardInterrupt)


def hook(run: Run, dispatcher: Dispatcher) -> None:
    """Take a request's callbacks over, for as long as it lives: it becomes one of a subclass of its class.

    ``create_request_cls`` makes a subclass whose ``on_success`` and ``execute_using_pool`` don't call super (celery 3.1
    to 5.7), so no ``Task.Request`` class could see them: ours is derived from that one. A request that
    :meth:`Run.let_go` has let go does what its own class does.
    """
    request = run.request
    cls = type(request)
    hooked = dispatcher.hooked.get(cls)
    if hooked is None:
        own = cls.__dict__.get("gconc_own", cls)  # it may come from another gate
        hooked = dispatcher.hooked[own] = _hooked(own, dispatcher)
        dispatcher.hooked[hooked] = hooked
    if hooked is not cls:  # else it has been here before
        request.__class__ = hooked
    request.gconc_run = run


def _hooked(own: type, dispatcher: Dispatcher) -> type:
    """The class of the hooked requests of a class."""
    methods = {name: method for name, method in vars(Hooks).items() if callable(method)}
    if not dispatcher.pool.has_children:
        del methods["on_accepted"]  # no child can die under its task
    # A namespace, not a second base: an instance may only change to a class of the same layout.
    added = {"__slots__": (), RUN_KEY: None, "gconc_own": own, "gconc_dispatcher": dispatcher, **methods}
    added |= {f"gconc_{name}": getattr(own, name, None) for name in methods}
    return type(own.__name__, (own,), added)


class Hooks:
    """What a request of ours does at each step of its way through the pool, beside what its own class does.

    Its methods are those of each subclass that :func:`hook` makes; what they have taken the place of goes by the same
    names with a prefix.
    """

    #: The run that the request is, while its callbacks are ours; and what the worker starts requests with.
    gconc_run: Run | None
    gconc_dispatcher: Dispatcher

    #: Of Celery's.
    delivery_info: dict[str, Any]
    gconc_execute_using_pool: Callable[..., Any]
    gconc_on_accepted: Callable[..., Any]
    gconc_on_success: Callable[..., Any]
    gconc_on_failure: Callable[..., Any]
    gconc_on_timeout: Callable[..., Any]

    def execute_using_pool(self, pool: BasePool, **kwargs: Any) -> Any:
        """Hand the request to the pool; revoked or refused, it ends here."""
        run = self.gconc_run
        if run is None:
            return self.gconc_execute_using_pool(pool, **kwargs)
        dispatcher, permit = self.gconc_dispatcher, run.permit
        if permit is not None and permit.fencing_number:
            self.delivery_info[PERMIT_KEY] = permit.for_task(run.limits_at_start, dispatcher.session)
        try:
            result = self.gconc_execute_using_pool(pool, **kwargs) if kwargs else self.gconc_execute_using_pool(pool)
        except BaseException:  # TaskRevokedError is swallowed by WorkController._process_task
            dispatcher.done(run)
            raise
        if result is not None:
            run.job = result
            if not dispatcher.pool.has_children:
                _follow(result, run, dispatcher)
            if run.state is ENDED:
                run.job = None  # it ended on another thread meanwhile
        elif dispatcher.pool.runs_inline:
            dispatcher.done(run)
        return result

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The task starts in the child *pid*: only where there are children."""
        run = self.gconc_run
        try:
            self.gconc_on_accepted(pid, time_accepted)
        finally:
            if run is not None:
                self.gconc_dispatcher.runs.accepted(run, pid)

    def on_success(self, result: Any, **kwargs: Any) -> Any:
        """A result has come from the task, good or bad: it runs no more."""
        run = self.gconc_run
        if run is None:
            return self.gconc_on_success(result, **kwargs)
        dispatcher = self.gconc_dispatcher
        dispatcher.stopped_running(run)
        try:
            return self.gconc_on_success(result, **kwargs) if kwargs else self.gconc_on_success(result)
        finally:
            dispatcher.done(run)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """The task failed, or the pool lost it."""
        run = self.gconc_run
        if run is None:
            return self.gconc_on_failure(exc_info, *args, **kwargs)
        exc = exc_info.exception
        exc = getattr(exc, "exc", exc)  # celery and billiard: ExceptionWithTraceback
        dying = isinstance(exc, _BEFORE_DEATH) and self.gconc_dispatcher.runs.may_still_run(run)
        if not dying:
            self.gconc_dispatcher.stopped_running(run)
        try:
            return self.gconc_on_failure(exc_info, *args, **kwargs)
        finally:
            if not dying:
                self.gconc_dispatcher.done(run)

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """A time limit has passed: after a hard one the child is killed, but only after this call."""
        run = self.gconc_run
        try:
            return self.gconc_on_timeout(soft, timeout)
        finally:
            if run is not None and not soft and not self.gconc_dispatcher.runs.may_still_run(run):
                self.gconc_dispatcher.done(run)


def _follow(result: Any, run: Run, dispatcher: Dispatcher) -> None:
    """Hear it of the pool itself that a task is over, where that can tell: a callback may be skipped by an error.

    (celery 5.4-5.7: ``concurrency.base.apply_target`` calls none where tracing itself raises.)
    """
    future = getattr(result, "f", result)  # celery 5.4-5.7: ApplyResult of the threads pool has it there
    if hasattr(future, "add_done_callback"):
        future.add_done_callback(lambda _: dispatcher.done(run))
    elif hasattr(result, "link"):  # a greenlet
        result.link(lambda _: dispatcher.done(run))
