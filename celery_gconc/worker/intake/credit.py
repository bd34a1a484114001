"""Prefetch credit: what waits here for a permit doesn't count against what the broker may still send.

Thread: consumer.
"""

from __future__ import annotations

from typing import Any

from celery_gconc.worker.run import Run

#: The highest prefetch count that AMQP has; 0 means unlimited.
MAX_PREFETCH = 65535


class Credit:
    """One worker's. All fields belong to the consumer's thread.

    It doesn't use ``qos.increment_eventually``: after a reconnect Celery (5.4-5.7) sets the value anew, and each
    decrement that belongs to a lost increment would then shrink the prefetch count, down to 1.
    """

    def __init__(self) -> None:
        #: Requests whose prefetch credit others have for now.
        self._lent: set[Run] = set()
        self._qos: Any = None

    def attach(self, qos: Any) -> None:
        """A new connection: no credit is lent."""
        self._lent.clear()
        self._qos = qos
        send = qos.callback

        def send_with_credit(prefetch_count: int) -> Any:
            # Not bounded by worker_eta_task_limit (qos.max_prefetch): that counts tasks that wait for their ETA.
            more = min(prefetch_count + len(self._lent), MAX_PREFETCH)
            return send(prefetch_count=max(prefetch_count, more) if prefetch_count else 0)

        qos.callback = send_with_credit

    def lend(self, run: Run) -> None:
        """A request waits here: its credit goes to others."""
        self._lent.add(run)
        self._send()

    def take_back(self, run: Run) -> None:
        """It waits no more."""
        if run in self._lent:
            self._lent.remove(run)
            self._send()

    def _send(self) -> None:
        with self._qos._mutex:  # kombu 5.4-5.7: what it holds while it sends the prefetch count
            self._qos.prev = None  # so that the worker's loop sends it again
