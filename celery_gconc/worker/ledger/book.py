"""What is written in a session's ledger, for those who only read it.

Thread: any. The one lock of the ledger is made here, and everything else is behind it. The last section of
:class:`Book` and three of its fields are read without it; each says why that is safe.

The parts, from below, each used with the lock held:

    Told       what Redis has told of the limit table               told.py
    Lines      who waits here, by claims                            lines.py
    Outbox     what Redis has yet to hear                           outbox.py
    Trust      what Redis knows and has said, and what that lets    trust.py
               this session do without asking
    Holdings   how many units of each limit are here                holdings.py
    Started    who runs here                                        started.py
    Moves      what waits here that others could start              moves.py
    Meters     what waits at the broker rather than here            meters.py
    Asks       for how many requests Redis is asked                 asks.py
    Exchange   what a sync says, and what becomes of its answer     exchange.py
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Generic

from celery_gconc.limits.claims import Claims
from celery_gconc.limits.table import LimitTable
from celery_gconc.worker.ledger.asks import Asks
from celery_gconc.worker.ledger.exchange import Exchange
from celery_gconc.worker.ledger.holdings import Holdings
from celery_gconc.worker.ledger.lines import Lines, Queued
from celery_gconc.worker.ledger.meters import Meters
from celery_gconc.worker.ledger.moves import Moves
from celery_gconc.worker.ledger.outbox import Outbox
from celery_gconc.worker.ledger.request import R
from celery_gconc.worker.ledger.started import Started
from celery_gconc.worker.ledger.told import Told
from celery_gconc.worker.ledger.trust import Trust
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.wake import Ringable


class Book(Generic[R]):
    """The one lock, the parts behind it, and what anybody may ask of them; :class:`Ledger` is what changes them."""

    def __init__(self, config: Mapping[str, int], *, pool: Pool, bell: Ringable, margin: float = 0.0) -> None:
        #: The only one. Reentrant, for one method may call another.
        self._lock = threading.RLock()
        #: The limits that hold: at first the worker's own. Replaced with the lock; read without it, for a table never
        #: changes.
        self.table = LimitTable(config, version=-1)
        #: The session whose permits these are; empty before the first. Replaced with the lock, read without it.
        self.session = ""
        #: How many requests wait here: those in lines, and those that no limit covers any more. Written with the lock;
        #: read without it to save a look where nobody waits: each arrival is followed by a look of its own.
        self.waiting_count = 0
        #: Calls whoever speaks to Redis when there is something to say.
        self._bell = bell
        self._pool = pool
        self._told = Told()
        self._lines: Lines[R] = Lines()
        self._outbox: Outbox[R] = Outbox()
        self._trust = Trust(margin)
        self._meters = Meters()
        self._holdings: Holdings[R] = Holdings(self._lines, self._trust, self._outbox, self._meters)
        self._started: Started[R] = Started(self._holdings, self._trust, self._outbox)
        self._moves = Moves()
        self._asks: Asks[R] = Asks(
            pool, self._lines, self._started, self._holdings, self._trust, self._outbox, self._moves, self._meters
        )
        self._exchange: Exchange[R] = Exchange(
            self._told,
            self._lines,
            self._started,
            self._holdings,
            self._asks,
            self._trust,
            self._outbox,
            self._moves,
            self._meters,
        )
        self._running = self._started.running
        #: The link knows that units are spare, and comes to release them.
        self._watches_idle = False
        #: The sync that the link was last woken for, by :func:`~celery_gconc.clock.now`; None = it has made that.
        self._woken_for: float | None = None
        #: At the last :meth:`Ledger.tell_room` there was room that Redis doesn't know of.
        self._has_unknown_room = False

    # -- Questions ---------------------------------------------------------------------------------------

    def is_waiting(self, request: R) -> bool:
        """Whether a request is in its line."""
        with self._lock:
            return self._lines.holds(request)

    def waiting(self) -> list[R]:
        """Every request that waits here, by line. The only one of these methods that costs more with more of them."""
        with self._lock:
            return self._lines.waiting()

    def passes_on(self, limit: str) -> bool:
        """Whether all units of a limit are in use here, and others wait for what ends."""
        with self._lock:
            return limit in self._trust.contended and self._holdings.used(limit) >= self.table.get(limit, math.inf)

    def queued(self) -> list[Queued[R]]:
        """For which sets of limits requests wait here."""
        with self._lock:
            return self._lines.queued()

    def parked(self) -> dict[str, int]:
        """How many requests wait here that stand in no line in Redis, by limit: others of ours stand before them."""
        with self._lock:
            return self._lines.parked()

    def at_broker(self) -> dict[str, int]:
        """How many messages wait at the broker, by the limit of their queue: of queues read message by message."""
        with self._lock:
            return self._meters.at_broker()

    def running(self) -> list[R]:
        """Every request that was handed to the pool and has not ended, in order of their start."""
        with self._lock:
            return list(self._running)

    def covered(self, ends_within: float | None = None) -> list[R]:
        """Those of them that have a permit; none where the lease ends no sooner than in this many seconds.

        A renewal of the lease comes before or after: either all of these run on the lease that ends, or none.
        """
        with self._lock:
            if ends_within is not None and self._trust.lease_left() > ends_within:
                return []
            return list(self._started.covered)

    def stuck(self) -> int:
        """How many requests wait here that no further slot could start: their limits are full, as far as is known."""
        with self._lock:
            lines = self._lines.by_claims.values()
            return self.waiting_count - sum(min(self._asks.startable(line, self.table), line.waiting) for line in lines)

    def is_stuck(self, claims: Claims) -> bool:
        """Whether one more request with these claims would only add to the stuck ones."""
        with self._lock:
            line = self._lines.by_claims.get(claims)
            if line is not None and line.waiting:
                return self._asks.startable(line, self.table) <= line.waiting
            return self._asks.left(claims, self.table) <= 0

    def unused_slots(self) -> int:
        """How many slots are free that nothing of what waits here is to have; that should never last."""
        with self._lock:
            free = self.free_slots
            return free if self.waiting_count and free > 0 and self._asks.room() <= 0 else 0

    def known_overrides(self) -> tuple[int, int, Mapping[str, str]]:
        """What operators have set, as last told, behind the version of the limit table that it was told with, and when.

        The time is Redis', in ms.
        """
        with self._lock:
            return self._told.version, self._told.at, dict(self._told.overrides)

    # -- Forks -------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Before a fork: nothing changes until :meth:`thaw`, so that the child has a whole ledger and a free lock."""
        self._lock.acquire()

    def thaw(self) -> None:
        """After a fork, on both sides of it, on the thread that forked."""
        self._lock.release()

    # -- Without the lock: each reads one value that is replaced as a whole, so it may be late by a moment ------

    def covering(self, candidates: Claims) -> Claims:
        """Those of the candidates that are on limits now."""
        return self.table.covering(candidates)

    @property
    def is_table_whole(self) -> bool:
        """Whether Redis has told all limits since the session was opened."""
        return self._told.is_whole

    @property
    def is_table_urgent(self) -> bool:
        """Whether the next sync brings more of the limit table, or is the first by the whole of it."""
        return self._told.is_urgent

    @property
    def running_count(self) -> int:
        """How many requests were handed to the pool and have not ended."""
        return len(self._running)

    @property
    def free_slots(self) -> int:
        """How many tasks the pool could start now."""
        return self._pool.startable - len(self._running)

    @property
    def may_ask_without_slot(self) -> bool:
        """Whether what waits here may ask for more, or what was granted go back, though no slot is free."""
        return bool(self._trust.contended) or self._lines.granted_count > 0

    @property
    def holds_slot(self) -> bool:
        """Whether a free slot is to be kept for a moment: Redis would grant something if there were room."""
        return self._trust.is_offered

    @property
    def needs_statement(self) -> bool:
        """Whether the next sync has to state everything, for the last one may not have arrived."""
        return self._outbox.needs_statement

    @property
    def due_at(self) -> float | None:
        """When there will be something to tell Redis, by :func:`~celery_gconc.clock.now`; None = nothing."""
        return self._outbox.due_at

    def lease_left(self) -> float:
        """Seconds for which this session may still trust its lease."""
        return self._trust.lease_left()
