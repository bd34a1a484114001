"""In which order a worker reads its queues is kombu's to say, however often one of them is stopped and resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from kombu import Connection, Consumer, Queue

from celery_gconc.brokers.registry import broker_of

#: How many messages each queue has, and how many are read of all.
MESSAGES, READ = 40, 24


@pytest.fixture(params=["redis", "memory"])
def url(request: pytest.FixtureRequest, redis_url: str) -> str:
    """The URL of a broker whose queues are read in turn."""
    return redis_url if request.param == "redis" else "memory://"


@pytest.fixture
def connection(url: str, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A connection to it."""
    with Connection(url, transport_options={"priority_steps": [0], **getattr(request, "param", {})}) as connection:
        yield connection


def read(connection: Connection, names: str, *, toggled: str = "") -> dict[str, int]:
    """How many of the messages read come from each queue, one of which may be stopped and resumed at each of them."""
    queues = [Queue(f"turns-{name}") for name in names]
    for queue in queues:
        queue(connection.default_channel).declare()
        queue(connection.default_channel).purge()
        for number in range(MESSAGES):
            connection.Producer().publish(number, exchange="", routing_key=queue.name)
    got = []

    def on_message(message: object) -> None:
        got.append(broker.queue_of(message))
        message.ack()  # type: ignore[attr-defined]

    consumer = Consumer(connection.channel(), queues, accept=["json"], on_message=on_message)
    broker = broker_of(consumer, connection.transport.driver_type)
    consumer.consume()
    by_name = {queue.name[-1]: queue for queue in consumer.queues}
    while len(got) < READ:
        for name in toggled:
            tag = consumer._active_tags[by_name[name].name]
            broker.cancel(by_name[name].name, tag)
            broker.consume(by_name[name], tag)
        connection.drain_events(timeout=5)
    counts = Counter(got)
    return {name: counts[queue.name] for name, queue in by_name.items()}


@pytest.mark.parametrize("names", ["abm", "mab", "amb"])
@pytest.mark.parametrize("toggled", ["m", "mb"])
def test_queues_take_turns_though_one_is_stopped_and_resumed_at_each_message(
    connection: Connection, names: str, toggled: str
) -> None:
    assert read(connection, names, toggled=toggled) == dict.fromkeys(names, READ // len(names))


@pytest.mark.parametrize("url", ["redis"], indirect=True)
@pytest.mark.parametrize("connection", [{"queue_order_strategy": "priority"}], indirect=True)
def test_a_queue_that_comes_first_still_does_when_it_was_stopped_and_resumed(connection: Connection) -> None:
    assert read(connection, "mab", toggled="m") == {"m": READ, "a": 0, "b": 0}


def test_a_queue_that_is_stopped_is_not_read(connection: Connection) -> None:
    queues = [Queue(f"turns-{name}") for name in "ab"]
    consumer = Consumer(connection.channel(), queues, accept=["json"], on_message=lambda message: message.ack())
    broker = broker_of(consumer, connection.transport.driver_type)
    consumer.consume()
    for queue in queues:
        queue(connection.default_channel).purge()
        broker.cancel(queue.name, consumer._active_tags[queue.name])
        connection.Producer().publish(1, exchange="", routing_key=queue.name)
    broker.end_read()
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.2)
    broker.consume(consumer.queues[1], consumer._active_tags["turns-b"])
    connection.drain_events(timeout=5)
    assert [connection.default_channel._size(queue.name) for queue in queues] == [1, 0]
