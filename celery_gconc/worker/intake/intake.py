"""The intake: from which of the subscribed queues the worker takes messages at this moment, and what goes back.

    Gate, Dispatcher (parked, unparked, ...) -> Intake -> Subscriptions, Returns, Credit -> Broker

Thread: consumer.

Messages that must wait stay in the broker, where another worker or an operator sees them, and where they block
nobody: a worker parks a few for each queue, then stops consuming that queue, and goes on when some of them start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from celery_gconc.brokers.base import Broker
from celery_gconc.clock import now
from celery_gconc.worker.intake.credit import Credit
from celery_gconc.worker.intake.returns import Returns
from celery_gconc.worker.intake.subscriptions import Subscriptions
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.run import Run

#: How many requests of a queue may wait here at least, however small its limit.
FOLLOWING = 4

#: How many requests of a queue with priorities may wait here for each slot: a later, more urgent one comes after them.
URGENT_FOLLOWING = 2

#: How long, in seconds, a queue is left alone for others at most, whatever Redis believes of them.
LEFT_SECONDS = 10.0

#: From how many bytes of messages that wait here on, of all queues, no more of a queue wait than could start at once.
MAX_BYTES = 16 * 1024 * 1024


class Intake:
    """One worker's intake. All fields belong to the consumer's thread."""

    def __init__(self, ledger: Ledger[Run], pool: Pool, *, consumer_timeout: float) -> None:
        self._ledger, self._pool = ledger, pool
        #: After how many seconds the broker closes the channel for a message that is held, where it does.
        self._consumer_timeout = consumer_timeout
        self.subscriptions = Subscriptions()
        self._returns = Returns(self.subscriptions)
        self._credit = Credit()
        #: That of the subscriptions, at hand.
        self._broker: Broker | None = None
        #: Says of which queue a message was consumed; the broker's own, for each message asks.
        self.queue_of: Callable[[Any], str | None] = _not_known
        #: How many requests of each queue wait here, by task; and how many bytes the messages of all of these have.
        self._parked: dict[str, Counter[str]] = {}
        self._bytes = 0
        #: Queues that were stopped because of it.
        self._heavy: set[str] = set()
        #: The stopped queues that are to be consumed again when nothing is more urgent.
        self._wanting: set[str] = set()
        #: The stopped queues that are left alone for other workers, each with the time until when at most.
        self._left: dict[str, float] = {}
        #: Whether the last look past what waits found something, so that another may.
        self._is_finding = False

    # -- The connection ----------------------------------------------------------------------------------

    def attach(self, task_consumer: Any, qos: Any, driver_type: str, *, has_fixed_prefetch: bool = False) -> None:
        """A new connection: everything that is subscribed is consumed again, and nothing is parked.

        *has_fixed_prefetch*: each of the broker's consumers has a prefetch count of its own.
        """
        self.subscriptions.attach(task_consumer, driver_type, getattr(qos, "max_prefetch", None))
        self._broker = self.subscriptions.broker
        self.queue_of = self._broker.queue_of if self._broker is not None else _not_known
        self._credit.attach(qos, is_fixed=has_fixed_prefetch)
        self._returns.forget_surplus()
        for state in (self._parked, self._wanting, self._left, self._heavy):
            state.clear()
        self._ledger.leave_queues(())
        self._bytes = 0
        self._is_finding = False

    def detach(self) -> None:
        """The connection is over: no message comes until the next one, and nothing is asked of this one."""
        self.subscriptions.detach()
        self._returns.forget_surplus()
        self._is_finding = False
        self._wanting.clear()
        self._left.clear()

    def end(self, *, reading: bool) -> None:
        """Consume nothing any more; and, on the consumer's thread (*reading*), receive what was under way."""
        self.subscriptions.end(reading=reading)

    def close(self) -> None:
        """The worker has stopped."""
        self.subscriptions.close()
        self._broker, self.queue_of = None, _not_known

    def check_rights(self, setting: str) -> tuple[str, ...]:
        """As :meth:`Broker.check_rights`."""
        return self._broker.check_rights(setting) if self._broker is not None else ()

    # -- What the broker hears of what is held -----------------------------------------------------------

    def holds_for(self, name: str | None) -> float | None:
        """For how many seconds a message of a queue may be held, half of what the broker allows; None = no bound."""
        if self._broker is None or name is None:
            return None
        timeout = self._broker.consumer_timeout(name, self._consumer_timeout)
        return None if timeout is None else timeout / 2

    @property
    def keep_seconds(self) -> float | None:
        """How often the broker is to hear that a message is held; None = never."""
        return self._broker.keep_seconds if self._broker is not None else None

    def keep(self, runs: Collection[Run]) -> None:
        """These are held and not started: the broker must not deliver them again."""
        if self._broker is not None:
            self._broker.keep([run.request.message for run in runs])

    # -- What is parked, and what is consumed ------------------------------------------------------------

    def parked(self, run: Run) -> None:
        """A request waits here: its prefetch credit goes to others, and its queue may have to stop."""
        name = run.queue
        if name is not None and self.subscriptions.stays(name):
            return  # its prefetch credit is what bounds it
        self._credit.lend(run)
        if name is not None:
            parked = self._parked.setdefault(name, Counter())
            parked[run.task] += 1
            self._bytes += _size(run)
            bound = self._bounds(run)[1]
            if parked.total() >= bound:
                self.subscriptions.stop(name)
            elif self._bytes >= MAX_BYTES and parked.total() >= self._at_once(run):
                self.subscriptions.stop(name)
                self._heavy.add(name)
            elif self._credit.is_used_up(self.subscriptions.tag(name)):
                self.subscriptions.renew(name)
            if parked.total() > bound and self.subscriptions.has_priorities(name, run.request.message):
                self._returns.note_surplus(run)

    def unparked(self, run: Run) -> None:
        """A request waits no more."""
        name = run.queue
        if name is not None and self.subscriptions.stays(name):
            return
        self._credit.take_back(run)
        if name is not None:
            parked = self._parked[name]
            parked[run.task] -= 1
            self._bytes -= _size(run)
            if name in self._heavy:
                if parked.total() < self._at_once(run):
                    self._want(name)
            elif self._is_resumable(name) and parked.total() <= self._bounds(run)[0]:
                self._wanting.add(name)
            if self._heavy and self._bytes < MAX_BYTES / 2:
                for heavy in list(self._heavy):
                    self._want(heavy)

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to fetch and nothing to put back."""
        return not (self._wanting or self._left or self._is_finding or self._returns.surplus)

    @property
    def wants_more(self) -> bool:
        """Whether there is something to fetch: call :meth:`resume` when nothing is more urgent."""
        if self.subscriptions.is_ended:
            return False
        if self._is_finding or self._left:
            return bool(self._wanting) or self._ledger.free_slots > 0
        return any(not self._passes_on(name) for name in self._wanting)

    def resume(self) -> None:
        """Consume stopped queues again of which few requests are left here."""
        self.take_up_overdue()
        for name in [name for name in self._wanting if not self._passes_on(name)]:
            self._wanting.discard(name)
            if self.subscriptions.is_stopped(name):
                self._resume(name)
        if self._is_finding:
            self.fetch_past()

    def fetch_past(self) -> None:
        """Where slots are free and queues are stopped: take what others of their messages could start."""
        if self._broker is None or self.subscriptions.is_ended or self._ledger.free_slots <= 0:
            return
        self._is_finding = False
        for name, parked in list(self._parked.items()):
            if not self.subscriptions.is_stopped(name) or self.subscriptions.own_limit(name) in self._ledger.table:
                continue
            if parked.total() >= 2 * self._broker.most_parked:
                continue  # too many kinds of tasks wait
            if self._broker.take_past(name, (+parked).keys(), self._pool.size):
                self._is_finding = True

    def renew_used_up(self) -> None:
        """Where slots are free: have the broker send more of the queues whose messages that wait here keep it from it.

        Those that run and are acknowledged late keep it from it too, so a look at what is parked alone is not enough.
        """
        if not self._credit.is_fixed or self.subscriptions.is_ended or self._ledger.free_slots <= 0:
            return
        unacknowledged = sum(not run.request.acknowledged for run in self._ledger.running())
        for name in self._parked:
            if self._credit.is_used_up(self.subscriptions.tag(name), unacknowledged):
                self.subscriptions.renew(name)

    # -- What goes back ----------------------------------------------------------------------------------

    def give_back(self, runs: Sequence[Run]) -> None:
        """Requests that have left the gate unstarted, in order of arrival: their messages go back to their queues.

        Their queues are stopped before, and consumed again when nothing is more urgent, so that the messages come
        back after all of them have gone, and in order.
        """
        if not self.subscriptions.is_ended and self._broker is not None:
            for name in {
                run.queue for run in runs if run.queue is not None and not self.subscriptions.stays(run.queue)
            }:
                self.subscriptions.stop(name)
                self._wanting.add(name)
        self._returns.put_back(runs)

    def put_back(self, runs: Sequence[Run]) -> None:
        """Requests that have left the gate go back to where they were; nothing else changes."""
        self._returns.put_back(runs)

    def take_surplus(self) -> list[Run]:
        """Requests that came though their queue is stopped, and may not wait here. Each is given once."""
        return self._returns.take_surplus()

    def may_move(self, run: Run) -> bool:
        """Whether a request may go back for others to take: once, and where its broker puts it where it was."""
        if not self._returns.may_move(run):
            return False
        is_unasked = self.subscriptions.is_unasked(run.queue, run.request.message)
        if run.queue in self._left or is_unasked:  # a read was under way
            self._returns.add_surplus(run)
        return not self._returns.was_moved(run)

    def move(self, runs: Sequence[Run]) -> None:
        """Requests that have left the gate go back to where they were; this worker leaves their queues alone.

        Until it has a free slot, or nobody else has one (:meth:`take_up`), and for :data:`LEFT_SECONDS` at most.
        """
        self._returns.note_moved(runs)
        for name in {run.queue for run in runs if run.queue is not None}:
            self.subscriptions.stop(name)
            self._wanting.discard(name)
            if self.subscriptions.is_stopped(name):
                self._left[name] = now() + LEFT_SECONDS
        if self._broker is not None:
            self._broker.end_read()
        self._returns.put_back(runs)
        self._ledger.leave_queues(self._left)

    def parked_queues(self) -> list[str]:
        """The queues of which requests wait here."""
        return [name for name, parked in self._parked.items() if parked.total()]

    def send_back(self, runs: Sequence[Run]) -> None:
        """Requests of stopped queues that have left the gate go back to where they were, and wait there."""
        self._returns.note_sent_back(runs)
        if self._broker is not None:
            self._broker.end_read()
        self._returns.put_back(runs)

    def take_up(self, names: Iterable[str]) -> None:
        """Consume queues again that were left alone."""
        found = [name for name in names if self._left.pop(name, None) is not None]
        for name in found:
            if not self.subscriptions.is_ended and self.subscriptions.is_stopped(name):
                self._resume(name)
        if found:
            self._ledger.leave_queues(self._left)

    def leaves(self, name: str) -> bool:
        """Whether a queue is left alone for others."""
        return name in self._left

    def take_up_overdue(self) -> None:
        """Take up what was left alone, where a slot is free by now, or it has been long."""
        if self._left:
            moment, has_slot = now(), self._ledger.free_slots > 0
            self.take_up([name for name, until in self._left.items() if has_slot or moment >= until])

    # -- Its own -----------------------------------------------------------------------------------------

    def _bounds(self, run: Run) -> tuple[int, int]:
        """With how few requests of a queue waiting here it is consumed again, and with how many it is stopped.

        For the queue's own limit, no fewer than could start at once; and enough that neighbours in the queue, which
        are fetched in one go, can follow each other here, where a permit passes on without a round trip: at three
        times that number, and :data:`FOLLOWING` more, nearly all do.
        """
        assert self._broker is not None
        assert run.queue is not None
        own, slots = self.subscriptions.own_limit(run.queue), self._pool.size
        if own in run.limits:
            least = min(self._ledger.table.get(own, 0), slots)
            bound = 3 * least + FOLLOWING
        else:
            bound = max(self._broker.most_parked, slots)
            least = bound // 2
        if self.subscriptions.has_priorities(run.queue, run.request.message):
            bound = min(bound, URGENT_FOLLOWING * max(slots, 1))
            least = min(least, bound // 4)
        return least, bound

    def _passes_on(self, name: str) -> bool:
        """Whether what is fetched of a queue now could not start before others have had their turn.

        To fetch it takes some milliseconds, which the end of what runs would have to wait for.
        """
        return self._ledger.passes_on(self.subscriptions.own_limit(name))

    def _at_once(self, run: Run) -> int:
        """How many requests like this one could start at once here, if all of their limits were free."""
        table = self._ledger.table
        return max(min([self._pool.size, *(table.get(limit, 0) for limit in run.limits)]), 1)

    def _is_resumable(self, name: str) -> bool:
        return self.subscriptions.was_stopped(name) and name not in self._left

    def _want(self, name: str) -> None:
        self._heavy.discard(name)
        if self._is_resumable(name):
            self._wanting.add(name)

    def _resume(self, name: str) -> None:
        self._heavy.discard(name)
        self.subscriptions.resume(name)


def _not_known(message: Any) -> str | None:
    return None


def _size(run: Run) -> int:
    body = run.request.message.body
    return len(body) if isinstance(body, (bytes, bytearray, memoryview, str)) else 0
