"""The link: the thread around a session. It sleeps until there is something to do, and retries while Redis is away.

    Ledger -> Caller -> bell -> Link -> Session.run_once;  Redis -> Link -> Notices;  Children -> Link -> Runs

Thread: its own; :meth:`Link.start`, :meth:`Link.call` and :meth:`Link.stop` are for others.

It never runs, acknowledges or revokes a request, and never forks. It lives from the first start of the worker's
consumer to its shutdown, through broker reconnects and the drain of a warm shutdown.
"""

from __future__ import annotations

import atexit
import random
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from celery.utils.log import get_logger

from celery_gconc.clock import now
from celery_gconc.errors import SessionRefused, StoreUnavailable, StoreUnusable
from celery_gconc.protocol.scripts import LAST_RETRY
from celery_gconc.protocol.session_store import SessionStore
from celery_gconc.settings import Settings
from celery_gconc.worker.children import Children
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.session.counts import Counters
from celery_gconc.worker.session.health import Health
from celery_gconc.worker.session.identity import Identity
from celery_gconc.worker.session.notices import Notices
from celery_gconc.worker.session.session import Session
from celery_gconc.worker.turns import Caller
from celery_gconc.worker.wake import Bell, Wakeable

logger = get_logger(__name__)

#: Seconds until the first new try to reach a Redis that is away: doubled up to LAST_RETRY, with jitter; and no more
#: than half a heartbeat interval. A Redis that has lost its data waits for a little longer for those who lived, even
#: where the first to come has a shorter interval than they (``until_back`` in ``lua/session/open.lua``).
FIRST_RETRY = 0.1

#: How often, in seconds, the log says again that Redis can't be used until somebody changes something.
REMINDER_SECONDS = 300.0

#: For how many seconds what was due later is left to the event loop, which says it at less cost when it is due.
LOOP_PATIENCE = 0.1

#: How long, in seconds, a call to Redis may take; no longer than a heartbeat interval.
MAX_CALL = 5.0

#: How long, in seconds, :meth:`Link.stop` waits for the last round trip.
STOP_TIMEOUT = 3.0

T = TypeVar("T")


class Runs(Protocol):
    """What the link tells of the requests that were handed to the pool."""

    def child_exited(self, pid: int) -> None:
        """A child is gone, and whatever it ran with it."""

    def result_written(self, job: int) -> None:
        """A job's task has ended, though its result is not read yet."""


class Link:
    """One worker's. Its own thread owns every field that names no other owner, and uses them with the floor."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger[Any],
        *,
        bell: Bell,
        health: Health,
        counters: Counters,
        identity: Identity,
        children: Children,
        runs: Runs,
        consumer: Wakeable,
        caller: Caller,
    ) -> None:
        #: Whoever has it may use the session, the notices and their connections. This thread waits for it, the event
        #: loop never does.
        self.floor = threading.RLock()
        self._settings, self._ledger, self._identity = settings, ledger, identity
        self._bell, self._health, self._counters = bell, health, counters
        self._children, self._runs, self._consumer, self._caller = children, runs, consumer, caller
        self.store = SessionStore.from_settings(settings, call_timeout=min(settings.heartbeat_interval, MAX_CALL))
        #: The data of each file is a function, which is called when there is something to read.
        self._selector = selectors.DefaultSelector()
        self._selector.register(bell, selectors.EVENT_READ, bell.hear)
        children.attach(self._selector)
        self.notices = Notices(
            self.store, ledger, self._selector, consumer, floor=self.floor, patience=settings.heartbeat_interval
        )
        self.session = Session(
            settings,
            self.store,
            ledger,
            self.notices,
            identity=identity,
            counters=counters,
            health=health,
            consumer=consumer,
        )
        #: Calls of others with the store. Any thread appends, the link's takes.
        self._calls: deque[tuple[Callable[[SessionStore], Any], Future[Any]]] = deque()
        #: Set by :meth:`stop`, on any thread.
        self._is_stopping = False
        #: Whether the thread is to end though tasks may run: Redis is away at the end, or this worker must not run.
        self._is_over = False
        #: When Redis, which is away, is tried again, by :func:`now`; and after how long the time after that.
        self._next_try = 0.0
        self._retry_after = FIRST_RETRY
        #: From when on the log says again that Redis can't be used: once, though tries may fail otherwise in between.
        self._next_reminder = 0.0
        self._thread = threading.Thread(target=self.run, name="celery-gconc-link", daemon=True)

    @property
    def is_started(self) -> bool:
        """Whether :meth:`start` was called."""
        return self._thread.ident is not None

    # -- For other threads -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def call(self, function: Callable[[SessionStore], T]) -> Future[T]:
        """Run *function* with the store on the link's thread, between syncs."""
        future: Future[T] = Future()
        if (trouble := self._health.trouble) is not None:
            future.set_exception(StoreUnavailable(trouble))
            return future
        self._calls.append((function, future))
        self._bell.ring()
        return future

    def state(self) -> Future[None]:
        """Have Redis told at once what runs, waits and is held here."""
        return self.call(lambda store: self.session.state(now()))

    def stop(self) -> None:
        """End the session and the thread: at once where nothing runs any more, else when the last task has ended.

        A pool's own threads run on after a cold shutdown, and the interpreter waits for them (``concurrent.futures``)
        before it calls what stands in :mod:`atexit`; for this one, a daemon, nobody else would.
        """
        self._is_stopping = True
        if self._ledger.running_count:
            self._bell.ring()
            atexit.register(self._join)
        else:
            self._join()

    def freeze(self) -> None:
        """Before a fork: the ledger is whole, and stays so until :meth:`thaw`."""
        self._ledger.freeze()

    def thaw(self) -> None:
        """After a fork, on both sides of it, on the thread that forked."""
        self._ledger.thaw()

    def forget_in_child(self) -> None:
        """In a forked child: close this side of every socket, so that only the parent holds the session."""
        self._bell.forget_in_child()
        self.store.forget_in_child()
        self._children.forget_in_child()

    def _join(self) -> None:
        self._bell.ring()
        if self._thread.is_alive() and not self._ledger.running_count:
            self._thread.join(STOP_TIMEOUT)

    # -- The thread --------------------------------------------------------------------------------------

    def run(self) -> None:
        """The thread. Whatever goes wrong, it keeps renewing the lease until it is stopped."""
        while not self._is_over and not (self._is_stopping and not self._ledger.running_count):
            self._turn()
        self._end()

    def _turn(self) -> None:
        try:
            self._guarded_turn()
        except Exception:
            logger.exception("celery-gconc: the link failed while handling a failure; it continues")
            self._next_try = now() + FIRST_RETRY
            time.sleep(FIRST_RETRY)  # whatever failed may fail again at once

    def _guarded_turn(self) -> None:
        try:
            with self.floor:
                timeout = self._work()
            self._take_events(timeout)
        except StoreUnavailable as exc:
            self._counters.count("redis_errors")
            self._lost(exc)
        except SessionRefused as exc:
            self._refused(exc)
        except Exception as exc:
            if self._health.connected or not self._health.tried.is_set():
                logger.exception(
                    "celery-gconc: unexpected error in the link (the thread that talks to Redis); it continues"
                )
            self._lost(StoreUnavailable(f"unexpected error: {exc!r}"))

    def _work(self) -> float:
        """One turn: the session's next step, and the calls of others. Return in how many seconds the next is due."""
        moment = now()
        if moment < self._next_try and not self._is_stopping:
            return self._next_try - moment
        due_at = self.session.run_once(moment, LOOP_PATIENCE if self._caller.calls_loop else 0.0)
        if self.session.is_synced and not self._health.connected:
            self._reached()
        self._do_calls()
        if not self._caller.calls_loop:
            self.notices.select()
        return due_at - now()

    def _take_events(self, timeout: float) -> None:
        """Wait for at most *timeout* seconds for a ring, a notice or the exit of a child, and take in what has come."""
        if (look_seconds := self._children.look_seconds) is not None:
            timeout = min(timeout, look_seconds)
        if self.notices.has_more:
            timeout = 0.0
        for key, _ in self._selector.select(max(timeout, 0.0)):
            key.data()
        if self.notices.has_more:
            self.notices.read()
        while (pid := self._children.exited()) is not None:
            self._runs.child_exited(pid)
        while (job := self._children.written()) is not None:
            self._runs.result_written(job)

    def _do_calls(self) -> None:
        while self._calls:
            function, future = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(self.store))
            except StoreUnavailable as exc:
                future.set_exception(exc)
                raise
            except Exception as exc:  # noqa: BLE001 - the caller's: it gets it
                future.set_exception(exc)

    # -- What becomes of Redis ---------------------------------------------------------------------------

    def _reached(self) -> None:
        where, location = self._settings.safe_url, self._settings.location
        if location is not None and location.keyprefix:
            where += f", namespace {self._settings.namespace}"
        logger.info("celery-gconc: session %s, coordination Redis %s", self.session.id, where)
        self._next_reminder = 0.0
        self._retry_after = FIRST_RETRY
        self._health.reached()
        self._consumer.wake()

    def _lost(self, exc: StoreUnavailable) -> None:
        """Redis is away: say so once, and plan the next try, later each time."""
        if self._is_hopeless(exc):
            self._refused(SessionRefused(f"{exc} ({self._settings.safe_url})"))
            return
        self._log_lost(exc)
        self._health.lost(str(exc), is_unusable=isinstance(exc, StoreUnusable))
        with self.floor:
            self.session.disconnected()
        self._is_over = self._is_stopping
        self._next_try = now() + self._retry_after * random.uniform(0.5, 1.0)
        self._retry_after = min(self._retry_after * 2, LAST_RETRY, self._settings.heartbeat_interval / 2)
        self._fail_calls(exc)
        self._consumer.wake()

    def _is_hopeless(self, exc: StoreUnavailable) -> bool:
        """Whether tasks would wait for what can't be, and that shows at the start."""
        return (
            isinstance(exc, StoreUnusable)
            and not self._health.tried.is_set()
            and bool(self._identity.config)
            and self._settings.on_redis_error == "wait"
        )

    def _log_lost(self, exc: StoreUnavailable) -> None:
        is_unusable = isinstance(exc, StoreUnusable)
        is_due = is_unusable and now() >= self._next_reminder
        if not (self._health.connected or not self._health.tried.is_set() or is_due):
            return
        what = "wait" if self._settings.on_redis_error == "wait" else "run without a permit"
        until = "this is fixed" if is_unusable else "it is back"
        what = (
            f"tasks under limits {what} until {until}" if self._ledger.table else "no limit is known, so no task waits"
        )
        logger.error("celery-gconc: %s (%s); %s", exc, self._settings.safe_url, what)
        if is_unusable:
            self._next_reminder = now() + REMINDER_SECONDS

    def _refused(self, exc: SessionRefused) -> None:
        logger.critical("celery-gconc: refusing to run: %s", exc)
        self._is_over = True
        self._health.refused(str(exc))
        self._consumer.wake()

    def _fail_calls(self, exc: StoreUnavailable) -> None:
        while self._calls:
            _, future = self._calls.popleft()
            if future.set_running_or_notify_cancel():
                future.set_exception(exc)

    def _end(self) -> None:
        with self.floor:
            if not self._ledger.running_count:
                self.session.close(now())
            self.notices.close()
        over = StoreUnavailable("the worker is shutting down")
        self._health.lost(str(over), is_unusable=False)
        self._fail_calls(over)
        with suppress(Exception):
            self.store.close()
        self._children.close()
        self._selector.close()
        self._bell.close()
