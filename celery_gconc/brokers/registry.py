"""Which of these brokers is the one under a consumer."""

from __future__ import annotations

from typing import Any

from kombu.transport.virtual import Channel as VirtualChannel

from celery_gconc.brokers.amqp import AMQPBroker
from celery_gconc.brokers.base import Broker
from celery_gconc.brokers.redis import RedisBroker
from celery_gconc.brokers.virtual import VirtualBroker


def broker_of(consumer: Any, driver_type: str) -> Broker:
    """The broker under a kombu consumer, by the type of its connection's transport."""
    if driver_type == "amqp":
        return AMQPBroker(consumer)
    if isinstance(consumer.channel, VirtualChannel):
        if driver_type == "redis":
            return RedisBroker(consumer)
        broker = VirtualBroker(consumer)
        # kombu 5.4-5.7: these don't read their queues in turns, but each by a loop of its own.
        broker.may_cancel = driver_type not in {"sqs", "gcpubsub"}
        return broker
    return Broker(consumer)
