"""The link: one background thread that carries a ledger's changes to Redis and brings grants back.

    Ledger -> Link -> Store (sync);  Store (notices, replies) -> Link -> Ledger -> on_news

It only talks to Redis: it never runs, acknowledges or revokes a request, and never forks. It lives from the first
start of the worker's consumer to its shutdown, through broker reconnects and the drain of a warm shutdown.
"""

from __future__ import annotations

import random
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from celery.utils.log import get_logger
from redis.client import PubSub

from celery_gconc.clock import now
from celery_gconc.errors import SessionRefused, StoreUnavailable, StoreUnusable
from celery_gconc.protocol.messages import Former, Opened, Stall, Stranger, Synced
from celery_gconc.protocol.scripts import LAST_RETRY
from celery_gconc.protocol.store import MOST_NOTICES, Store
from celery_gconc.settings import Settings
from celery_gconc.worker.children import PIPES_SECONDS, Children, Pipes
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.session.counts import Tally
from celery_gconc.worker.wake import Bell

logger = get_logger(__name__)

#: Seconds until the first new try to reach a Redis that is away: doubled up to LAST_RETRY, with jitter; and no more
#: than half a heartbeat interval. A Redis that has lost its data waits for a little longer for those who lived, even
#: where the first to come has a shorter interval than they (``until_back`` in ``lua/session/open.lua``).
FIRST_RETRY = 0.1

#: How often, in seconds, it is said again that Redis can't be used until somebody changes something.
REMINDER_SECONDS = 300.0

#: How long, in seconds, after a lease's end a waiting session comes to reclaim it.
RECLAIM_DELAY = 0.01

#: How long, in seconds, :meth:`Link.stop` waits for the last round trip.
STOP_TIMEOUT = 3.0

T = TypeVar("T")


def _named(session: Stranger) -> str:
    """A session's app, as people know it."""
    return f"app {session.app or '(without a name)'} at {session.broker or 'no broker'} ({session.node})"


class Link:
    """Owned by the consumer step. All methods but :meth:`run` are for other threads; :meth:`run` is the thread."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger[Any],
        tally: Tally,
        *,
        info: Mapping[str, Any],
        config: Mapping[str, int],
        queues: Callable[[], Collection[str]],
        on_news: Callable[[], None],
        on_refused: Callable[[str], None],
        on_lease_lost: Callable[[str], None],
        on_child_exit: Callable[[int], None],
        on_result_written: Callable[[int], None],
        stall: Callable[[], Stall | None],
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self._tally = tally
        self.store = Store.from_settings(settings, call_timeout=min(settings.heartbeat_interval, 5.0))
        #: The id of the session; and, while the next is being opened, those under which that was tried.
        self._ids: list[str] = []
        #: Whether the last word with Redis went well. Written by the link's thread only.
        self.connected = False
        #: Whether, while it isn't connected, it can't be until somebody changes something.
        self.is_unusable = False
        #: From when on that is to be said again, by :func:`now`: once, though tries may fail otherwise in between.
        self._next_reminder = 0.0
        self._why = "the coordination Redis has not answered yet"
        #: Set once the first session is open, or Redis was found to be away.
        self.tried = threading.Event()
        self._info, self._config, self._queues = info, config, queues
        self._on_news, self._on_refused = on_news, on_refused
        self._on_lease_lost = on_lease_lost
        self._on_result_written = on_result_written
        self._stall = stall
        self._epoch = ""
        #: How many syncs were sent in this session, and the number of the last that was answered.
        self._syncs = self._confirmed = 0
        #: The end of the lease on Redis' lease clock (ms), as last told.
        self._lease = 0
        #: The longest lease of any session (s), as last told: a Redis that lost its data waits for its end.
        self._longest = 0.0
        #: What operators have set, as last told: a Redis that lost it gets it back.
        self._overrides: Mapping[str, str] = {}
        self._pubsub: PubSub | None = None
        self._pubsub_socket: socket.socket | None = None
        #: Since when the connection for notices owes an answer, by :func:`now`; None = it has given all.
        self._asked_at: float | None = None
        self._calls: list[tuple[Callable[[Store], Any], Future[Any]]] = []
        self._wanted_children: set[int] = set()
        self._stopping = False
        self._opened_once = False
        self._retry_after = FIRST_RETRY
        self._lease_ends = 0.0
        self._next_beat = 0.0
        self._next_reclaim: float | None = None
        self._last_sync = 0.0
        self._bell = Bell()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._children = Children(self._selector, on_child_exit)
        self._pipes = Pipes()
        self._thread = threading.Thread(target=self.run, name="celery-gconc-link", daemon=True)

    @property
    def session(self) -> str:
        """The id of the session."""
        return self._ids[0] if self._ids else ""

    @property
    def has_limits(self) -> bool:
        """Whether this worker is configured with any."""
        return bool(self._config)

    @property
    def trouble(self) -> str | None:
        """Why there is no connection to Redis, and what to do; None where there is one."""
        return None if self.connected else f"{self._why} ({self.settings.safe_url})"

    @property
    def is_started(self) -> bool:
        """Whether :meth:`start` was called."""
        return self._thread.ident is not None

    # -- For other threads -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Have the thread look at the ledger. Cheap, never waits, any thread."""
        self._bell.ring()

    def call(self, function: Callable[[Store], T]) -> Future[T]:
        """Run *function* with the store on the link's thread, between syncs."""
        future: Future[T] = Future()
        if (trouble := self.trouble) is not None:
            future.set_exception(StoreUnavailable(trouble))
            return future
        self._calls.append((function, future))
        self.wake()
        return future

    def watch_child(self, pid: int) -> None:
        """Call ``on_child_exit(pid)`` on the link's thread as soon as that child process is gone."""
        if pid not in self._children and pid not in self._wanted_children:
            self._wanted_children.add(pid)
            self.wake()

    def watch_results(self, pids: Mapping[int, int]) -> None:
        """Call ``on_result_written(job)`` when one of these pipes (number of the job by descriptor) can be read."""
        self._pipes.watch(pids)
        self.wake()

    def stop(self) -> None:
        """End the session and the thread: at once where nothing runs any more, else when the last task has ended."""
        self._stopping = True
        self.wake()
        if self._thread.is_alive() and not self.ledger.running_count:
            self._thread.join(STOP_TIMEOUT)

    def forget_in_child(self) -> None:
        """In a forked child: close this side of every socket, so that only the parent holds the session."""
        self._bell.forget_in_child()
        self.store.forget_in_child()
        self._children.forget_in_child()

    # -- The thread --------------------------------------------------------------------------------------

    def run(self) -> None:
        """The thread's loop: connect, then wait for something to carry, until stopped."""
        while True:
            try:
                if not self.connected:
                    self._connect()
                self._wait()
                if self._stopping and not self.ledger.running_count:
                    break
                self._do_calls()
                self._beat_or_sync()
            except StoreUnavailable as exc:
                self._tally.count("redis_errors")
                self._lost(exc)
                if self._stopping:
                    break
                self._pause()
            except SessionRefused as exc:
                self._on_refused(str(exc))
                self.tried.set()  # whoever waits for it looks whether it was refused
                break
            except Exception as exc:
                # Whatever went wrong, the lease must go on being renewed.
                if self.connected or not self.tried.is_set():
                    logger.exception("celery-gconc: unexpected error in the link; it goes on")
                self._lost(StoreUnavailable(f"unexpected error: {exc!r}"))
                if self._stopping:
                    break
                self._pause()
        self._end()

    def _connect(self) -> None:
        try:
            self._check_server()
            if self._opened_once:
                self._resubscribe()
                self.ledger.sync_failed()
                self._sync(full=True)
            else:
                self._open()
        except StoreUnusable as exc:
            if not self.tried.is_set() and self.has_limits and self.settings.on_redis_error == "wait":
                # The first that is known of it; tasks would wait for what can't be.
                raise SessionRefused(f"{exc} ({self.settings.safe_url})") from exc
            raise
        if not self.connected:
            where, place = self.settings.safe_url, self.settings.place
            if place is not None and place.keyprefix:
                where += f", namespace {self.settings.namespace}"
            logger.info("celery-gconc: session %s, coordination Redis %s", self.session, where)
        self.connected, self.is_unusable = True, False
        self._next_reminder = 0.0
        self._retry_after = FIRST_RETRY
        self.tried.set()
        self._on_news()

    def _check_server(self) -> None:
        if self._opened_once:
            return
        for text in self.store.check_rights():
            logger.warning("celery-gconc: the coordination Redis %s: %s", self.settings.safe_url, text)
        policy = self.store.server_info("memory").get("maxmemory_policy", "")
        if policy.startswith("allkeys"):
            text = (
                f"the coordination Redis {self.settings.safe_url} may evict our keys "
                f"(maxmemory-policy is {policy}): use noeviction"
            )
            if not self.settings.inherited_url:
                raise SessionRefused(text)
            logger.warning("celery-gconc: %s", text)

    def _open(self) -> None:
        """Open a session, stating what runs already.

        It listens only from then on: what it could have missed comes with the answer to the sync. (A session that
        listens before it is known to Redis is one that lived before a loss of data, to ``lua/session/open.lua``.)
        """
        version = max(self.ledger.table.version, 0)
        former = Former(tuple(self._ids), self._epoch, self._lease, version, self._overrides, self._longest)
        self._ids.append(secrets.token_hex(8))
        held, version = self.ledger.holdings()
        sent = now()
        opened = self.store.open(
            self._ids[-1],
            interval=self.settings.heartbeat_interval,
            timeout=self.settings.heartbeat_timeout,
            info={**self._info, "clock": int(time.time() * 1000)},
            config=self._config,
            room=0,
            held=held,
            version=version,
            former=former,
            queues=list(self._queues()),
        )
        if self._opened_once:
            logger.warning(
                "celery-gconc: session %s is over: %s; session %s states its %d running tasks",
                self.session,
                "its lease ran out" if opened.lapsed else "Redis was restarted or replaced, or has lost data",
                self._ids[-1],
                self.ledger.running_count,
            )
        self._ids = self._ids[-1:]
        self._take_up(opened, sent)
        if opened.lapsed:
            self._on_lease_lost(former.sessions[0])
        self._resubscribe()
        self._sync(full=True)

    def _take_up(self, opened: Opened, sent: float) -> None:
        self._syncs = self._confirmed = 0
        self._epoch, self._lease, self._overrides = opened.epoch, opened.lease, opened.overrides
        self._longest = opened.longest
        self._opened_once = True
        self._renewed(sent)
        self.ledger.opened(self.session, opened.table, opened.version, self._lease_ends)
        if opened.shut and opened.lost:
            logger.warning(
                "celery-gconc: Redis has lost data: tasks under limits start in %.1f s, when no worker that it doesn't "
                "know of can still run any",
                opened.shut,
            )
        elif opened.shut:
            logger.info(
                "celery-gconc: namespace %s is new: tasks under limits start in %.1f s",
                self.settings.namespace,
                opened.shut,
            )
        if opened.strangers:
            logger.warning("celery-gconc: %s", self._of_strangers(opened.strangers))

    def _of_strangers(self, strangers: tuple[Stranger, ...]) -> str:
        own = Stranger(str(self._info.get("app")), str(self._info.get("node")), str(self._info.get("broker")))
        others = "; ".join(sorted({_named(stranger) for stranger in strangers}))
        return (
            f"namespace {self.settings.namespace} has apps that share no queue, and their tasks count under the same "
            f"limits: {_named(own)}; {others}. Where that is not meant, give one of them its own "
            "global_concurrency_key_prefix"
        )

    def _resubscribe(self) -> None:
        self._unsubscribe()
        self._pubsub = self.store.subscribe(self.session, self.settings.heartbeat_timeout)
        # redis-py has no public way to the socket of a subscription (tried: 5.0 to 8.1), kombu uses the same one.
        connection: Any = self._pubsub.connection
        self._pubsub_socket = connection._sock
        self._selector.register(connection._sock, selectors.EVENT_READ)
        self._asked_at = None

    def _check_notices(self) -> None:
        """Once a heartbeat: a connection that a firewall has forgotten is silent for ever, and neither side is told."""
        if self._asked_at is not None and now() - self._asked_at >= self.settings.heartbeat_interval:
            self._resubscribe()
            self.ledger.sync_failed()  # what was told on the dead one comes with the answer to the next sync
        if self._asked_at is None and self._pubsub is not None:
            self.store.ask(self._pubsub)
            self._asked_at = now()

    def _unsubscribe(self) -> None:
        if self._pubsub_socket is not None:
            with suppress(KeyError, ValueError, OSError):
                self._selector.unregister(self._pubsub_socket)
        if self._pubsub is not None:
            with suppress(Exception):
                self._pubsub.close()
        self._pubsub = self._pubsub_socket = None

    def _wait(self) -> None:
        """Sleep until there is something to do; take in notices and the ends of children."""
        timeout = self._next_beat - now()
        idle = self.ledger.retire_idle()
        if idle is not None:
            timeout = min(timeout, idle)
        if self._next_reclaim is not None:
            timeout = min(timeout, self._next_reclaim - now())
        if (due_at := self._due_at()) is not None:
            timeout = min(timeout, due_at - now())
        self._take_events(max(timeout, 0))

    def _take_events(self, timeout: float) -> None:
        """Wait for at most *timeout* seconds for a wake-up, a notice or the exit of a child, and take it in."""
        if self._children.poll_seconds is not None:
            timeout = min(timeout, self._children.poll_seconds)
        if self._pipes:
            timeout = min(timeout, PIPES_SECONDS)
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._bell:
                self._bell.hear()
            elif key.fileobj is self._pubsub_socket:
                self._read_notices()
            else:
                self._children.exited(key.data)
        while self._wanted_children:
            self._children.watch(self._wanted_children.pop())
        self._children.poll()
        if self._pipes:
            for pid in self._pipes.written():
                self._on_result_written(pid)

    def _read_notices(self) -> None:
        assert self._pubsub is not None
        self._asked_at = None
        notices = self.store.notices(self._pubsub, self.session)
        if len(notices) >= MOST_NOTICES:
            self.wake()  # there may be more, which redis-py has read already
        is_news = False
        for notice in notices:
            is_news = self.ledger.notice(notice) or is_news
        if is_news:
            self._on_news()

    def _do_calls(self) -> None:
        while self._calls:
            function, future = self._calls.pop(0)
            try:
                future.set_result(function(self.store))
            except StoreUnavailable as exc:
                future.set_exception(exc)
                raise
            except Exception as exc:  # noqa: BLE001 - the caller's: it gets it
                future.set_exception(exc)

    def _beat_or_sync(self) -> None:
        moment = now()
        beat = moment >= self._next_beat
        reclaim = self._next_reclaim is not None and moment >= self._next_reclaim
        due_at = self._due_at()
        if beat or reclaim or (due_at is not None and moment >= due_at):
            self._sync(full=beat)

    def _due_at(self) -> float | None:
        """When the next sync is due: as the ledger says, but no sooner than the commit interval after the last."""
        due_at = self.ledger.due_at
        return None if due_at is None else max(due_at, self._last_sync + self.settings.commit_interval)

    def _sync(self, *, full: bool) -> None:
        self._syncs += 1
        sync = self.ledger.collect(self._epoch, self._syncs, confirmed=self._confirmed, full=full)
        self._last_sync = sent = now()
        try:
            reply = self.store.sync(sync)
        except StoreUnavailable:
            self.ledger.sync_failed()
            raise
        if reply.status == "ok":
            self._confirmed, self._lease, self._longest = sync.number, reply.lease, reply.longest
            if reply.table is not None:
                self._overrides = reply.overrides
            self._renewed(sent)
            is_news = self.ledger.apply(reply, self._lease_ends, self._reuse_ends(sent))
            self._plan_reclaim(reply)
            if is_news:
                self._on_news()  # before what can wait
            if sync.full:
                self._next_beat = sent + self.settings.heartbeat_interval
                self._check_notices()
                self._record()
        elif reply.status == "stale":
            self.ledger.sync_failed()
        else:
            self._open()

    def _record(self) -> None:
        """Tell what was counted since the last time, if anything was."""
        record = self._tally.collect(now(), self.ledger.parked(), self._stall())
        if record is None:
            return
        arrived = False
        try:
            self.store.record(self.session, record)
            arrived = True
        finally:
            self._tally.told(arrived)

    def _plan_reclaim(self, reply: Synced) -> None:
        self._next_reclaim = None
        if reply.expires is not None and self.ledger.waiting_count:
            self._next_reclaim = now() + reply.expires + RECLAIM_DELAY

    def _renewed(self, sent: float) -> None:
        self._lease_ends = sent + self.settings.heartbeat_timeout

    def _reuse_ends(self, sent: float) -> float:
        """Until when permits may be used again locally: a recall lost on the way shows with the next heartbeat."""
        return sent + 2 * self.settings.heartbeat_interval

    def _lost(self, exc: StoreUnavailable) -> None:
        is_unusable = isinstance(exc, StoreUnusable)
        is_due = is_unusable and now() >= self._next_reminder
        if self.connected or not self.tried.is_set() or is_due:
            what = "wait" if self.settings.on_redis_error == "wait" else "run without a permit"
            until = "that is done" if is_unusable else "it is back"
            what = f"tasks under limits {what} until {until}" if self.ledger.table else "no limit is known: none wait"
            logger.error("celery-gconc: %s (%s); %s", exc, self.settings.safe_url, what)
            if is_unusable:
                self._next_reminder = now() + REMINDER_SECONDS
        self.connected, self.is_unusable = False, is_unusable
        self._why = str(exc)
        self.tried.set()
        for _, future in self._calls:
            future.set_exception(exc)
        self._calls.clear()
        self._unsubscribe()
        self._on_news()

    def _pause(self) -> None:
        """Wait before the next try, longer each time; still hear of children that exit."""
        ends = now() + self._retry_after * random.uniform(0.5, 1.0)
        self._retry_after = min(self._retry_after * 2, LAST_RETRY, self.settings.heartbeat_interval / 2)
        while (left := ends - now()) > 0 and not self._stopping:
            self._take_events(left)

    def _end(self) -> None:
        """The last round trip: everything of this session is free. Without it, the lease runs out."""
        if self._opened_once and not self.ledger.running_count:
            with suppress(StoreUnavailable):
                self._record()
                self.store.close_session(self.session)
        self.connected = False
        for _, future in self._calls:
            future.set_exception(StoreUnavailable("the worker is shutting down"))
        self._calls.clear()
        self._unsubscribe()
        with suppress(Exception):
            self.store.close()
        self._children.close()
        self._selector.close()
        self._bell.close()
