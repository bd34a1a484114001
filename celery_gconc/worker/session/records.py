"""Tells Redis what this worker has counted: with a heartbeat, and where that is much in steps after it.

    Session (heartbeats, steps) -> Records -> Counters.collect -> SessionStore.record

Thread: the link's.
"""

from __future__ import annotations

from typing import Any

from celery_gconc.protocol.session_store import SessionStore
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.session.counts import Counters


class Records:
    """One worker's."""

    def __init__(self, counters: Counters, ledger: Ledger[Any], store: SessionStore) -> None:
        self._counters, self._ledger, self._store = counters, ledger, store

    @property
    def is_more(self) -> bool:
        """Whether the last call of :meth:`tell` has left something."""
        return self._counters.is_more

    def tell(self, session: str, moment: float) -> None:
        """Say what was counted since the last time, if anything was: some of it."""
        with self._counters.collect(moment, self._ledger.parked(), self._ledger.at_broker()) as record:
            if record is not None:
                self._store.record(session, record)

    def tell_all(self, session: str, moment: float) -> None:
        """The same, all of it."""
        self.tell(session, moment)
        while self.is_more:
            self.tell(session, moment)
