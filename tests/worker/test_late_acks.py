"""An answer to a message whose channel was closed while its server was down."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import kombu
import pytest
from kombu.utils.uuid import uuid

from celery_gconc.worker.late_acks import survive_closed_channel


@pytest.fixture
def receive(redis_url: str) -> Callable[[kombu.Connection], Any]:
    """Receives a message."""

    def receive(connection: kombu.Connection) -> Any:
        channel, found, name = connection.channel(), [], uuid()  # what was lost may be read by its channel's last BRPOP
        queue = kombu.Queue(name)(channel)
        kombu.Producer(channel).publish({}, routing_key=name, declare=[queue])
        kombu.Consumer(channel, [queue], callbacks=[lambda _, message: found.append(message)]).consume()
        connection.drain_events(timeout=5)
        return found[0]

    return receive


def lose(channel: Any) -> None:
    """What is left of a channel that was closed while its server was down."""
    pool, channel._pool, channel.connection = channel._pool, None, None
    pool.disconnect()
    channel.qos._on_collect.cancel()  # else it wants to give back what is left when this process exits


def test_it_is_an_error_that_celery_expects(redis_url, receive, caplog):
    with kombu.Connection(redis_url) as connection:
        message, other = receive(connection), receive(connection)
        survive_closed_channel(message)
        for each in (message, other):
            lose(each.channel)
        with pytest.raises(AttributeError):  # what becomes of it otherwise
            other.ack_log_error(logging.getLogger("late"), connection.connection_errors)
        message.ack_log_error(logging.getLogger("late"), connection.connection_errors)
        message.reject_log_error(logging.getLogger("late"), connection.connection_errors)
    assert "Couldn't ack" in caplog.text
    assert "Couldn't reject" in caplog.text


def test_while_its_channel_is_open_it_is_as_ever(redis_url, receive):
    with kombu.Connection(redis_url) as connection:
        message = receive(connection)
        survive_closed_channel(message)
        message.ack_log_error(logging.getLogger("late"), connection.connection_errors)
        assert message.acknowledged
        assert not message.channel.client.hlen("unacked")
