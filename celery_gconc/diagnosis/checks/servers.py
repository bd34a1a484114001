"""Redis and the broker: rights, policies, time-outs, and how queues are declared."""

from __future__ import annotations

from collections.abc import Iterator

from celery_gconc.brokers.amqp import DELIVERY_LIMIT, SPARE_DELIVERIES
from celery_gconc.brokers.queues import goes_by, suffers_from_cancel
from celery_gconc.diagnosis.finding import ERROR, INFO, WARNING, Finding
from celery_gconc.diagnosis.look import Look
from celery_gconc.operations.declared import told_queues
from celery_gconc.operations.wording import all_of, span

#: kombu's own visibility_timeout of a Redis broker, in seconds (kombu 5.4-5.7).
VISIBILITY_TIMEOUT = 3600.0


def rights(look: Look) -> Iterator[Finding]:
    """The user that this app names may do all that workers need."""
    if look.lacking:
        yield Finding(ERROR, "workers can't use the coordination Redis that this app names", look.lacking)
    for text in look.unseen:
        yield Finding(INFO, text, "grant it to this app's user if you can; workers continue without it")


def server_policy(look: Look) -> Iterator[Finding]:
    """The server keeps what it is given."""
    policy = look.server.get("maxmemory_policy", "")
    if policy.startswith("allkeys"):
        yield Finding(
            ERROR,
            f"Redis may evict celery-gconc's keys: its maxmemory-policy is {policy}",
            "set it to noeviction or a volatile- policy, or use another server (global_concurrency_redis_url)",
        )
    if int(look.server.get("connected_slaves") or 0) and "min_slaves_good_slaves" not in look.server:
        yield Finding(
            INFO,
            "Redis has replicas, and accepts writes while it can't reach them",
            "set min-replicas-to-write 1, so that a split brain can't grant twice",
        )


def settings_read(look: Look) -> Iterator[Finding]:
    """All settings that are likely meant to be ours are read."""
    for key, meant in look.settings.misspelt:
        yield Finding(WARNING, f"this app ignores the setting {key}", f"rename it to {meant} if that is what you meant")


def timeouts(look: Look) -> Iterator[Finding]:
    """Lease, visibility timeout and consumer timeout go together."""
    for text in look.settings.warnings:
        yield Finding(WARNING, text, "see 'Tune heartbeats' in the documentation")
    lease = look.settings.heartbeat_timeout
    if look.driver == "redis":
        yield from _visibility(look, lease)
    if look.is_rabbitmq and look.settings.consumer_timeout / 2 < lease:
        yield Finding(
            WARNING,
            f"global_concurrency_consumer_timeout ({look.settings.consumer_timeout:g} s) is less than twice the lease "
            f"({lease:g} s): parked messages go back to their queues before a dead worker's permits are free",
            "raise RabbitMQ's consumer_timeout, and this setting with it",
        )


def _visibility(look: Look, lease: float) -> Iterator[Finding]:
    options = look.app.conf.broker_transport_options or {}
    visibility = float(options.get("visibility_timeout") or VISIBILITY_TIMEOUT)
    if visibility < lease:
        yield Finding(
            WARNING,
            f"visibility_timeout ({visibility:g} s) is shorter than the lease ({lease:g} s): a stalled worker's "
            "messages are redelivered while its permits still count",
            f"set visibility_timeout in broker_transport_options above {lease:g} s, and above the longest task",
        )
    for limit, longest in look.longest_runs.items():
        if longest > visibility:
            yield Finding(
                WARNING,
                f"a task under {limit} ran for {span(longest)}, longer than visibility_timeout ({visibility:g} s): "
                "with acks_late it is redelivered while it runs",
                "raise visibility_timeout in broker_transport_options above the longest task",
            )


def declarations(look: Look) -> Iterator[Finding]:
    """Queues with a limit are declared so that waiting there hurts nobody."""
    if not look.is_rabbitmq:
        return
    limited = {limit.limit for limit in look.limits_in_use}
    for queue in look.app.amqp.queues.values():
        delivery_limit = (queue.queue_arguments or {}).get("x-delivery-limit")
        if delivery_limit is not None and 0 <= int(delivery_limit) <= SPARE_DELIVERIES:
            yield Finding(
                WARNING,
                f"queue {queue.name} has an x-delivery-limit of {delivery_limit}: a message that goes back while it "
                "waits, as when a worker stops, is replaced by a copy at the end of the queue",
                f"raise it above {SPARE_DELIVERIES}, or better to {DELIVERY_LIMIT}, RabbitMQ's default",
            )
        name = f"queue:{goes_by(queue)}"
        if name in limited and suffers_from_cancel(queue) and (others := _read_beside(look, queue.name)):
            yield Finding(
                INFO,
                f"workers never stop consuming {name}, because its queue is exclusive, auto-delete, expires or has a "
                f"single active consumer: its waiting messages may use up the prefetch count of workers that also read "
                f"{all_of(others)}",
                "give that queue its own workers",
            )


def _read_beside(look: Look, queue: str) -> list[str]:
    """The other queues of workers that consume a queue."""
    consumed = [{name for name, _ in told_queues([queues])} for queues in look.queues.values()]
    return sorted({name for names in consumed if queue in names for name in names - {queue}})


CHECKS = (rights, server_policy, settings_read, timeouts, declarations)
