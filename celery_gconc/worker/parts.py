"""The parts of one worker, made in order: each is given only what was made before it.

Thread: the consumer's, while its steps are made.

What wakes comes first (bell, turns), then what is only asked (pool, health), what writes down (ledger), what starts and
ends requests (runs, dispatcher, gate), what talks to Redis (link), what watches; the starter, which calls them, last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery_gconc.metrics import opentelemetry as telemetry
from celery_gconc.settings import Settings
from celery_gconc.worker.candidates import Candidates
from celery_gconc.worker.children import Children
from celery_gconc.worker.dispatch import Dispatcher
from celery_gconc.worker.events import Events
from celery_gconc.worker.gate import Gate
from celery_gconc.worker.intake.intake import Intake
from celery_gconc.worker.intake.metering import Metering
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.run import Run
from celery_gconc.worker.runs import Runs
from celery_gconc.worker.session.counts import Counters
from celery_gconc.worker.session.health import Health
from celery_gconc.worker.session.identity import Identity
from celery_gconc.worker.session.link import Link
from celery_gconc.worker.session.speaker import Speaker
from celery_gconc.worker.starter import Called, Starter, starter_for
from celery_gconc.worker.turns import Caller, Turns
from celery_gconc.worker.wake import Bell
from celery_gconc.worker.watch.deadlocks import DeadlockWatch
from celery_gconc.worker.watch.long_waits import LongWaits
from celery_gconc.worker.watch.lost_leases import LeaseGuard
from celery_gconc.worker.watch.stalls import StallWatch


@dataclass(frozen=True, slots=True)
class Parts:
    """Those that the step, and remote control, speak to."""

    pool: Pool
    health: Health
    turns: Turns
    ledger: Ledger[Run]
    intake: Intake
    metering: Metering
    runs: Runs
    dispatcher: Dispatcher
    gate: Gate
    link: Link
    stalls: StallWatch
    leases: LeaseGuard
    starter: Starter


def make_parts(consumer: Any, settings: Settings, config: Mapping[str, int]) -> Parts:
    """Make them for a *consumer* that is being built; *config* are the limits that its app configures.

    Raises:
        SettingError: the pool, or the coordination Redis of the settings, can't be used.
    """
    bell = Bell()
    turns = Turns(consumer)
    pool = Pool(consumer)
    health = Health(settings.safe_url)
    counters = Counters()
    children = Children(bell)
    caller = Caller(turns, pool, bell)
    # One step of Redis' clock moves the lease clock by up to the least interval of all, and nobody tells us.
    ledger: Ledger[Run] = Ledger(config, pool=pool, bell=caller, margin=settings.heartbeat_interval)

    telemetry.install()
    events = Events(consumer, counters, health, task_events=settings.task_events)
    intake = Intake(ledger, pool, consumer_timeout=settings.consumer_timeout)
    metering = Metering(ledger, pool, intake, is_on=settings.wait_at_broker)
    runs = Runs(ledger, pool, children, events, turns)
    start, unlimited = consumer.on_task_request, settings.on_redis_error == "run"
    dispatcher = Dispatcher(
        start, ledger, pool, runs, intake, metering, events, health, turns, runs_without_redis=unlimited
    )
    gate = Gate(ledger, Candidates(consumer), intake, metering, dispatcher, turns)

    link = Link(
        settings,
        ledger,
        bell=bell,
        health=health,
        counters=counters,
        identity=Identity.of(consumer, pool.name, config),
        children=children,
        runs=runs,
        consumer=turns,
        caller=caller,
    )
    speaker = Speaker(link, bell, turns)

    stalls = StallWatch(pool, ledger, dispatcher, turns, caller, health=health, counters=counters)
    leases = LeaseGuard(consumer, pool, ledger, health, interval=settings.heartbeat_interval)
    deadlocks, long_waits = DeadlockWatch(link, ledger), LongWaits(settings.wait_warning)
    called = Called(health, pool, ledger, intake, metering, gate, events, stalls, deadlocks, long_waits)
    starter = starter_for(turns, called, speaker, consumer)
    return Parts(pool, health, turns, ledger, intake, metering, runs, dispatcher, gate, link, stalls, leases, starter)
