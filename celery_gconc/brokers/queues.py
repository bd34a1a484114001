"""Facts of a queue: the name by which limits know it, what it is declared with, whether it bears a cancel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from kombu import Queue
from kombu.common import Broadcast

#: With what the name begins that RabbitMQ gives to a queue without one.
SERVER_NAMED = "amq.gen-"


def must_stay_consumed(consumer: Any, name: str) -> bool:
    """Whether a queue would suffer from a cancel: the broker may delete it, or hand it to another consumer.

    Or forget it: a fanout queue of a virtual transport is a subscription, which misses what is sent meanwhile.
    """
    if name in getattr(consumer.channel, "_fanout_queues", ()):
        return True
    queue = queue_named(consumer, name)
    return queue is not None and suffers_from_cancel(queue)


def suffers_from_cancel(queue: Queue) -> bool:
    """Whether the broker may delete a queue, or hand it to another consumer, while it is not consumed."""
    arguments = queue.queue_arguments or {}
    return bool(
        queue.auto_delete
        or queue.exclusive
        or getattr(queue, "expires", None)
        or "x-expires" in arguments
        or arguments.get("x-single-active-consumer")
    )


def goes_by(queue: Queue) -> str:
    """The name by which limits know a queue: its own, or its alias where each process has a queue of its own.

    (``kombu.common.Broadcast`` makes up another name in each process, and RabbitMQ one for a queue without a name; the
    alias is what its declaration calls it.)
    """
    return name_of(str(queue.name), getattr(queue, "alias", None), isinstance(queue, Broadcast))


def name_of(name: str, alias: str | None, is_broadcast: bool) -> str:
    """The same, of a queue that is known by these facts."""
    is_made_up = is_broadcast or not name or name.startswith(SERVER_NAMED)
    return (alias if is_made_up else None) or name


def has_priorities(consumer: Any, name: str) -> bool:
    """Whether a queue is declared with priorities (``task_queue_max_priority`` is written into its arguments)."""
    queue = queue_named(consumer, name)
    return bool(arguments_of(queue).get("x-max-priority") or getattr(queue, "max_priority", None))


def priority_of(message: Any) -> int:
    """A message's priority; 0 where it has none, or the lowest (Redis: highest), which is what it has by itself."""
    return int((getattr(message, "properties", None) or {}).get("priority") or 0)


def identity_of(connection: Any) -> str:
    """A digest of the broker that a connection leads to: the same for every worker that takes messages from there.

    Workers may reach a RabbitMQ cluster, or a Redis behind Sentinels, by different hosts.
    """
    facts, options = connection.info(), connection.transport_options or {}
    properties = getattr(connection.connection, "server_properties", None) or {}
    where = properties.get("cluster_name") or options.get("master_name") or f"{facts['hostname']}:{facts['port']}"
    part = str(facts["virtual_host"] or "").strip("/")
    kind = connection.transport.driver_type  # not the scheme: amqp and pyamqp, redis and rediss are the same
    if kind == "redis":
        part = part or "0"
    told = [kind, where, part, options.get("global_keyprefix", "")]
    return hashlib.sha256("\n".join(map(str, told)).encode()).hexdigest()[:16]


def arguments_of(queue: Queue | None) -> Mapping[str, Any]:
    """What a queue is declared with."""
    return (queue.queue_arguments if queue is not None else None) or {}


def queue_named(consumer: Any, name: str) -> Queue | None:
    """A subscribed queue."""
    return next((queue for queue in consumer.queues if queue.name == name), None)
