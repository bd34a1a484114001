"""The thread that may start requests, in each of its turns: it hears what it is asked for, and calls the parts.

    Turns -> Starter.turn -> Gate (pump, sweep), Intake, the watches

Thread: the consumer's; with a green pool a greenlet of its own.

Made last: it knows the parts, and none of them knows it. None of it is a timer of Celery's: its loop runs ten of those
that are due a turn, the oldest first (kombu 5.4-5.7), so behind thousands of tasks with one ETA a timer of ours would
be late by minutes.
"""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery.utils.log import get_logger

from celery_gconc.clock import now
from celery_gconc.worker.dispatch import is_shutting_down
from celery_gconc.worker.events import Events
from celery_gconc.worker.gate import Gate
from celery_gconc.worker.intake.intake import Intake
from celery_gconc.worker.intake.metering import Metering
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.refusal import heed_refusal
from celery_gconc.worker.run import Run
from celery_gconc.worker.session.health import Health
from celery_gconc.worker.session.speaker import Speaker
from celery_gconc.worker.turns import GreenBell, Turns
from celery_gconc.worker.wake import Bell
from celery_gconc.worker.watch.deadlocks import DeadlockWatch
from celery_gconc.worker.watch.long_waits import LongWaits
from celery_gconc.worker.watch.stalls import TICK_SECONDS, StallWatch

logger = get_logger(__name__)

#: How often, in seconds, it is looked whether something could start though nothing has said so.
PUMP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Called:
    """The parts that a starter calls."""

    health: Health
    pool: Pool
    ledger: Ledger[Run]
    intake: Intake
    metering: Metering
    gate: Gate
    events: Events
    stalls: StallWatch
    deadlocks: DeadlockWatch
    long_waits: LongWaits


class Starter:
    """One worker's. What differs by its kind is how it hears that it was asked: the subclasses below."""

    def __init__(self, turns: Turns, parts: Called, *, has_loop: bool) -> None:
        self._turns, self._parts = turns, parts
        #: Whether the consumer's thread runs an event loop, and so comes round soon after Celery is to stop.
        self._has_loop = has_loop
        #: When it looks, unasked, whether something could start, by :func:`now`.
        self._next_pump = 0.0
        #: Which broker messages are taken from: a digest.
        self._source = ""

    def start(self) -> None:
        """The worker is ready to be called."""

    def attach(self, connection: Any, source: str) -> None:
        """The broker is connected (again)."""
        self._source = source
        self.tell_queues()

    def detach(self) -> None:
        """Its connection is over."""
        self._parts.ledger.take_queues(self._source, ())

    def register(self, hub: Any) -> None:
        """The event loop starts (again)."""

    def close(self) -> None:
        """The worker stops."""
        self._turns.bell.close()

    def tell_queues(self) -> None:
        """Have Redis know which queues messages are taken of."""
        self._parts.ledger.take_queues(self._source, self._parts.intake.subscriptions.taken)

    def turn(self) -> None:
        """Do what was asked for."""
        if self._turns.take_resume():
            self._parts.metering.read()
            self._parts.intake.resume()
        if self._turns.take_tick():
            self._tick()
        if self._turns.take_news():
            self._pump()

    def turn_or_log(self) -> None:
        """The same where nobody else would say what failed."""
        try:
            self.turn()
        except Exception:
            logger.exception("celery-gconc: starting a task failed")

    def _pump(self) -> None:
        """Start what there is a permit for by now."""
        parts = self._parts
        heed_refusal(parts.health)
        parts.stalls.loop_ran()
        parts.pool.shrink_on()
        if parts.pool.autoscaler is not None and parts.ledger.holds_slot and parts.ledger.free_slots <= 0:
            # With an event loop Celery scales up when a message comes; here permits may come without one.
            parts.pool.autoscaler.maybe_scale()
        parts.gate.pump()
        parts.events.tell_changes(parts.ledger.table)

    def _tick(self) -> None:
        """Look after what is held, four times a second."""
        parts = self._parts
        if parts.stalls.loop_ran():
            parts.gate.pump()
        parts.pool.shrink_on()
        if not self._has_loop and is_shutting_down():
            parts.gate.close(by_consumer=False)  # the consumer's own loop comes round after some seconds only
            return
        parts.deadlocks.suspect(parts.gate.sweep(TICK_SECONDS))
        if now() >= self._next_pump:
            self._next_pump = now() + PUMP_SECONDS
            parts.gate.pump()  # whatever wake-up was lost, nothing waits for longer than this
            self.tell_queues()
            parts.metering.tell_queues()
            parts.metering.count()
            parts.long_waits.warn(parts.ledger.queued())
        parts.deadlocks.sent_back(parts.gate.send_back())
        parts.intake.take_up_overdue()
        parts.intake.renew_used_up()
        parts.intake.fetch_past()
        parts.ledger.tell_room()


class HubStarter(Starter):
    """With an event loop: it hears the bell, in each of its turns, and what Redis says."""

    def __init__(self, turns: Turns, parts: Called, speaker: Speaker, *, has_loop: bool) -> None:
        super().__init__(turns, parts, has_loop=has_loop)
        self._speaker = speaker
        self._hub: Any = None
        #: When the loop will speak next, by a timer.
        self._speaks_at = math.inf
        #: What the loop waits for on behalf of the speaker: see :meth:`Speaker.sockets`.
        self._heard: dict[int, tuple[socket.socket, Callable[[], None]]] = {}

    def register(self, hub: Any) -> None:
        """Add the bell to the loop; again after each reconnect, which resets the loop."""
        self._parts.stalls.loop_ran()
        self._hub, self._heard, self._speaks_at = hub, {}, math.inf
        hub.add_reader(self._turns.bell, self._on_rung)
        if not self._parts.pool.blocks_loop:  # else it would be late with each task
            self._turns.speaks = True
            self._turns.speak()

    def detach(self) -> None:
        """The loop doesn't turn until Celery has found its broker again."""
        super().detach()
        self._speaker.stop()

    def turn(self) -> None:
        """Start what can be started, then say what came of it, in one."""
        super().turn()
        if self._turns.take_speech() and self._turns.speaks:
            self._speak()

    def _speak(self) -> None:
        delay = self._speaker.speak()
        if delay is not None and (speaks_at := now() + delay) < self._speaks_at:
            # Behind thousands of tasks with one ETA it comes late: then the link's thread was there before.
            self._speaks_at = speaks_at
            self._hub.call_later(delay, self._speak_later)
        self._listen()

    def _speak_later(self) -> None:
        self._speaks_at = math.inf
        if self._turns.speaks:
            self._speak()

    def _on_readable(self, hear: Callable[[], None]) -> None:
        hear()
        self.turn()

    def _listen(self) -> None:
        """Have the loop wait for what the speaker is to hear, and for nothing else."""
        wanted = self._speaker.sockets()
        if wanted != self._heard:
            for fd, (_, hear) in self._heard.items():
                # The link's thread may have closed it, and Celery have another one by this descriptor since.
                if fd not in wanted and self._hub.readers.get(fd) == (self._on_readable, (hear,)):
                    self._hub.remove_reader(fd)
            for fd, heard in wanted.items():
                if self._heard.get(fd) != heard:
                    self._hub.add_reader(fd, self._on_readable, heard[1])
            self._heard = wanted
        self._speaker.take_over()

    def _on_rung(self) -> None:
        assert isinstance(self._turns.bell, Bell)
        self._turns.bell.hear()
        self.turn()


class GreenStarter(Starter):
    """With a green pool (gevent, eventlet): a greenlet of its own, as their ``threading`` makes it.

    ``consumer.call_soon`` would be too late: it runs only when ``drain_events`` returns, up to two seconds later.
    """

    def start(self) -> None:
        """Start the greenlet."""
        threading.Thread(target=self._loop, name="celery-gconc-starter", daemon=True).start()

    def _loop(self) -> None:
        bell = self._turns.bell
        assert isinstance(bell, GreenBell)
        while not bell.is_closed:
            bell.wait()
            if not bell.is_closed:
                self.turn_or_log()


class ConsumerStarter(Starter):
    """Any other pool without an event loop (some brokers, Windows): the consumer's own thread, when it comes round.

    Only that thread may use the broker's connection and, in solo, run tasks. It comes round when a message does, or
    after the time-out of a read: Celery's own is two seconds, and a tick's while something waits.
    """

    def attach(self, connection: Any, source: str) -> None:
        """The broker is connected (again): take a turn before each read."""
        super().attach(connection, source)
        drain_events = connection.drain_events
        is_within = False

        def come_round(timeout: float | None = None, **options: Any) -> Any:
            nonlocal is_within
            if is_within:  # a read inside of another, or of a turn
                return drain_events(timeout=timeout, **options)
            is_within = True
            try:
                self.turn_or_log()
                if timeout is not None and self._something_waits:
                    timeout = min(timeout, TICK_SECONDS)
                return drain_events(timeout=timeout, **options)
            finally:
                is_within = False

        connection.drain_events = come_round  # celery 5.4-5.7: synloop looks it up at each turn

    @property
    def _something_waits(self) -> bool:
        return bool(self._parts.ledger.waiting_count or self._parts.intake.subscriptions.stopped)


def starter_for(turns: Turns, parts: Called, speaker: Speaker, consumer: Any) -> Starter:
    """The starter of a worker of this kind."""
    has_loop = consumer.hub is not None
    if has_loop:
        return HubStarter(turns, parts, speaker, has_loop=True)
    kind = GreenStarter if consumer.pool.is_green else ConsumerStarter
    return kind(turns, parts, has_loop=False)
