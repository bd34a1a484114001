"""The queues that a worker's operator has subscribed, and which of them are consumed just now.

    Intake (stop, resume) -> Subscriptions -> Broker

Thread: consumer.

What the operator subscribed (``task_consumer.queues``, ``inspect active_queues``) is never touched: a queue that is
stopped here stays subscribed, and keeps its consumer tag.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

from celery.utils.log import get_logger
from kombu import Queue

from celery_gconc.brokers.base import Broker
from celery_gconc.brokers.queues import goes_by, has_priorities, must_stay_consumed, priority_of, queue_named
from celery_gconc.brokers.registry import broker_of

logger = get_logger(__name__)


class Subscriptions:
    """One worker's. All fields belong to the consumer's thread."""

    def __init__(self) -> None:
        #: What is under the connection of this moment; None before the first.
        self.broker: Broker | None = None
        #: Whether there is a connection, and whether nothing is consumed any more.
        self.is_attached = self.is_ended = False
        self._consumer: Any = None
        #: The stopped queues, each with the consumer tag that it had.
        self._stopped: dict[str, tuple[Queue, str]] = {}
        #: Those of them that are read message by message (metering.py), and stay stopped until that ends.
        self.metered: set[str] = set()
        #: Queues whose messages have priorities; and of each queue whether it is never stopped.
        self._prioritised: set[str] = set()
        self._staying: dict[str, bool] = {}
        #: How often queues were found to be gone on earlier connections.
        self._lost: Counter[str] = Counter()

    def attach(self, task_consumer: Any, driver_type: str, eta_limit: int | None) -> None:
        """A new connection: everything that is subscribed is consumed again."""
        self._consumer = task_consumer
        self._stopped.clear()
        self.metered.clear()
        self._staying.clear()
        self._close_broker()
        self.broker = broker_of(task_consumer, driver_type)
        if self.broker is not None:
            self.broker.eta_limit = eta_limit
        self.is_attached = True

    def detach(self) -> None:
        """The connection is over: nothing is asked of it any more."""
        self.is_attached = False

    def end(self, *, reading: bool) -> None:
        """Consume nothing any more; and, on the consumer's thread (*reading*), receive what was under way."""
        self.is_ended = True
        if self.broker is not None:
            with suppress(Exception):  # the connection may be gone: then the broker ends it all
                self.broker.cancel_all()
                if reading:
                    self.broker.end_reading()

    def forget(self) -> None:
        """The worker has stopped: leave nothing with the broker's connection, which its process may keep."""
        if self.broker is not None:
            with suppress(Exception):  # it is closed already
                self.broker.forget()

    def close(self) -> None:
        """The worker has stopped."""
        self._close_broker()

    def _close_broker(self) -> None:
        if self.broker is not None:
            self._lost.update(self.broker.lost)
            self.broker.close()
            self.broker = None

    # -- For people, and for Redis -----------------------------------------------------------------------

    @property
    def lost(self) -> dict[str, int]:
        """How often each queue was found to be gone while it was not consumed."""
        return dict(self._lost + Counter(self.broker.lost if self.broker is not None else ()))

    @property
    def taken(self) -> list[str]:
        """The queues that messages are taken of: all that are subscribed, consumed just now or not."""
        return sorted(self._consumer._active_tags) if self.is_attached and not self.is_ended else []

    @property
    def stopped(self) -> list[str]:
        """The queues that are subscribed but not consumed just now."""
        return sorted(name for name in self._stopped if self.is_stopped(name))

    # -- Stopped or not ----------------------------------------------------------------------------------

    def stays(self, name: str) -> bool:
        """Whether a queue is never stopped."""
        found = self._staying.get(name)
        if found is None:
            assert self.broker is not None
            found = not self.broker.may_cancel or must_stay_consumed(self._consumer, name)
            self._staying[name] = found
        return found

    def may_fetch(self, name: str) -> bool:
        """Whether a queue's messages can be read one by one."""
        return self.broker is not None and not self.stays(name) and self.broker.can_fetch(name)

    def needs_one(self, name: str) -> bool:
        """Whether one message of a metered queue is to be out, lest the broker delete the queue."""
        return self.broker is not None and self.broker.needs_one(name)

    def is_unasked(self, name: str | None, message: Any) -> bool:
        """Whether what comes of a metered queue is not what was fetched."""
        return name in self.metered and self.broker is not None and not self.broker.was_fetched(message)

    def is_stopped(self, name: str) -> bool:
        """Whether it was stopped here; not where the operator has cancelled it since, or subscribed it anew."""
        stopped = self._stopped.get(name)
        if stopped is not None and self._consumer._active_tags.get(name) != stopped[1]:
            del self._stopped[name]
            return False
        return stopped is not None

    def was_stopped(self, name: str) -> bool:
        """Whether it was stopped here, whatever the operator has done since: :meth:`is_stopped` looks."""
        return name in self._stopped

    def stop(self, name: str) -> None:
        """Consume a queue no more, for now."""
        queue = queue_named(self._consumer, name)
        tag = self._consumer._active_tags.get(name)
        if self.is_stopped(name) or queue is None or tag is None:
            return
        assert self.broker is not None
        self._stopped[name] = (queue, tag)
        self.broker.cancel(name, tag)
        logger.debug("celery-gconc: stopped consuming from %s: its limit is full", name)

    def resume(self, name: str) -> None:
        """Consume a stopped queue again, unless it is metered."""
        if name in self.metered:
            return
        queue, tag = self._stopped.pop(name)
        assert self.broker is not None
        self.broker.consume(queue, tag)
        logger.debug("celery-gconc: consuming from %s again", name)

    def tag(self, name: str) -> str | None:
        """The tag by which a queue is consumed, or was when it was stopped."""
        tag: str | None = self._consumer._active_tags.get(name) if self.is_attached else None
        return tag

    def renew(self, name: str) -> None:
        """Consume a queue by a new tag, unless it is stopped: the broker doesn't count what the old one delivered."""
        queue, tag = queue_named(self._consumer, name), self.tag(name)
        if queue is None or tag is None or self.is_stopped(name):
            return
        assert self.broker is not None
        self.broker.cancel(name, tag)
        self.broker.consume(queue, tag)
        logger.debug("celery-gconc: consuming from %s anew: its prefetch count is used up by what waits here", name)

    # -- Facts of a queue --------------------------------------------------------------------------------

    def own_limit(self, name: str | None) -> str:
        """The limit of a queue itself."""
        queue = queue_named(self._consumer, name) if name is not None else None
        return f"queue:{name if queue is None else goes_by(queue)}"

    def has_priorities(self, name: str, message: Any) -> bool:
        """Whether a later message of a queue may be more urgent: it is declared so, or a message was."""
        if name not in self._prioritised:
            if not priority_of(message) and not has_priorities(self._consumer, name):
                return False
            self._prioritised.add(name)
        return True
