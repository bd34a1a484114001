"""The intake: from which of the subscribed queues the worker takes messages at this moment, and what goes back.

    Gate (parked, unparked, ...) -> Intake -> Broker

Messages that must wait stay in the broker, where another worker or an operator sees them, and where they block
nobody: a worker parks a few for each queue, then stops consuming that queue, and goes on when some of them start.
What the operator subscribed (``task_consumer.queues``, ``inspect active_queues``) is never touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from celery.utils.log import get_logger
from kombu import Queue

from celery_gconc.brokers.base import Broker
from celery_gconc.brokers.queues import goes_by, has_priorities, must_stay_consumed, priority_of, queue_named
from celery_gconc.brokers.registry import broker_of
from celery_gconc.clock import now
from celery_gconc.worker.run import Run

logger = get_logger(__name__)

#: The highest prefetch count that AMQP has; 0 means unlimited.
MOST_PREFETCH = 65535

#: How many requests of a queue may wait here at least, however small its limit.
FOLLOWING = 4

#: How many requests of a queue with priorities may wait here for each slot: a later, more urgent one comes after them.
URGENT_FOLLOWING = 2

#: How often a message goes back because more came in one go than may wait here.
MOST_RETURNS = 4

#: How long, in seconds, a queue is left alone for others at most, whatever Redis believes of them.
LEFT_SECONDS = 10.0

#: From how many bytes of messages that wait here on, of all queues, no more of a queue wait than could start at once.
MOST_BYTES = 16 * 1024 * 1024

#: Of how many messages it is remembered that they went back.
MOST_REMEMBERED = 50_000


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
        if len(self._counts) > MOST_REMEMBERED:
            del self._counts[next(iter(self._counts))]


class Intake:
    """One worker's intake. All on the consumer's thread."""

    def __init__(
        self,
        *,
        table: Callable[[], Mapping[str, int]],
        slots: Callable[[], int],
        free_slots: Callable[[], int],
        consumer_timeout: float,
        leaves: Callable[[Iterable[str]], None],
    ) -> None:
        self._table = table
        self._slots = slots
        self._free_slots = free_slots
        #: After how many seconds the broker closes the channel for a message that is held, where it does.
        self._consumer_timeout = consumer_timeout
        #: How many requests of each queue wait here, by task.
        self._parked: dict[str, Counter[str]] = {}
        #: How many bytes the messages of all of these have.
        self._bytes = 0
        #: Queues that were stopped because of it.
        self._heavy: set[str] = set()
        #: Requests whose prefetch credit others have for now.
        self._credited: set[Run] = set()
        #: The stopped queues, each with the consumer tag that it had.
        self._stopped: dict[str, tuple[Queue, str]] = {}
        self._wanting: set[str] = set()
        #: The stopped queues that are left alone for other workers, each with the time until when at most.
        self._left: dict[str, float] = {}
        self._leaves = leaves
        #: How often messages went back for others to take, and because there were too many; the latest of them.
        self._moved, self._returned = Memory(), Memory()
        #: Requests that came though their queue is stopped, and may not wait here.
        self._surplus: list[Run] = []
        #: Queues whose messages have priorities.
        self._prioritised: set[str] = set()
        self._staying: dict[str, bool] = {}
        self._is_finding = False
        self._is_attached = False
        self._is_ended = False
        self._consumer: Any = None
        self._qos: Any = None
        self._broker: Broker | None = None
        self._lost: Counter[str] = Counter()

    def attach(self, task_consumer: Any, qos: Any, driver_type: str) -> None:
        """A new connection: everything that is subscribed is consumed again, and nothing is parked."""
        self._consumer, self._qos = task_consumer, qos
        for state in (
            self._parked, self._credited, self._stopped, self._wanting, self._staying, self._left, self._surplus,
        ):  # fmt: skip
            state.clear()
        self._leaves(())
        self._heavy.clear()
        self._bytes = 0
        self._is_finding = False
        self._close_broker()
        self._broker = broker_of(task_consumer, driver_type)
        self._is_attached = True
        self._add_credit(qos)

    def detach(self) -> None:
        """The connection is over: no message comes until the next one, and nothing is asked of this one."""
        self._is_attached = self._is_finding = False
        for state in (self._wanting, self._left, self._surplus):
            state.clear()

    def check_rights(self, setting: str) -> tuple[str, ...]:
        """As :meth:`Broker.check_rights`."""
        return self._broker.check_rights(setting) if self._broker is not None else ()

    def _close_broker(self) -> None:
        if self._broker is not None:
            self._lost.update(self._broker.lost)
            self._broker.close()
            self._broker = None

    @property
    def lost_queues(self) -> dict[str, int]:
        """How often each queue was found to be gone while it was not consumed."""
        return dict(self._lost + Counter(self._broker.lost if self._broker is not None else ()))

    def close(self) -> None:
        """The worker has stopped."""
        self._close_broker()

    def _add_credit(self, qos: Any) -> None:
        # Not by qos.increment_eventually: after a reconnect Celery (5.4-5.7) sets the value anew, and each decrement
        # that belongs to a lost increment would then shrink the prefetch count, down to 1.
        send = qos.callback

        def send_with_credit(prefetch_count: int) -> Any:
            # Not bounded by worker_eta_task_limit (qos.max_prefetch): that counts tasks that wait for their ETA.
            more = min(prefetch_count + len(self._credited), MOST_PREFETCH)
            return send(prefetch_count=max(prefetch_count, more) if prefetch_count else 0)

        qos.callback = send_with_credit

    def _send_credit(self) -> None:
        with self._qos._mutex:  # kombu 5.4-5.7: what it holds while it sends the prefetch count
            self._qos.prev = None  # so that the worker's loop sends it again

    def queue_of(self, request: Any) -> str | None:
        """The queue that the request's message was consumed from."""
        return self._broker.queue_of(request.message) if self._broker is not None else None

    def holds_for(self, name: str | None) -> float | None:
        """For how many seconds a message of a queue is held at most, half of what the broker bears; None = no bound."""
        if self._broker is None or name is None:
            return None
        timeout = self._broker.consumer_timeout(name, self._consumer_timeout)
        return None if timeout is None else timeout / 2

    # -- What is parked, and what is consumed ------------------------------------------------------------

    def parked(self, run: Run) -> None:
        """A request waits here: its prefetch credit goes to others, and its queue may have to stop."""
        name = run.queue
        if name is not None and self._stays(name):
            return  # its prefetch credit is what bounds it
        self._credited.add(run)
        self._send_credit()
        if name is not None:
            parked = self._parked.setdefault(name, Counter())
            parked[run.task] += 1
            self._bytes += _size(run)
            most = self._bounds(run)[1]
            if parked.total() >= most:
                self._stop(name)
            elif self._bytes >= MOST_BYTES and parked.total() >= self._at_once(run):
                self._stop(name)
                self._heavy.add(name)
            if parked.total() > most and self._has_priorities(run):
                self._note_surplus(run)

    def unparked(self, run: Run) -> None:
        """A request waits no more."""
        name = run.queue
        if name is not None and self._stays(name):
            return
        if run in self._credited:
            self._credited.remove(run)
            self._send_credit()
        if name is not None:
            parked = self._parked[name]
            parked[run.task] -= 1
            self._bytes -= _size(run)
            if name in self._heavy:
                if parked.total() < self._at_once(run):
                    self._want(name)
            elif name in self._stopped and name not in self._left and parked.total() <= self._bounds(run)[0]:
                self._wanting.add(name)
            if self._heavy and self._bytes < MOST_BYTES / 2:
                for heavy in list(self._heavy):
                    self._want(heavy)

    @property
    def wants_more(self) -> bool:
        """Whether there is something to fetch: call :meth:`resume` when nothing is more urgent."""
        if self._is_ended:
            return False
        return bool(self._wanting) or (bool(self._is_finding or self._left) and self._free_slots() > 0)

    def resume(self) -> None:
        """Consume stopped queues again of which few requests are left here."""
        self.take_up_overdue()
        while self._wanting:
            name = self._wanting.pop()
            if self._is_stopped(name):
                self._resume(name)
        if self._is_finding:
            self.look_past()

    def look_past(self) -> None:
        """Where slots are free and queues are stopped: take what others of their messages could start."""
        if self._broker is None or self._is_ended or self._free_slots() <= 0:
            return
        self._is_finding = False
        for name, parked in list(self._parked.items()):
            if not self._is_stopped(name) or self._own_limit(name) in self._table():
                continue
            if parked.total() >= 2 * self._broker.most_parked:
                continue  # so many kinds of tasks wait
            if self._broker.take_past(name, (+parked).keys(), self._slots()):
                self._is_finding = True

    @property
    def keep_seconds(self) -> float | None:
        """How often the broker is to hear that a message is held; None = never."""
        return self._broker.keep_seconds if self._broker is not None else None

    def keep(self, runs: Collection[Run]) -> None:
        """These are held and not started: the broker must not deliver them again."""
        if self._broker is not None:
            self._broker.keep([run.request.message for run in runs])

    def give_back(self, runs: Sequence[Run]) -> None:
        """Requests that have left the gate unstarted, in order of arrival: their messages go back to their queues.

        Their queues are stopped before, and consumed again when nothing is more urgent, so that the messages come
        back after all of them have gone, and in order.
        """
        if not self._is_ended and self._broker is not None:
            for name in {run.queue for run in runs if run.queue is not None and not self._stays(run.queue)}:
                self._stop(name)
                self._wanting.add(name)
        self.put_back(runs)

    def put_back(self, runs: Sequence[Run]) -> None:
        """Requests that have left the gate go back to their places."""
        deliveries = [(run.queue, run.request.message) for run in runs if run.queue is not None]
        if self._broker is None or not deliveries:
            return
        try:
            self._broker.give_back(deliveries)
        except Exception:
            logger.warning(
                "celery-gconc: %d messages could not be given back: the broker will", len(runs), exc_info=True
            )

    # -- What other workers have room for ----------------------------------------------------------------

    @property
    def taken(self) -> list[str]:
        """The queues that messages are taken of: all that are subscribed, consumed just now or not."""
        return sorted(self._consumer._active_tags) if self._is_attached and not self._is_ended else []

    def may_move(self, run: Run) -> bool:
        """Whether a request may go back for others to take: once, and where its broker has a place for it."""
        name = run.queue
        if name is None or self._broker is None or self._stays(name):
            return False
        if not self._broker.may_move(name, run.request.message):
            return False
        if name in self._left:  # a read was under way
            self._surplus.append(run)
        return not self._moved.count(run.message_id)

    def move(self, runs: Sequence[Run]) -> None:
        """Requests that have left the gate go back to their places; this worker leaves their queues alone.

        Until it has a free slot, or nobody else has one (:meth:`take_up`), and for :data:`LEFT_SECONDS` at most.
        """
        for run in runs:
            self._moved.add(run.message_id)
        for name in {run.queue for run in runs if run.queue is not None}:
            self._stop(name)
            self._wanting.discard(name)
            if self._is_stopped(name):
                self._left[name] = now() + LEFT_SECONDS
        if self._broker is not None:
            self._broker.end_read()
        self.put_back(runs)
        self._leaves(self._left)

    def take_up(self, names: Iterable[str]) -> None:
        """Consume queues again that were left alone."""
        found = [name for name in names if self._left.pop(name, None) is not None]
        for name in found:
            if not self._is_ended and self._is_stopped(name):
                self._resume(name)
        if found:
            self._leaves(self._left)

    def take_up_overdue(self) -> None:
        """Take up what was left alone, where a slot is free by now, or it has been long."""
        if self._left:
            moment, has_slot = now(), self._free_slots() > 0
            self.take_up([name for name, until in self._left.items() if has_slot or moment >= until])

    def take_surplus(self) -> list[Run]:
        """Requests that came though their queue is stopped, and may not wait here. Each is told once."""
        if not self._surplus:
            return []
        surplus, self._surplus = self._surplus, []
        return surplus

    def _note_surplus(self, run: Run) -> None:
        """What the broker sent before it heard that the queue is stopped goes back, but not again and again."""
        broker, name = self._broker, run.queue
        if broker is None or name is None or self._returned.count(run.message_id) >= MOST_RETURNS:
            return
        if broker.may_move(name, run.request.message):
            self._returned.add(run.message_id)
            self._surplus.append(run)

    def end(self, *, reading: bool) -> None:
        """Consume nothing any more; and, on the consumer's thread (*reading*), receive what was under way."""
        self._is_ended = True
        if self._broker is not None:
            with suppress(Exception):  # the connection may be gone: then the broker ends it all
                self._broker.cancel_all()
                if reading:
                    self._broker.end_reading()

    def forget(self) -> None:
        """The worker has stopped: leave nothing with the broker's connection, which its process may keep."""
        if self._broker is not None:
            with suppress(Exception):  # it is closed already
                self._broker.forget()

    @property
    def stopped(self) -> list[str]:
        """The queues that are subscribed but not consumed just now."""
        return sorted(name for name in self._stopped if self._is_stopped(name))

    def _bounds(self, run: Run) -> tuple[int, int]:
        """With how few requests of a queue waiting here it is consumed again, and with how many it is stopped.

        For the queue's own limit, no fewer than could start at once; and so many that neighbours in the queue, which
        are fetched in one go, can follow each other here, where a permit passes on without a round trip: at three
        times that number, and :data:`FOLLOWING` more, most do.
        """
        assert self._broker is not None
        own, slots = self._own_limit(run.queue), self._slots()
        if own in run.limits:
            least = min(self._table().get(own, 0), slots)
            most = 3 * least + FOLLOWING
        else:
            most = max(self._broker.most_parked, slots)
            least = most // 2
        if self._has_priorities(run):
            most = min(most, URGENT_FOLLOWING * max(slots, 1))
            least = min(least, most // 4)
        return least, most

    def _has_priorities(self, run: Run) -> bool:
        """Whether a later message of the queue may be more urgent: it is declared so, or a message was."""
        name = run.queue
        assert name is not None
        if name not in self._prioritised:
            if not priority_of(run.request.message) and not has_priorities(self._consumer, name):
                return False
            self._prioritised.add(name)
        return True

    def _own_limit(self, name: str | None) -> str:
        """The limit of a queue itself."""
        queue = queue_named(self._consumer, name) if name is not None else None
        return f"queue:{name if queue is None else goes_by(queue)}"

    def _at_once(self, run: Run) -> int:
        """How many requests like this one could start at once here, if all of their limits were free."""
        table = self._table()
        return max(min([self._slots(), *(table.get(limit, 0) for limit in run.limits)]), 1)

    def _want(self, name: str) -> None:
        self._heavy.discard(name)
        if name in self._stopped and name not in self._left:
            self._wanting.add(name)

    def _stays(self, name: str) -> bool:
        """Whether a queue is never stopped."""
        found = self._staying.get(name)
        if found is None:
            assert self._broker is not None
            found = not self._broker.may_cancel or must_stay_consumed(self._consumer, name)
            self._staying[name] = found
        return found

    def _is_stopped(self, name: str) -> bool:
        """Whether we stopped a queue; not where the operator has cancelled it since, or subscribed it anew."""
        stopped = self._stopped.get(name)
        if stopped is not None and self._consumer._active_tags.get(name) != stopped[1]:
            del self._stopped[name]
            return False
        return stopped is not None

    def _stop(self, name: str) -> None:
        queue = queue_named(self._consumer, name)
        tag = self._consumer._active_tags.get(name)
        if self._is_stopped(name) or queue is None or tag is None:
            return
        assert self._broker is not None
        self._stopped[name] = (queue, tag)
        self._broker.cancel(name, tag)
        logger.debug("celery-gconc: stopped consuming from %s: its limit is full", name)

    def _resume(self, name: str) -> None:
        queue, tag = self._stopped.pop(name)
        self._heavy.discard(name)
        assert self._broker is not None
        self._broker.consume(queue, tag)
        logger.debug("celery-gconc: consuming from %s again", name)


def _size(run: Run) -> int:
    body = run.request.message.body
    return len(body) if isinstance(body, (bytes, bytearray, memoryview, str)) else 0
