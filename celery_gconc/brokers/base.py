"""The broker under a worker's consumer: which queue a message came from, and how reading and messages are given back.

    Intake -> Broker -> basic_cancel, basic_consume, reject, or Redis

What each transport can do differs; the classes of this package are where that is known, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from kombu import Queue

from celery_gconc.brokers.queues import queue_named

#: A message as it is held here, and the queue that it came from.
Delivery = tuple[str, Any]


class Broker:
    """Any transport that has ``basic_cancel`` and ``basic_consume``. All on the consumer's thread.

    A queue that is cancelled keeps its consumer tag in kombu's consumer: to the operator it stays subscribed.
    """

    #: Most requests of one queue that a worker parks for limits other than the queue's own: those behind them may not
    #: be covered, so some are worth reading past, and each costs memory here.
    most_parked = 32

    #: Whether queues may be cancelled and consumed again at will.
    may_cancel = True

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.channel: Any = consumer.channel

    def check_rights(self, setting: str) -> tuple[str, ...]:
        """See that we may do all that we do there, and return what goes less well for lack of a right, in sentences.

        *setting* is the one that names the broker.

        Raises:
            SessionRefused: something that is needed is missing; the message names all of it.
        """
        return ()

    @property
    def lost(self) -> Mapping[str, int]:
        """How often each queue was found to be gone while it was not consumed."""
        return {}

    def close(self) -> None:
        """It is done with: the worker stops, or has another connection."""

    def consumer_timeout(self, name: str, default: float) -> float | None:
        """After how many seconds the broker closes the channel because of a message of this queue that it still holds.

        None = it never does.
        """
        return None

    def queue_of(self, message: Any) -> str | None:
        """The queue that a message was consumed from: here, by the routing key, which is its sender's to choose."""
        delivery = getattr(message, "delivery_info", None) or {}
        name = delivery.get("routing_key")
        return name if isinstance(name, str) and queue_named(self.consumer, name) is not None else None

    def cancel(self, name: str, tag: str) -> None:
        """Read no more from a queue. What is under way still arrives."""
        self.channel.basic_cancel(tag)

    def consume(self, queue: Queue, tag: str) -> None:
        """Read from a cancelled queue again."""
        queue.consume(tag, self.consumer._receive_callback, no_ack=self.consumer.no_ack)

    def cancel_all(self) -> None:
        """Read no more from any queue."""
        for name, tag in list(self.consumer._active_tags.items()):
            self.cancel(name, tag)

    def end_reading(self) -> None:
        """Take in what was under way. On the consumer's thread only, where nothing else reads the connection."""

    def forget(self) -> None:
        """The worker has stopped: nothing is delivered any more."""

    def end_read(self) -> None:
        """Have a read under way end that still reads from cancelled queues, where there may be one."""

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put messages back where they came from, the first of them to be read first, where the transport can."""
        for _, message in reversed(deliveries):
            message.requeue()

    def may_move(self, name: str, message: Any) -> bool:
        """Whether a message may go back only for others to take it: to its own position, and uncounted."""
        return False

    @property
    def keep_seconds(self) -> float | None:
        """How often :meth:`keep` is to tell of each message; None where the broker needn't hear of it."""
        return None

    def keep(self, messages: Collection[Any]) -> None:
        """Tell the broker that these are still held, where it would deliver them again otherwise."""

    def can_fetch(self, name: str) -> bool:
        """Whether messages of a cancelled queue can be read one by one: :meth:`fetch`."""
        return False

    def needs_one(self, name: str) -> bool:
        """Whether a queue that is read one by one may expire while no message of it is out, whatever else is done."""
        return False

    #: How many tasks that wait for their ETA a worker may hold (``worker_eta_task_limit``); None: any number.
    eta_limit: int | None = None

    def was_fetched(self, message: Any) -> bool:
        """Whether a message came by :meth:`fetch`, however long ago: one with an ETA waits for that first."""
        return False

    def fetch(self, name: str, count: int) -> int | None:
        """Deliver the first *count* messages of a cancelled queue, now or soon; return how many there were.

        Those that come soon are taken to be there, and :attr:`on_end` is called where one is not. None where none can
        be read (see :attr:`may_fetch`), or the broker is out of reach.
        """
        raise NotImplementedError

    def under_way(self, name: str) -> int:
        """How many messages of a queue were fetched and have not come yet."""
        return 0

    #: Called with the name of a queue that was found to have no more messages.
    on_end: Callable[[str], None] = staticmethod(lambda name: None)

    @property
    def may_fetch(self) -> bool:
        """Whether any can be read now: not where others have taken the prefetch count."""
        raise NotImplementedError

    def count(self, names: Sequence[str]) -> dict[str, int]:
        """How many messages wait in each of these queues, which can be read one by one."""
        raise NotImplementedError

    def take_past(self, name: str, tasks: Iterable[str], count: int) -> int:
        """Deliver messages of a cancelled queue that are for other tasks than these; return how many."""
        return 0
