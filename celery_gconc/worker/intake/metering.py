"""Queues that are read message by message, each for a unit of their own limit that is here and spare.

    Dispatcher (ends, grants), Gate (what waits) -> Metering -> Ledger (readable) -> Broker.fetch -> Gate

Thread: the one that may use the broker's connection; :meth:`Metering.touch` any.

A queue whose limit is full is *metered*: what of it waits here goes back, so that all of it waits at the broker, in the
broker's order, and Redis hears that this session would read more. From then on each unit that comes to be spare brings
one message, without a word to Redis. Once a read finds less than there are units for, the queue is read as any other.
"""

from __future__ import annotations

from collections.abc import Iterable

from celery.utils.log import get_logger

from celery_gconc.clock import now
from celery_gconc.worker.intake.intake import Intake
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.run import Run

logger = get_logger(__name__)

#: For how long, in seconds, a request waits for its queue's limit here before it waits at the broker: idle units of
#: others come sooner.
PATIENT_SECONDS = 0.1

#: For how long, in seconds, one that was read ahead of units that are in use here waits for them.
AHEAD_SECONDS = 0.25

#: How often in a turn a queue is read: what was revoked or has expired brings the next.
MAX_READS = 4


class Metering:
    """One worker's."""

    def __init__(self, ledger: Ledger[Run], pool: Pool, intake: Intake, *, is_on: bool) -> None:
        self._ledger, self._pool, self._intake = ledger, pool, intake
        self._subscriptions = intake.subscriptions
        #: Whether any queue may be (``global_concurrency_wait_at_broker``).
        self._is_on = is_on
        #: The queues that are metered, each with its own limit; and the other way round.
        self._limits: dict[str, str] = {}
        self._queues: dict[str, str] = {}
        #: Those of them that are to be looked at. Any thread adds.
        self._touched: set[str] = set()
        #: Queues of which one message ahead of the units had to go back: their tasks are too long for that.
        self._long: set[str] = set()
        self._is_reading = False

    def attach(self) -> None:
        """A new connection: no queue is metered."""
        self.clear()
        if (broker := self._subscriptions.broker) is not None:
            broker.on_end = self._found_end
        self.tell_queues()

    def clear(self) -> None:
        """Nothing is read message by message any more."""
        for limit in self._limits.values():
            self._ledger.end_meter(limit)
        for state in (self._limits, self._queues, self._touched, self._long, self._subscriptions.metered):
            state.clear()

    def tell_queues(self) -> None:
        """Have the ledger know which queues may be metered."""
        subscriptions = self._subscriptions
        if not self._is_on:
            return
        self._ledger.may_meter(
            subscriptions.own_limit(name) for name in subscriptions.taken if subscriptions.may_fetch(name)
        )

    def touch(self, name: str | None) -> None:
        """Something of a queue has ended, or no longer waits: it may be read. Any thread."""
        if name in self._limits:
            self._touched.add(name)

    @property
    def is_due(self) -> bool:
        """Whether there is a queue to look at: call :meth:`read`."""
        return bool(self._touched) or self._ledger.has_grown

    @property
    def is_urgent(self) -> bool:
        """Whether there are spare units that nothing is here for."""
        limits = [limit for name in [*self._touched] if (limit := self._limits.get(name)) is not None]
        return self._ledger.has_grown or any(self._ledger.metered(limit)[0] > 0 for limit in limits)

    def count(self) -> None:
        """Count what waits at the broker, for people."""
        broker = self._subscriptions.broker
        if self._limits and broker is not None and not self._subscriptions.is_ended:
            counts = broker.count([*self._limits])
            self._ledger.note_at_broker({self._limits[name]: count for name, count in counts.items()})

    # -- What waits here, and is to wait at the broker ---------------------------------------------------

    def overdue(self, parked: Iterable[str]) -> frozenset[str]:
        """Of these queues, of which requests wait here, those that have lacked units of their own limit for long.

        (One that was read ahead may also wait for a slot.)
        """
        if not self._is_on or self._subscriptions.is_ended:
            return frozenset()
        moment, has_slot, found = now(), self._ledger.free_slots > 0, set[str]()
        for name in parked:
            is_metered = name in self._limits
            since = moment - (AHEAD_SECONDS if is_metered else PATIENT_SECONDS)
            own = self._subscriptions.own_limit(name)
            if (
                (is_metered and (not has_slot or self._keeps_one(name, own)))
                or self._ledger.lacks_other(own)
                or not self._subscriptions.may_fetch(name)
            ):
                continue
            if self._ledger.lacks(own, since):
                found.add(name)
        return frozenset(found)

    def begin(self, name: str) -> None:
        """What waits for a queue's limit waits at the broker from now on."""
        if name in self._limits:
            self._long.add(name)
            return
        self._subscriptions.stop(name)
        if not self._subscriptions.is_stopped(name):
            return
        self._subscriptions.metered.add(name)
        limit = self._limits[name] = self._subscriptions.own_limit(name)
        self._queues[limit] = name
        self._touched.add(name)
        logger.debug("celery-gconc: %s is full: messages of %s wait at the broker", limit, name)

    def end_all(self) -> None:
        """Every queue is read as any other: units are not asked for."""
        for name in [*self._limits]:
            self.end(name)

    def _found_end(self, name: str) -> None:
        """Of a queue nothing waits at the broker any more."""
        if name in self._limits:
            self.end(name)

    def end(self, name: str) -> None:
        """A queue is read as any other."""
        limit = self._limits.pop(name)
        del self._queues[limit]
        self._long.discard(name)
        self._touched.discard(name)
        self._subscriptions.metered.discard(name)
        self._ledger.end_meter(limit)
        if not self._subscriptions.is_ended and self._subscriptions.is_stopped(name):
            self._subscriptions.resume(name)

    # -- Reading -----------------------------------------------------------------------------------------

    def read(self, *, everything: bool = False) -> None:
        """Read what there are units for: of what was touched, or of *everything*."""
        if self._is_reading:
            return  # what is read comes through here
        self._is_reading = True
        try:
            for limit in self._ledger.take_grown():
                self.touch(self._queues.get(limit))
            names, self._touched = self._touched, set()
            for name in [*self._limits] if everything else names:
                if name in self._limits:
                    self._read(name)
        finally:
            self._is_reading = False

    def _read(self, name: str) -> None:
        subscriptions, ledger, limit = self._subscriptions, self._ledger, self._limits[name]
        is_read = limit in ledger.table and not subscriptions.is_ended and subscriptions.is_stopped(name)
        # Where what was read waits for another limit, others may be read past it: that is how other queues are read.
        if not is_read or ledger.lacks_other(limit):
            self.end(name)
            return
        broker = subscriptions.broker
        assert broker is not None
        for _ in range(MAX_READS):
            count = self._count(name, limit) - broker.under_way(name) if broker.may_fetch else 0
            if count <= 0:
                break
            found = broker.fetch(name, count)
            if found is None:
                break
            if found < count:
                self.end(name)
                return
        # Where others have taken the prefetch count, units are of no use here.
        ledger.meter(limit, self._pool.size if broker.may_fetch and ledger.free_slots > 0 else 0)

    def _count(self, name: str, limit: str) -> int:
        """How many messages of a queue to read now.

        Some stand here ahead of units. Where no slot is free it is one, in this worker's line for slots. Else it is one
        for each that runs, where tasks are short enough that they start soon: so their predecessors' ends, which often
        come together, need no round trip.
        """
        free = max(self._ledger.free_slots, 0)
        readable, waiting, used = self._ledger.metered(limit)
        count = min(readable, free)
        if self._intake.leaves(name):
            return count
        is_one = free == 0 or self._keeps_one(name, limit)
        ahead = 1 if is_one else 0 if name in self._long else used + count
        lacking = max(ahead - waiting, 0)
        return count + (lacking if 2 * lacking >= ahead else 0)  # several in one read

    def _keeps_one(self, name: str, limit: str) -> bool:
        """Whether a message of a metered queue is to wait here, however long, so that its broker keeps the queue.

        Whoever has units has one, for it is the next that they are used for; whoever has none would leave it standing
        behind the messages that others read with theirs. While nobody may have any, all have one.
        """
        if not self._subscriptions.needs_one(name):
            return False
        return self._ledger.table.get(limit) == 0 or self._ledger.metered(limit)[2] > 0
