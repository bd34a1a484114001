"""Fixtures: those of the cluster tests."""

from __future__ import annotations

import pytest
from kombu import Connection

from tests.cluster.conftest import make_cluster, oracle_url, rabbitmq_url
from tests.cluster.queues import SPECIAL

pytest.register_assert_rewrite("tests.brokers.exercise")

__all__ = ["make_cluster", "oracle_url", "rabbitmq_url"]


@pytest.fixture
def rabbitmq_with_special_queues(rabbitmq_url: str) -> str:
    """The URL of a RabbitMQ without the special queues of earlier tests."""
    with Connection(rabbitmq_url) as connection, connection.channel() as channel:
        for queue in SPECIAL.values():
            if queue.name:
                channel.queue_delete(queue.name)
    return rabbitmq_url
