"""Prefetch credit: what waits here for a permit doesn't count against what the broker may still send.

Thread: consumer.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from celery_gconc.worker.run import Run

#: The highest prefetch count that AMQP has; 0 means unlimited.
MAX_PREFETCH = 65535


class Credit:
    """One worker's. All fields belong to the consumer's thread.

    Where the prefetch count is the channel's, it grows by what waits here. Where each consumer of RabbitMQ has one of
    its own, fixed when it begins (quorum queues; kombu 5.7 also for classic ones of RabbitMQ 4), a consumer whose
    credit is used up is replaced, which leaves what it has delivered out of the new one's account.

    It doesn't use ``qos.increment_eventually``: after a reconnect Celery (5.4-5.7) sets the value anew, and each
    decrement that belongs to a lost increment would then shrink the prefetch count, down to 1.
    """

    def __init__(self) -> None:
        #: Requests whose prefetch credit others have for now.
        self._lent: set[Run] = set()
        #: How many of them each consumer has delivered, by its tag.
        self._delivered: Counter[str | None] = Counter()
        self._qos: Any = None
        #: Whether each consumer has a prefetch count of its own, and the one that this connection began with.
        self.is_fixed = False
        self._first_count = 0

    def attach(self, qos: Any, *, is_fixed: bool) -> None:
        """A new connection: no credit is lent."""
        self._lent.clear()
        self._delivered.clear()
        self._qos, self.is_fixed, self._first_count = qos, is_fixed, qos.value
        if is_fixed:
            return
        send = qos.callback

        def send_with_credit(prefetch_count: int) -> Any:
            # Not bounded by worker_eta_task_limit (qos.max_prefetch): that counts tasks that wait for their ETA.
            more = min(prefetch_count + len(self._lent), MAX_PREFETCH)
            return send(prefetch_count=max(prefetch_count, more) if prefetch_count else 0)

        qos.callback = send_with_credit

    def lend(self, run: Run) -> None:
        """A request waits here: its credit goes to others."""
        self._lent.add(run)
        self._delivered[_tag(run)] += 1
        self._send()

    def take_back(self, run: Run) -> None:
        """It waits no more."""
        if run in self._lent:
            self._lent.remove(run)
            self._delivered[_tag(run)] -= 1
            self._send()

    def is_used_up(self, tag: str | None, others: int = 0) -> bool:
        """Whether a consumer can't deliver more, for what of it waits here and at most so many *others* are its all."""
        # What has been added to it since (tasks that wait for their ETA) may have come too late for this consumer.
        held, count = self._delivered[tag], min(self._first_count, self._qos.value)
        return self.is_fixed and held > 0 and 0 < count <= held + others

    def _send(self) -> None:
        if self.is_fixed:
            return
        with self._qos._mutex:  # kombu 5.4-5.7: what it holds while it sends the prefetch count
            self._qos.prev = None  # so that the worker's loop sends it again


def _tag(run: Run) -> str | None:
    """The tag of the consumer that has delivered a request's message."""
    delivery = getattr(run.request.message, "delivery_info", None) or {}
    tag: str | None = delivery.get("consumer_tag")
    return tag
