"""The consumer step: builds a worker's gate, intake, ledger and link, and ties them to Celery's life cycle.

Consumer.on_task_request -> Gate;  Link -> Starter -> Gate.pump, on the consumer's thread
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from celery import Celery
from celery.bootsteps import RUN, StartStopStep  # type: ignore[attr-defined]
from celery.exceptions import WorkerShutdown
from celery.signals import task_received
from celery.utils.log import get_logger
from celery.worker import state as worker_state

from celery_gconc.brokers.queues import goes_by, identity_of, queue_named
from celery_gconc.clock import now
from celery_gconc.errors import LimitError, SessionRefused, SettingError
from celery_gconc.limits.claims import Limits, TaskOption, candidates
from celery_gconc.metrics import opentelemetry as telemetry
from celery_gconc.operations.declared import configured_limits, escaping_tasks, full_name
from celery_gconc.operations.misfits import misfits
from celery_gconc.settings import NO_REDIS, SWITCHED_OFF, Settings
from celery_gconc.shell import refuse_start
from celery_gconc.version import __version__
from celery_gconc.worker.autoscale import count_only_startable
from celery_gconc.worker.children import Children
from celery_gconc.worker.embedded import end_wait, watch_start
from celery_gconc.worker.events import Observer
from celery_gconc.worker.gate import Gate
from celery_gconc.worker.intake import Intake
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.run import Run, note_delivery
from celery_gconc.worker.session.counts import Counters
from celery_gconc.worker.session.forks import keep_out_of_children
from celery_gconc.worker.session.health import Health
from celery_gconc.worker.session.identity import Identity
from celery_gconc.worker.session.link import Link
from celery_gconc.worker.starter import TICK_SECONDS, ConsumerStarter, GreenStarter, HubStarter, Starter
from celery_gconc.worker.stats import StatsRows
from celery_gconc.worker.wake import Bell
from celery_gconc.worker.watch.deadlocks import DeadlockWatch
from celery_gconc.worker.watch.lost_leases import Terminator
from celery_gconc.worker.watch.stalls import Lookout

logger = get_logger(__name__)

#: How often, in seconds, it is looked whether something could start though nothing has said so.
PUMP_SECONDS = 1.0

#: Exit code of a worker that may not start (EX_CONFIG of sysexits.h).
EX_CONFIG = 78

#: How long, in seconds, the start waits for the first session, so that a refusal stops it at once
#: (a server that speaks no TLS is silent for two when it is spoken to so).
FIRST_CONTACT = 4.0

#: The same where no limit is configured: one may have been set at run time, and else nothing is to wait.
UNLIMITED_CONTACT = 1.0

T = TypeVar("T")


class GlobalConcurrencyStep(StartStopStep):
    """One for each worker, made when the consumer is built; survives broker reconnects."""

    label = "Global concurrency"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self.app: Celery = consumer.app
        self.consumer = consumer
        settings = self.settings = _or_refuse(lambda: Settings.from_app(self.app))
        config = _or_refuse(lambda: configured_limits(self.app, settings)) if settings.enabled else {}
        self._config = config
        self.enabled = _is_on(settings, config, consumer)
        if self.enabled:
            self._build(settings, config)

    def _build(self, settings: Settings, config: Mapping[str, int]) -> None:
        consumer = self.consumer
        consumer.global_concurrency = self
        self._options: dict[str, TaskOption] = {}
        self._names: dict[tuple[str, str | None], Limits] = {}
        pool = self.pool = _or_refuse(lambda: Pool(consumer))
        if settings.on_lease_lost == "terminate" and not pool.can_terminate:
            refuse_start(
                f"global_concurrency_on_lease_lost='terminate': the {pool.name} pool can't terminate a task; "
                "use 'continue', or the prefork, gevent or eventlet pool"
            )
        _warn_of_strategies(self.app)
        for text in settings.warnings:
            logger.warning("celery-gconc: %s", text)
        for key, meant in settings.misspelt:
            logger.warning("celery-gconc: this app reads no setting %s: is %s meant?", key, meant)

        link_bell = Bell()
        self.health = Health(settings.safe_url)
        counters = Counters()
        self.children = Children(link_bell)
        self.lookout = Lookout(
            pool,
            self._knock,
            self._on_loop_late,
            self._on_loop_back,
            free_slots=lambda: 0 if self.gate.is_closed else pool.size - self.ledger.running_count,
            unused_slots=lambda: self.ledger.unused_slots() if self.health.connected else 0,
            counters=counters,
        )

        # One step of Redis' clock moves the lease clock by up to the least interval of all, and nobody tells us.
        self.ledger: Ledger[Run] = Ledger(config, pool=pool, bell=link_bell, margin=settings.heartbeat_interval)
        self.intake = Intake(
            table=lambda: self.ledger.table,
            slots=lambda: pool.size,
            free_slots=lambda: self.ledger.free_slots,
            consumer_timeout=settings.consumer_timeout,
            leaves=self.ledger.leave_queues,
        )
        self.starter: Starter = self._make_starter(consumer)
        self.observer = Observer(
            counters,
            self.health,
            send_event=self._send_event if settings.task_events else _nothing,
            wait_warning=settings.wait_warning,
        )
        telemetry.install()
        self.gate = Gate(
            ledger=self.ledger,
            pool=pool,
            start=consumer.on_task_request,
            names_of=self._names_of,
            watcher=self.intake,
            audience=self.observer,
            watch_child=self.children.watch,
            wake=self.starter.wake,
            runs_unlimited=self._runs_unlimited,
            later=self.starter.later,
            keep_turning=self.starter.keep_turning,
        )
        identity = Identity.of(consumer, pool.name, config)
        self.link: Link = _or_refuse(
            lambda: Link(
                settings,
                self.ledger,
                bell=link_bell,
                health=self.health,
                counters=counters,
                identity=identity,
                children=self.children,
                runs=self.gate,
                consumer=self.starter,
            )
        )
        self._rows = StatsRows(self.link.call)
        self.deadlocks = DeadlockWatch(self.link.call)
        self.terminator = Terminator(
            self.gate, self.health, interval=settings.heartbeat_interval, call_soon=consumer.call_soon
        )
        #: Why this worker must not run, once it was stopped for that. The consumer's thread.
        self._refusal: str | None = None
        watch_start(consumer.controller, lambda: self._refusal)
        #: Which broker messages are taken from: a digest.
        self._source = ""
        self._next_pump = 0.0
        # celery 4.0-5.7: strategies read on_task_request when they are built (Tasks.start), so it is wrapped here,
        # before the first start; plain, rate-limited and ETA requests all pass through it.
        consumer.on_task_request = self.gate.admit

    # -- Celery's life cycle -----------------------------------------------------------------------------

    def start(self, consumer: Any) -> None:
        """The broker is connected (again)."""
        self.children.watch_pipes({})
        driver_type = consumer.connection.transport.driver_type
        self.intake.attach(consumer.task_consumer, consumer.qos, driver_type)
        if isinstance(self.starter, ConsumerStarter):
            self.starter.attach(consumer.connection)
        self._source = identity_of(consumer.connection)
        self.ledger.take_queues(self._source, self.intake.taken)
        if driver_type == "amqp":
            task_received.connect(self._on_received, sender=consumer)
        count_only_startable(consumer, self.pool, self.gate)
        if not self.link.is_started:
            keep_out_of_children(self.link)
            self.starter.start()
            self.link.start()
            if self.settings.on_lease_lost == "terminate":
                self.terminator.start()
            self._check_broker()
            self.health.tried.wait(FIRST_CONTACT if self.ledger.table else UNLIMITED_CONTACT)
            self._rows.refresh()
            for text in misfits(self.app, self._configured, self.ledger.table):
                logger.warning("celery-gconc: %s", text)
            self.lookout.start(has_loop=consumer.hub is not None)
        if self._is_refused():
            end_wait(consumer.controller)
            raise WorkerShutdown(EX_CONFIG)
        if consumer.hub is None:
            self.starter.wake()

    def _check_broker(self) -> None:
        """See that we have the rights that we need where the broker is a Redis, which may be another one."""
        conf: Any = self.app.conf
        setting = "broker_url" if conf.broker_read_url == conf.broker_url else "broker_read_url"
        unseen: tuple[str, ...] = ()
        why = ""
        try:
            unseen = self.intake.check_rights(setting)
        except SessionRefused as exc:
            why = str(exc)
        if why and self._config:
            logger.critical("celery-gconc: this worker must not run: %s", why)
            self._refuse(why)
        elif why:
            logger.error("celery-gconc: %s; limits that are set at run time can't be kept", why)
        for text in unseen:
            logger.warning("celery-gconc: the broker: %s", text)

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """The event loop starts (again): it reads our news, and looks after parked requests."""
        if isinstance(self.starter, HubStarter):
            self.lookout.came_round()
            self.starter.register(hub)

    def stop(self, consumer: Any) -> None:
        """The broker's connection ends: it was lost, or the worker shuts down."""
        self.intake.detach()
        self.ledger.take_queues(self._source, ())
        if consumer.blueprint.state == RUN:
            self.gate.connection_lost()
            # Celery 5.4-5.7 now tries to connect until it succeeds, and reads no results of a prefork pool meanwhile.
            self.children.watch_pipes(self.gate.busy_pipes())
        else:
            self.gate.close()

    def shutdown(self, consumer: Any) -> None:
        """The last that Celery calls, warm or cold, after the pool has drained or was killed."""
        self.gate.close()
        self.intake.forget()
        self.gate.pool_stopped()
        self.intake.close()
        self.terminator.close()
        self.lookout.close()
        self.link.stop()
        self.starter.close()
        if self._refusal is not None:
            worker_state.should_stop = None  # the next worker in this process has nothing to do with it

    def info(self, consumer: Any) -> dict[str, Any]:  # type: ignore[override]
        """What ``inspect stats`` shows. From memory: never a call to Redis."""
        counts = self.gate.counts
        return {
            **self._rows.rows(),
            "global_concurrency": {
                "time": time.time(),
                "version": __version__,
                "session": self.link.session.id,
                "connected": self.health.connected,
                "redis_error": self.health.trouble,
                "redis_error_is_permanent": self.health.is_unusable,
                "running": counts.running,
                "parked": counts.parked,
                "stopped_queues": self.intake.stopped,
                "lost_queues": self.intake.lost_queues,
                "runs_without_permit": self.gate.unlimited_runs,
                "heartbeat_interval": self.settings.heartbeat_interval,
                "heartbeat_timeout": self.settings.heartbeat_timeout,
                "lease_losses": self.health.lease_losses,
                "terminated": self.terminator.terminated,
            },
        }

    # -- What the parts call -----------------------------------------------------------------------------

    def _make_starter(self, consumer: Any) -> Starter:
        if consumer.hub is not None:
            return HubStarter(self._pump, self._tick)
        if consumer.pool.is_green:
            return GreenStarter(self._pump, self._tick)
        return ConsumerStarter(
            self._pump, self._tick, consumer, lambda: bool(self.ledger.waiting_count or self.intake.stopped)
        )

    def _pump(self) -> None:
        self._is_refused()
        self.lookout.came_round()
        self.pool.shrink_on()
        if self.ledger.holds_slot and self.ledger.free_slots <= 0 and self.pool.autoscaler is not None:
            # With an event loop Celery scales up when a message comes; here permits may come without one.
            self.pool.autoscaler.maybe_scale()
        self.gate.pump()
        self.observer.look(self.ledger.table)

    def _tick(self) -> None:
        if self.lookout.came_round():
            self.gate.pump()
        self.pool.shrink_on()
        if self.consumer.hub is None and self.gate.is_shutting_down:
            self.gate.close(by_consumer=False)  # its own loop comes round after some seconds only
            return
        self.deadlocks.look(self.gate.sweep(TICK_SECONDS), self.ledger.covering)
        if now() >= self._next_pump:
            self._next_pump = now() + PUMP_SECONDS
            self.gate.pump()  # whatever wake-up was lost, nothing waits for longer than this
            self.ledger.take_queues(self._source, self.intake.taken)
            self.observer.look_for_long_waits(self.ledger.queued())
        self.intake.take_up_overdue()
        self.intake.look_past()
        self.ledger.tell_room()

    def _knock(self) -> None:
        self.starter.knock()

    def _runs_unlimited(self) -> bool:
        return self.settings.on_redis_error == "run" and self.health.is_away

    def _on_received(self, request: Any, **kwargs: Any) -> None:
        note_delivery(request)

    def _send_event(self, kind: str, **facts: Any) -> None:
        dispatcher = self.consumer.event_dispatcher
        if dispatcher is not None and dispatcher.enabled:
            dispatcher.send(kind, **facts)

    def _on_loop_late(self) -> None:
        self.ledger.slots_changed()
        self.children.watch_pipes(self.gate.busy_pipes())

    def _on_loop_back(self) -> None:
        self.children.watch_pipes({})

    def _is_refused(self) -> bool:
        """Whether the link, or this step, has found that this worker must not run; then Celery stops it."""
        if self._refusal is None and self.health.refusal is not None:
            self._refuse(self.health.refusal)
        return self._refusal is not None

    def _refuse(self, why: str) -> None:
        self._refusal = why
        worker_state.should_stop = EX_CONFIG  # type: ignore[assignment]

    # -- Names and limits --------------------------------------------------------------------------------

    @property
    def _configured(self) -> set[str]:
        """The limits that the settings name."""
        return {self.full_name(limit) for limit in self.settings.limits}

    def full_name(self, limit: str) -> str:
        """The limit's name with a queue's alias resolved."""
        return full_name(self.app, limit)

    def _names_of(self, request: Any) -> tuple[Limits, str | None]:
        queue = self.intake.queue_of(request)
        task = request.task
        key = (task.name, queue)
        names = self._names.get(key)
        if names is None:
            option = TaskOption.parse(task.name, getattr(task, "global_concurrency", None))
            consumed = queue_named(self.consumer.task_consumer, queue) if queue is not None else None
            names = self._names[key] = candidates(task.name, goes_by(consumed) if consumed else queue, option)
        return names, queue


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Task events of ours are off."""


def _warn_of_strategies(app: Celery) -> None:
    """Tasks with a strategy of their own (celery-batches) call the pool themselves: they pass no gate."""
    escaping = escaping_tasks(app)
    if escaping:
        logger.warning(
            "celery-gconc: no limit holds for %s: a Strategy of its own hands it to the pool by itself "
            "(celery-batches does)",
            ", ".join(escaping),
        )


def _is_on(settings: Settings, config: Mapping[str, int], consumer: Any) -> bool:
    """Whether this worker has anything to do with limits, until it is restarted; it says once that it hasn't."""
    if not settings.enabled:
        consumer.global_concurrency_off = SWITCHED_OFF
        return False
    if settings.place is None and not config:
        consumer.global_concurrency_off = f"celery-gconc is off in this worker: it has no limit, and {NO_REDIS}"
        logger.info(
            "celery-gconc: off until this worker is restarted: no limit is configured, and there is no Redis that "
            "could tell of any (global_concurrency_redis_url)"
        )
        return False
    if settings.place is None:
        refuse_start(
            f"a limit is configured ({next(iter(config))}), and there is no Redis to keep it: {NO_REDIS}; "
            "or global_concurrency_enabled to False, where no limit need hold (as in tests)"
        )
    return True


def _or_refuse(function: Callable[[], T]) -> T:
    try:
        return function()
    except (SettingError, LimitError) as exc:
        refuse_start(exc)
