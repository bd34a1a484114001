"""Notices that a worker's event loop stands still, from a thread of its own: it knocks, and the loop answers.

    StallWatch -> Turns.knock -> Starter -> StallWatch.loop_ran

Thread: its own; :meth:`StallWatch.loop_ran` is for the consumer's.

A slow signal handler, or a broker that is silent over a half-open connection, can hold it up for minutes. Meanwhile
it reads no results and starts nothing; so its worker must have no room, or every free permit that one of its requests
is the first to wait for would be granted to it, given back, and granted to it again.

It is asked, not heard of by chance: each turn of the loop answers, however many timers or messages it is busy with.
"""

from __future__ import annotations

import threading

from celery.utils.log import get_logger

from celery_gconc.clock import now
from celery_gconc.protocol.counted import Stall
from celery_gconc.worker.dispatch import Dispatcher
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.run import Run
from celery_gconc.worker.session.counts import Counters
from celery_gconc.worker.session.health import Health
from celery_gconc.worker.turns import Caller, Turns

logger = get_logger(__name__)

#: How often, in seconds, it knocks: so often parked requests and stopped queues are looked after.
TICK_SECONDS = 0.25

#: For how long, in seconds, an event loop may stand still before others take its permits.
LATE_SECONDS = 1.0

#: After how many seconds in which nothing is started though slots are free that is said.
SAID_SECONDS = 3.0

#: Why that may be.
STANDS_STILL = "its event loop is stuck (a slow signal handler or an unresponsive broker can block it)"
PROMISED = "its free slots are reserved for tasks that do not start"


class StallWatch:
    """One worker's. Its thread writes all fields but :attr:`_seen`."""

    def __init__(
        self,
        pool: Pool,
        ledger: Ledger[Run],
        dispatcher: Dispatcher,
        turns: Turns,
        caller: Caller,
        *,
        health: Health,
        counters: Counters,
    ) -> None:
        self._pool, self._ledger, self._dispatcher, self._turns = pool, ledger, dispatcher, turns
        self._caller = caller
        self._health, self._counters = health, counters
        #: Whether there is an event loop: without one (solo), the consumer's thread may run tasks itself.
        self._has_loop = False
        #: When the loop was last seen to run, by :func:`now`. The consumer's thread.
        self._seen = now()
        #: Why nothing is started though slots are free, how many, and since when; and whether that was said.
        self._stall: tuple[str, int, float] | None = None
        self._is_said = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="celery-gconc-stall-watch", daemon=True)

    def start(self, *, has_loop: bool) -> None:
        """Begin to knock; where there is an event loop, watch for its answers too."""
        self._has_loop = has_loop
        self._seen = now()
        self._thread.start()

    def loop_ran(self) -> bool:
        """The event loop runs. Return whether it had been taken to stand still."""
        was_late, self._pool.is_stalled = self._pool.is_stalled, False
        self._seen = now()
        return was_late

    def close(self) -> None:
        """The worker stops."""
        self._closed.set()

    # -- Its thread --------------------------------------------------------------------------------------

    def _watch(self) -> None:
        was_late = False
        while not self._closed.wait(TICK_SECONDS):
            seen = self._seen
            is_late = self._pool.is_stalled = self._has_loop and now() - seen > LATE_SECONDS
            try:
                self._turns.knock()
                if is_late:
                    self._caller.ring()  # the link's thread does now what the loop did
                    self._ledger.slots_changed()
                    self._dispatcher.runs.watch_pipes()
                elif was_late:
                    self._dispatcher.runs.watch_no_pipes()
                self._look_for_stall(seen, is_late=is_late)
                self._counters.stall = self._current()
            except Exception:
                logger.exception("celery-gconc: unexpected error while watching the event loop")
            was_late = is_late

    def _look_for_stall(self, seen: float, *, is_late: bool) -> None:
        before = self._stall
        if is_late:
            why, slots, since = STANDS_STILL, self._free_slots, seen
        else:
            why, slots, since = PROMISED, self._unused_slots, now()
        if slots > 0:
            self._stall = (why, slots, before[2] if before is not None and before[0] == why else since)
        else:
            self._stall = None
        if before is not None and self._is_said and (self._stall is None or self._stall[0] != before[0]):
            self._is_said = False
            logger.warning(
                "celery-gconc: tasks under limits start here again; none did for %.0f s (reason: %s)",
                now() - before[2],
                before[0].partition(" (")[0],
            )
        if not self._is_said and (stall := self._current()) is not None:
            self._is_said = True
            logger.warning(
                "celery-gconc: this worker has had no room for tasks under limits for %.0f s, though %d of its slots "
                "are free, because %s; other workers can still run them",
                stall.seconds,
                stall.slots,
                stall.why,
            )

    def _current(self) -> Stall | None:
        """The stall, once it has lasted for some time."""
        stall = self._stall
        if stall is None or now() - stall[2] < SAID_SECONDS:
            return None
        why, slots, since = stall
        return Stall(why, slots, now() - since)

    @property
    def _free_slots(self) -> int:
        return 0 if self._dispatcher.is_closed else self._pool.size - self._ledger.running_count

    @property
    def _unused_slots(self) -> int:
        """How many slots are free that nothing of what waits here is to have."""
        return self._ledger.unused_slots() if self._health.connected else 0
