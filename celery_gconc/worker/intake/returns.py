"""What goes back to its queue: for others to take, or because more came in one go than may wait here.

    Intake -> Returns -> Broker

Thread: consumer.
"""

from __future__ import annotations

from collections.abc import Sequence

from celery.utils.log import get_logger

from celery_gconc.worker.intake.subscriptions import Subscriptions
from celery_gconc.worker.interrupts import uninterrupted
from celery_gconc.worker.run import Run

logger = get_logger(__name__)

#: How often a message goes back because more came in one go than may wait here, or to wait at the broker.
MAX_RETURNS = 4

#: Of how many messages it is remembered that they went back.
MAX_REMEMBERED = 50_000


class Memory:
    """How often each of the latest messages had something done to it."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}

    def count(self, message_id: tuple[str, int]) -> int:
        """How often this one had."""
        return self._counts.get(message_id, 0)

    def add(self, message_id: tuple[str, int]) -> None:
        """Once more."""
        self._counts[message_id] = self._counts.pop(message_id, 0) + 1
        if len(self._counts) > MAX_REMEMBERED:
            del self._counts[next(iter(self._counts))]


class Returns:
    """One worker's. All fields belong to the consumer's thread."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self._subscriptions = subscriptions
        #: How often messages went back for others to take, because there were too many, and to wait at the broker; the
        #: latest of them.
        self._moved, self._returned, self._sent_back = Memory(), Memory(), Memory()
        #: Requests that came though their queue is stopped, and may not wait here.
        self.surplus: list[Run] = []

    def forget_surplus(self) -> None:
        """The connection that they came from is over."""
        self.surplus.clear()

    def may_move(self, run: Run) -> bool:
        """Whether a request's message may go back to its own position in its queue, where that costs it nothing."""
        broker, name = self._subscriptions.broker, run.queue
        if name is None or broker is None or self._subscriptions.stays(name):
            return False
        return broker.may_move(name, run.request.message)

    def was_moved(self, run: Run) -> bool:
        """Whether it went back once for others to take, or several times to wait at the broker."""
        return bool(self._moved.count(run.message_id)) or self._sent_back.count(run.message_id) >= MAX_RETURNS

    def note_moved(self, runs: Sequence[Run]) -> None:
        """These go back for others to take."""
        for run in runs:
            self._moved.add(run.message_id)

    def note_sent_back(self, runs: Sequence[Run]) -> None:
        """These go back to wait at the broker."""
        for run in runs:
            self._sent_back.add(run.message_id)

    def add_surplus(self, run: Run) -> None:
        """A request came though its queue is stopped, while a read was under way."""
        self.surplus.append(run)

    def note_surplus(self, run: Run) -> None:
        """What the broker sent before it heard that the queue is stopped goes back, but not again and again."""
        broker, name = self._subscriptions.broker, run.queue
        if broker is None or name is None or self._returned.count(run.message_id) >= MAX_RETURNS:
            return
        if broker.may_move(name, run.request.message):
            self._returned.add(run.message_id)
            self.surplus.append(run)

    def take_surplus(self) -> list[Run]:
        """Requests that came though their queue is stopped, and may not wait here. Each is given once."""
        if not self.surplus:
            return []
        surplus, self.surplus = self.surplus, []
        return surplus

    def put_back(self, runs: Sequence[Run]) -> None:
        """Requests that have left the gate go back to where they were."""
        broker = self._subscriptions.broker
        deliveries = [(run.queue, run.request.message) for run in runs if run.queue is not None]
        if broker is None or not deliveries:
            return
        try:
            with uninterrupted():
                broker.give_back(deliveries)
        except Exception:
            logger.warning(
                "celery-gconc: could not return %d messages; the broker will redeliver them", len(runs), exc_info=True
            )
