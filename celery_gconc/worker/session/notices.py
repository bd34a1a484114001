"""The notices that Redis publishes for a session: the subscription to them, and reading them.

    Redis -> Notices -> Ledger, and the consumer is woken where its gate may have something to do

Thread: whichever has the floor (speaker.py).
"""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from typing import Any

from redis.client import PubSub

from celery_gconc.clock import now
from celery_gconc.protocol.messages import Notice
from celery_gconc.protocol.session_store import MAX_NOTICES, SessionStore
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.wake import Wakeable


class Notices:
    """One worker's; one subscription at a time."""

    def __init__(
        self,
        store: SessionStore,
        ledger: Ledger[Any],
        selector: selectors.BaseSelector,
        consumer: Wakeable,
        *,
        floor: threading.RLock,
        patience: float,
    ) -> None:
        self._store, self._ledger, self._consumer = store, ledger, consumer
        #: Whoever has it speaks; what the selector calls takes it here.
        self._floor = floor
        #: The link's. It waits for the subscription's socket, whose data is :meth:`read`, where the loop doesn't.
        self._selector = selector
        #: Whether it does now. Read without the floor.
        self.is_selected = False
        #: For how many seconds the connection may owe an answer.
        self._patience = patience
        self._session = ""
        self._lease = 0.0
        self._pubsub: PubSub | None = None
        self.socket: socket.socket | None = None
        #: Since when the connection owes an answer, by the session's clock; None = it has given all.
        self._asked_at: float | None = None
        #: Those that have come while an answer was under way, which tells of what was before them; and whether one is.
        self._held_back: list[Notice] = []
        self._holds_back = False
        #: Whether more may have come than :meth:`read` has taken in: redis-py may hold it, which no selector shows.
        self.has_more = False

    @property
    def is_open(self) -> bool:
        """Whether there is a subscription."""
        return self._pubsub is not None

    def subscribe(self, session: str, lease: float) -> None:
        """Listen to the notices of a session from now on; its lease lasts for *lease* seconds."""
        self.close()
        self._session, self._lease = session, lease
        self._pubsub = self._store.subscribe(session, lease)
        # redis-py has no public way to the socket of a subscription (tried: 5.0 to 8.1), kombu uses the same one.
        connection: Any = self._pubsub.connection
        self.socket = connection._sock
        self.select()

    def select(self) -> None:
        """The link's thread waits for them."""
        if self.socket is not None and not self.is_selected:
            self._selector.register(self.socket, selectors.EVENT_READ, self.read)
            self.is_selected = True

    def hand_over(self) -> None:
        """The event loop waits for them: the link's thread does no more."""
        if self.is_selected:
            self.is_selected = False
            with suppress(KeyError, ValueError, OSError):
                self._selector.unregister(self.socket)  # type: ignore[arg-type]  # there is one

    def read(self) -> None:
        """Take in what has come; never waits but for the floor."""
        with self._floor:
            if self._pubsub is None:
                return
            self._asked_at = None
            notices = self._store.notices(self._pubsub, self._session)
            self.has_more = len(notices) >= MAX_NOTICES
            self._held_back += notices
            if not self._holds_back:
                self.go_on()

    def hold_back(self) -> None:
        """An answer is under way."""
        self._holds_back = True

    def go_on(self) -> None:
        """None is."""
        self._holds_back, notices, self._held_back = False, self._held_back, []
        is_news = False
        for notice in notices:
            is_news = self._ledger.notice(notice) or is_news
        if is_news:
            self._consumer.wake()

    def check(self, moment: float) -> bool:
        """Called with each heartbeat: see that the connection is alive, and replace it if not. Return whether it was.

        If a firewall has forgotten a connection, it stays silent for ever, and neither side hears of it. Notices that
        were sent on it are lost.
        """
        was_alive = self._asked_at is None or moment - self._asked_at < self._patience
        if not was_alive:
            self.subscribe(self._session, self._lease)
        if self._asked_at is None and self._pubsub is not None:
            self._store.ask(self._pubsub)
            self._asked_at = max(moment, now())  # the sync may have taken its time
        return was_alive

    def close(self) -> None:
        """Listen no more."""
        self.hand_over()
        if self._pubsub is not None:
            with suppress(Exception):
                self._pubsub.close()
        self._pubsub = self.socket = self._asked_at = None
        self.has_more = self._holds_back = False
        self._held_back = []
