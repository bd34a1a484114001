"""A worker's session in Redis: opened, brought in line by syncs, renewed by heartbeats, opened again where it ended.

    Ledger -> Session -> SessionStore (open, sync, record);  SessionStore (answers) -> Session -> Ledger

Thread: whichever has the floor (speaker.py): the link's, which may wait, calls :meth:`Session.run_once`; the event
loop, which must not, :meth:`Session.send` and :meth:`Session.receive`. It has none of its own, and never sleeps: each
call does what is due, a step at a time.
"""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from typing import Any

from celery_gconc.connection.sent import Sent
from celery_gconc.errors import StoreUnavailable
from celery_gconc.protocol.messages import Sync, Synced
from celery_gconc.protocol.openings import Former, Opened
from celery_gconc.protocol.session_store import SessionStore
from celery_gconc.settings import Settings
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.session.counts import Counters
from celery_gconc.worker.session.health import Health, LostLease
from celery_gconc.worker.session.identity import Identity
from celery_gconc.worker.session.notices import Notices
from celery_gconc.worker.session.opening import check_server, log_opened, log_reopened
from celery_gconc.worker.session.records import Records
from celery_gconc.worker.wake import Wakeable

#: How long, in seconds, after a lease's end a waiting session comes to reclaim it.
RECLAIM_DELAY = 0.01

#: How long, in seconds, heartbeats may go on from what was told before: then the next one states everything.
STATEMENT_SECONDS = 60.0

#: How many sessions are opened in a row that Redis ends before it has answered a sync of theirs.
MAX_OPENINGS = 3


class Session:
    """One worker's, from its first contact with Redis to its end; Redis knows it by an id, another each time it opens.

    Whoever has the floor owns all of it; others may read :attr:`id`. All times are on the clock by which
    :meth:`run_once` is called (:func:`~celery_gconc.clock.now`).
    """

    def __init__(
        self,
        settings: Settings,
        store: SessionStore,
        ledger: Ledger[Any],
        notices: Notices,
        *,
        identity: Identity,
        counters: Counters,
        health: Health,
        consumer: Wakeable,
    ) -> None:
        self._settings, self._store, self._ledger, self._notices = settings, store, ledger, notices
        self._identity, self._counters, self._health, self._consumer = identity, counters, health, consumer
        self._records = Records(counters, ledger, store)
        #: Its id; and, while the next is being opened, those under which that was tried.
        self._ids: list[str] = []
        #: Whether one was opened since the worker started; and whether, as far as is known, it is still open.
        self._has_lived = self._is_open = False
        #: Whether Redis has answered a sync since it was last found to be away, or the session was opened; and has told
        #: it all limits.
        self.is_synced = False
        #: How many were opened since the last answer to a sync.
        self._openings = 0
        self._epoch = ""
        #: The number of the last sync that was sent in this session, and of the last that was answered.
        self._number = self._confirmed = 0
        #: The end of the lease on Redis' lease clock (ms), as last heard. (By our own clock: the ledger has it.)
        self._lease = 0
        #: The longest lease of any session (s), as last heard: a Redis that lost its data waits for its end.
        self._longest = 0.0
        self._next_heartbeat = 0.0
        #: When the next heartbeat is to state everything, by what it then has.
        self._next_statement = 0.0
        #: When to come back because another session's lease ends: requests here may get its permits.
        self._next_reclaim: float | None = None
        self._last_sync = 0.0
        #: When the link's thread comes, unless it is called before.
        self.comes_at = 0.0
        #: What the event loop has sent, and when; None: all is answered.
        self._sent: tuple[Sent, Sync, float] | None = None

    @property
    def id(self) -> str:
        """The id by which Redis knows it; empty before the first was tried. Any thread."""
        return self._ids[0] if self._ids else ""

    def run_once(self, moment: float, patience: float = 0.0) -> float:
        """Do what is due at *moment*, at most one step: open the session, or sync. Return when the next is due.

        What could wait before, and the event loop may send, is left to it for *patience* seconds more.

        Raises:
            StoreUnavailable: Redis can't be reached; call :meth:`disconnected`, and come back later.
            SessionRefused: this worker must not run.
        """
        if self._sent is not None:
            self.receive()
        if not self._is_open:
            self._open(moment)
            return moment
        is_resumed = not self._notices.is_open
        if is_resumed:
            self._resume()
        if is_resumed or moment >= self._next_heartbeat:
            self._beat(moment)
        elif self._is_due(moment, patience):
            self._sync(moment, full=False)
        elif self._records.is_more:
            self._records.tell(self.id, moment)
        self.comes_at = self._next_due(moment, patience)
        return self.comes_at

    def state(self, moment: float) -> None:
        """State everything now, as some heartbeat would; see :meth:`run_once`."""
        self._next_statement = self._next_heartbeat = 0.0
        self.run_once(moment)

    def send(self, moment: float) -> Sent | None:
        """Write the sync that is due at *moment*, and wait for nothing; :meth:`receive` takes its answer.

        None where there is none: nothing is due, one is under way, or the next is for a thread that may wait.
        """
        if not self.may_send or moment >= self._next_heartbeat or not self._is_due(moment):
            return None
        sent = self._store.send_sync(sync := self._collect(moment, full=False))
        if sent is None:
            self._ledger.sync_failed()
        else:
            self._sent = sent, sync, moment
            self._notices.hold_back()
        return sent

    def receive(self) -> None:
        """Take in the answer to what was sent. Where there is none, the next sync states everything."""
        assert self._sent is not None
        (sent, sync, moment), self._sent = self._sent, None
        reply = None
        try:
            reply = self._store.synced(sent)
        finally:
            if reply is None:
                self._ledger.sync_failed()
            else:
                self._answered(sync, reply, moment)
            self._notices.go_on()

    def due_in(self, moment: float) -> float | None:
        """In how many seconds :meth:`send` has something to write; None where it has nothing, or may not."""
        due_at = self._sync_due_at() if self.may_send else None
        return None if due_at is None or due_at >= self._next_heartbeat else max(due_at - moment, 0.0)

    @property
    def needs_link(self) -> bool:
        """Whether the link's thread has something to do before it comes anyway."""
        is_early = self._next_reclaim is not None and self._next_reclaim < self.comes_at
        return is_early or (self._sent is None and not self.may_send)

    @property
    def awaited(self) -> Sent | None:
        """What was sent and isn't answered yet."""
        return None if self._sent is None else self._sent[0]

    @property
    def may_send(self) -> bool:
        """Whether the next sync, when it is due, is one that needs no waiting."""
        is_flowing = self._is_open and self.is_synced and self._notices.is_open
        return is_flowing and self._sent is None and not self._ledger.needs_statement

    def disconnected(self) -> None:
        """Redis can't be reached: notices are lost from now on, and the last sync may be."""
        if self._sent is not None:
            self._sent[0].give_up()
            self._sent = None
        self._ledger.sync_failed()
        self._notices.close()
        self.is_synced = False

    def close(self, moment: float) -> None:
        """The last round trip, which frees everything that it holds. Without it, the lease runs out."""
        if self._sent is not None:
            self.receive()
        if self._has_lived:
            with suppress(StoreUnavailable):
                self._records.tell_all(self.id, moment)
                self._store.close_session(self.id)
        self._notices.close()

    # -- Opening -----------------------------------------------------------------------------------------

    def _open(self, moment: float) -> None:
        """Open a session, stating what runs already.

        It listens only from the first sync on: what it could have missed comes with the answer to that. (A session that
        listens before it is known to Redis is one that lived before a loss of data, to ``lua/session/open.lua``.)
        """
        if self._openings >= MAX_OPENINGS:
            self._openings = 0
            raise StoreUnavailable(
                f"the coordination Redis ended {MAX_OPENINGS} sessions in a row as soon as they were open"
            )
        if not self._has_lived:
            check_server(self._store, self._settings)
        former = Former(tuple(self._ids), self._epoch, self._lease, *self._ledger.known_overrides(), self._longest)
        self._ids.append(secrets.token_hex(8))
        stated = self._ledger.holdings()
        opened = self._store.open(
            self._ids[-1],
            interval=self._settings.heartbeat_interval,
            timeout=self._settings.heartbeat_timeout,
            info={**self._identity.info, "clock": int(time.time() * 1000)},
            config=self._identity.config,
            room=0,
            units=stated.units,
            running=stated.running,
            fence=stated.fence,
            former=former,
            queues=self._identity.queues,
        )
        self._openings += 1
        if self._has_lived:
            log_reopened(opened, self._ids, self._ledger.running_count)
        self._take_up(opened, moment)
        log_opened(opened, self._settings, self._identity)
        if opened.lapsed:
            self._lease_lost(former.sessions[0])

    def _take_up(self, opened: Opened, moment: float) -> None:
        self._ids = self._ids[-1:]
        self._has_lived = self._is_open = True
        self.is_synced = False
        self._number = self._confirmed = 0
        self._epoch, self._lease, self._longest = opened.epoch, opened.lease, opened.longest
        self._notices.close()
        self._ledger.opened(self.id, opened.version, self._lease_end(moment))
        self._counters.opened()

    def _lease_lost(self, session: str) -> None:
        """Tasks may run that Redis counts no more. Nothing is granted to the new session yet, so it is just these."""
        self._counters.count("lease_losses")
        self._health.lease_lost(LostLease(session, tuple(self._ledger.covered()), self._ledger.running_count))
        self._consumer.wake()

    # -- Syncs -------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Listen again; the answer to a sync that states everything brings what was missed."""
        self._notices.subscribe(self.id, self._settings.heartbeat_timeout)
        self._ledger.sync_failed()

    def _is_due(self, moment: float, patience: float = 0.0) -> bool:
        is_due = any(moment >= due_at for due_at in self._syncs_due_at(patience))
        return is_due and (self._next_reclaim is not None or self._ledger.has_news())

    def _syncs_due_at(self, patience: float = 0.0) -> list[float]:
        return [due_at for due_at in (self._sync_due_at(patience), self._next_reclaim) if due_at is not None]

    def _sync_due_at(self, patience: float = 0.0) -> float | None:
        """When the ledger has something to say: no sooner than the commit interval after the last sync."""
        due_at = self._ledger.due_at
        if due_at is None or self._ledger.is_table_urgent:
            return due_at
        due_at = max(due_at, self._last_sync + self._settings.commit_interval)
        return due_at + patience if due_at > self._last_sync and self.may_send else due_at

    def _next_due(self, moment: float, patience: float) -> float:
        """When there is something to do. It ends permits that were idle for too long, so that they are part of that."""
        if not self._is_open or self._records.is_more:
            return moment
        idle = self._ledger.retire_idle()
        due = [self._next_heartbeat, *self._syncs_due_at(patience)]
        return min(due if idle is None else [*due, moment + idle])

    def _beat(self, moment: float) -> None:
        """Renew the lease: in short where nothing is to be said, and Redis agrees; else by a statement."""
        if moment >= self._next_statement or not self._beats_shortly(moment):
            self._sync(moment, full=True)

    def _beats_shortly(self, moment: float) -> bool:
        heartbeat = self._ledger.heartbeat(self._epoch, self._number + 1, confirmed=self._confirmed)
        if heartbeat is None:
            return False
        self._number = heartbeat.number
        reply = self._store.heartbeat(heartbeat)
        if reply is None:
            self._ledger.sync_failed()
            return False
        self._take_in(reply, heartbeat.number, moment)
        self._has_beaten(moment)
        return True

    def _sync(self, moment: float, *, full: bool) -> None:
        sync = self._collect(moment, full=full)
        self._answered(sync, reply := self._store.sync(sync), moment)
        if sync.full and reply.status == "ok":
            self._next_statement = moment + STATEMENT_SECONDS
            self._has_beaten(moment)

    def _has_beaten(self, moment: float) -> None:
        self._next_heartbeat = moment + self._settings.heartbeat_interval
        if not self._notices.check(moment):
            self._ledger.sync_failed()
        self._records.tell(self.id, moment)

    def _collect(self, moment: float, *, full: bool) -> Sync:
        self._number += 1
        self._last_sync = moment
        return self._ledger.collect(self._epoch, self._number, confirmed=self._confirmed, full=full)

    def _answered(self, sync: Sync, reply: Synced, moment: float) -> None:
        if reply.status == "ok":
            self._take_in(reply, sync.number, moment)
        elif reply.status == "stale":
            self._ledger.sync_failed()
        else:
            self._is_open = self.is_synced = False

    def _take_in(self, reply: Synced, number: int, moment: float) -> None:
        self._openings = 0
        self._confirmed, self._lease, self._longest = number, reply.lease, reply.longest
        # A recall that was lost on the way shows with the next heartbeat: until then permits may be used again here.
        reuse_ends = moment + 2 * self._settings.heartbeat_interval
        if self._ledger.apply(reply, self._lease_end(moment), reuse_ends):
            self._consumer.wake()  # what it starts need not wait for what else is done here
        self.is_synced = self._ledger.is_table_whole
        expires = reply.expires if self._ledger.waiting_count else None
        self._next_reclaim = None if expires is None else moment + expires + RECLAIM_DELAY

    def _lease_end(self, moment: float) -> float:
        """When a lease ends that was renewed by what was sent at *moment*, or after it."""
        return moment + self._settings.heartbeat_timeout
