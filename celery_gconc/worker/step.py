"""The consumer step: has a worker's parts made, and ties them to Celery's life cycle.

    Consumer (start, stop, shutdown, stats) -> GlobalConcurrencyStep -> the parts

Thread: consumer.
"""

from __future__ import annotations

import time
from typing import Any

from celery import Celery
from celery.bootsteps import RUN, StartStopStep  # type: ignore[attr-defined]
from celery.exceptions import WorkerShutdown
from celery.signals import task_received
from celery.utils.log import get_logger

from celery_gconc.brokers.queues import identity_of
from celery_gconc.operations.declared import configured_limits, full_name
from celery_gconc.operations.misfits import misfits
from celery_gconc.settings import Settings
from celery_gconc.shell import refuse_start
from celery_gconc.version import __version__
from celery_gconc.worker.autoscale import count_only_startable
from celery_gconc.worker.parts import Parts, make_parts
from celery_gconc.worker.refusal import EX_CONFIG, end_wait, forget_refusal, heed_refusal, watch_start
from celery_gconc.worker.run import note_delivery
from celery_gconc.worker.session.forks import keep_out_of_children
from celery_gconc.worker.startup import check_broker, is_on, or_refuse, say_what_is_amiss
from celery_gconc.worker.stats import StatsRows

logger = get_logger(__name__)

#: How long, in seconds, the start waits for the first session, so that a refusal stops it at once
#: (a server that speaks no TLS is silent for two when it is spoken to so).
FIRST_CONTACT = 4.0

#: The same where no limit is configured: one may have been set at run time, and else nothing is to wait.
UNLIMITED_CONTACT = 1.0


class GlobalConcurrencyStep(StartStopStep):
    """One for each worker, made when the consumer is built; survives broker reconnects."""

    label = "Global concurrency"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self.app: Celery = consumer.app
        settings = self.settings = or_refuse(lambda: Settings.from_app(self.app))
        self._config = or_refuse(lambda: configured_limits(self.app, settings)) if settings.enabled else {}
        self.enabled = is_on(settings, self._config, consumer)
        if self.enabled:
            self._build(consumer)

    def _build(self, consumer: Any) -> None:
        settings = self.settings
        self.parts: Parts = or_refuse(lambda: make_parts(consumer, settings, self._config))
        parts = self.parts
        if settings.on_lease_lost == "terminate" and not parts.pool.can_terminate:
            refuse_start(
                f"global_concurrency_on_lease_lost='terminate': the {parts.pool.name} pool can't terminate a task; "
                "use 'continue', or the prefork, gevent or eventlet pool"
            )
        say_what_is_amiss(self.app, settings)
        self._rows = StatsRows(parts.link)
        watch_start(consumer.controller, parts.health)
        consumer.global_concurrency = self
        # celery 4.0-5.7: strategies read on_task_request when they are built (Tasks.start), so it is wrapped here,
        # before the first start; plain, rate-limited and ETA requests all pass through it.
        consumer.on_task_request = parts.gate.admit

    # -- Celery's life cycle -----------------------------------------------------------------------------

    def start(self, consumer: Any) -> None:
        """The broker is connected (again)."""
        parts = self.parts
        parts.runs.watch_no_pipes()
        driver_type = consumer.connection.transport.driver_type
        parts.intake.attach(
            consumer.task_consumer,
            consumer.qos,
            driver_type,
            has_fixed_prefetch=driver_type == "amqp" and not _is_prefetch_of_channel(consumer),
        )
        parts.metering.attach()
        parts.starter.attach(consumer.connection, identity_of(consumer.connection))
        if driver_type == "amqp":
            task_received.connect(note_delivery, sender=consumer)
        count_only_startable(consumer, parts.pool, parts.gate)
        if not parts.link.is_started:
            self._start_threads(consumer)
        if heed_refusal(parts.health):
            end_wait(consumer.controller)
            raise WorkerShutdown(EX_CONFIG)
        if consumer.hub is None:
            parts.turns.wake()

    def _start_threads(self, consumer: Any) -> None:
        parts = self.parts
        keep_out_of_children(parts.link)
        parts.starter.start()
        parts.link.start()
        if self.settings.on_lease_lost == "terminate":
            parts.leases.start()
        check_broker(self.app, parts.intake, parts.health, has_limits=bool(self._config))
        parts.health.tried.wait(FIRST_CONTACT if parts.ledger.table else UNLIMITED_CONTACT)
        configured = {self.full_name(limit) for limit in self.settings.limits}
        for text in misfits(self.app, configured, parts.ledger.table):
            logger.warning("celery-gconc: %s", text)
        parts.stalls.start(has_loop=consumer.hub is not None)

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """The event loop starts (again): it hears our bell, and looks after parked requests."""
        self.parts.starter.register(hub)

    def stop(self, consumer: Any) -> None:
        """The broker's connection ends: it was lost, or the worker shuts down."""
        parts = self.parts
        parts.metering.clear()
        parts.intake.detach()
        parts.starter.detach()
        if consumer.blueprint.state == RUN:
            parts.gate.connection_lost()
            # Celery 5.4-5.7 now tries to connect until it succeeds, and reads no results of a prefork pool meanwhile.
            parts.runs.watch_pipes()
        else:
            parts.gate.close()

    def shutdown(self, consumer: Any) -> None:
        """The last that Celery calls, warm or cold, after the pool has drained or was killed."""
        parts = self.parts
        parts.gate.close()
        parts.intake.subscriptions.forget()
        parts.runs.pool_stopped()
        parts.intake.close()
        parts.leases.close()
        parts.stalls.close()
        parts.link.stop()
        parts.starter.close()
        forget_refusal(parts.health)

    def info(self, consumer: Any) -> dict[str, Any]:  # type: ignore[override]
        """What ``inspect stats`` shows."""
        parts, settings = self.parts, self.settings
        counts = parts.gate.counts
        return {
            **self._rows.rows(),
            "global_concurrency": {
                "time": time.time(),
                "version": __version__,
                "session": parts.link.session.id,
                "connected": parts.health.connected,
                "redis_error": parts.health.trouble,
                "redis_error_is_permanent": parts.health.is_unusable,
                "running": counts.running,
                "parked": counts.parked,
                "stopped_queues": parts.intake.subscriptions.stopped,
                "lost_queues": parts.intake.subscriptions.lost,
                "runs_without_permit": parts.dispatcher.unlimited_runs,
                "heartbeat_interval": settings.heartbeat_interval,
                "heartbeat_timeout": settings.heartbeat_timeout,
                "lease_losses": parts.health.lease_losses,
                "terminated": parts.leases.terminated,
            },
        }

    # -- For remote control ------------------------------------------------------------------------------

    def full_name(self, limit: str) -> str:
        """The limit's name with a queue's alias resolved."""
        return full_name(self.app, limit)


def _is_prefetch_of_channel(consumer: Any) -> bool:
    """Whether the consumers share one prefetch count (celery 5.5-5.7 says so, 5.4 sets it by the same fact)."""
    return bool(getattr(consumer, "qos_global", not consumer.connection.qos_semantics_matches_spec))
