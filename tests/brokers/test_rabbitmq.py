"""RabbitMQ as the broker: the suite over classic and quorum queues, and what only its channels and queues have."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from traceback import walk_stack
from types import FrameType, SimpleNamespace

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from kombu.message import Message

from celery_gconc.brokers.amqp import AMQPBroker
from celery_gconc.brokers.queues import identity_of
from celery_gconc.worker.intake.returns import Returns
from celery_gconc.worker.intake.subscriptions import Subscriptions
from celery_gconc.worker.run import Run
from tests.brokers.exercise import (
    HELD,
    Broker,
    Exercise,
    LongWait,
    a_full_limit_blocks_no_others,
    beside,
    said,
    starts_of_a_hung_workers_surplus,
    subscribed,
    wait_for_long,
)
from tests.cluster.queues import SPECIAL
from tests.cluster.versions import needs_quorum_queues
from tests.kit.namespace import begin_namespace
from tests.kit.proxy import proxy
from tests.kit.servers import RabbitMQServer, free_port, rabbitmq_server, redis_server, wait_until
from tests.kit.tiers import starts
from tests.kit.workers import cluster

#: What a worker's log says when the broker has closed its channel or its connection.
CHANNEL_CLOSED = ("PRECONDITION_FAILED", "Unrecoverable", "Connection to broker lost", "Traceback")

#: The broker's ``consumer_timeout``, in seconds.
CONSUMER_TIMEOUT = 4.0

#: How many tasks are parked of each queue: more than a queue is stopped at.
PARKED = 9

#: The prefetch count of a worker of four slots.
PREFETCH = 4 * 4


def wait_in_all_queues(folder: Path) -> LongWait:
    """What was seen of tasks of four kinds of queues that were parked for thrice the broker's time-out."""
    queues = ("emails", "quorum", "strict", "single")
    settings = {
        "global_concurrency_limits": dict.fromkeys(queues, 1),
        "global_concurrency_consumer_timeout": CONSUMER_TIMEOUT,
    }
    with (
        rabbitmq_server(consumer_timeout=int(CONSUMER_TIMEOUT * 1000)) as server,
        redis_server() as permits,
        redis_server() as oracle,
        cluster(server.url, permits.url, oracle.url, folder, **settings) as made,
        Connection(server.url) as connection,
        connection.channel() as channel,
    ):
        begin_namespace(permits.url)
        made.special = queues[1:]
        consumers = {"of single": lambda: channel.queue_declare("single", passive=True).consumer_count}
        return wait_for_long(made, CONSUMER_TIMEOUT, queues, PARKED, consumers, "w1")


@pytest.fixture(scope="module", autouse=True)
@starts("process")
def long_waits(
    request: pytest.FixtureRequest, rabbitmq_process: RabbitMQServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[LongWait]]]:
    """The long wait, in the background."""
    with beside(request, {"all": partial(wait_in_all_queues, tmp_path_factory.mktemp("impatient"))}) as waits:
        yield waits


@pytest.fixture
def impatient(long_waits: dict[str, Future[LongWait]]) -> LongWait:
    """What was seen of tasks that were parked for long."""
    return long_waits["all"].result(300)


class TestClassicQueues(Exercise):
    """The suite over queues as they are by default."""

    @pytest.fixture
    def broker(self, rabbitmq_url: str) -> Broker:
        return Broker(
            rabbitmq_url,
            on_their_way=PREFETCH,
            parks=100,
            priorities=(9, 5, 1),
            with_priorities={"task_queue_max_priority": 10},
        )

    @needs_quorum_queues
    def test_tasks_parked_for_thrice_the_brokers_time_out_run_once(self, impatient):
        super().test_tasks_parked_for_thrice_the_brokers_time_out_run_once(impatient)


@needs_quorum_queues
class TestQuorumQueues(Exercise):
    """The suite over quorum queues, which make the prefetch static and count deliveries."""

    @pytest.fixture
    def broker(self, rabbitmq_with_special_queues: str) -> Broker:
        return Broker(rabbitmq_with_special_queues, "quorum", on_their_way=PREFETCH, parks=100)

    @pytest.fixture
    def long_wait(self, impatient: LongWait) -> LongWait:
        return impatient


def test_a_full_limit_blocks_no_others_where_kombu_takes_the_broker_for_rabbitmq_4(make_cluster, rabbitmq_url):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={HELD: 2})
    cluster.module = "tests.brokers.rabbitmq4"
    a_full_limit_blocks_no_others(cluster, Broker(rabbitmq_url, on_their_way=PREFETCH, parks=100))


# -- Parked for longer than the broker's time-out ------------------------------------------------------------


@needs_quorum_queues
def test_the_brokers_time_out_never_closes_the_channel_of_a_worker_with_parked_tasks(impatient):
    assert [sign for sign in CHANNEL_CLOSED if sign in impatient.log] == []


@needs_quorum_queues
def test_a_parked_message_is_handed_back_once_in_each_half_of_the_brokers_time_out(impatient):
    handed_back = [impatient.delivery_counts[number] for number in impatient.parked["quorum"]]
    assert max(handed_back) <= 3 * CONSUMER_TIMEOUT / (CONSUMER_TIMEOUT / 2) + 2


@needs_quorum_queues
def test_waiting_never_uses_up_the_delivery_limit_of_a_quorum_queue(impatient):
    strict = [impatient.delivery_counts.get(number) for number in impatient.parked["strict"]]
    assert None not in strict, "the broker dropped it"
    assert max(strict) <= 4


@needs_quorum_queues
def test_a_queue_with_a_single_active_consumer_is_never_cancelled(impatient):
    assert impatient.seen == {"of single": {1}}


# -- Connections and pools ----------------------------------------------------------------------------------


def test_a_broker_has_one_identity_by_whatever_url_it_is_reached(rabbitmq_process, redis_process):
    def identity(url: str, **options: object) -> str:
        with Connection(url, transport_options=options) as connection:
            connection.ensure_connection(max_retries=1)
            return identity_of(connection)

    rabbitmq = f"guest:guest@127.0.0.1:{rabbitmq_process.port}//"
    redis = redis_process.url.removesuffix("/0").partition("://")[2]
    assert identity(f"amqp://{rabbitmq}") == identity(f"pyamqp://{rabbitmq}".rstrip("/") + "/%2F")
    assert identity(f"redis://{redis}") == identity(f"redis://{redis}/0")
    others = [identity(f"redis://{redis}/1"), identity(f"redis://{redis}", global_keyprefix="prod:")]
    assert len({identity(f"amqp://{rabbitmq}"), identity(f"redis://{redis}"), *others}) == 4


def test_an_operator_who_cancels_a_stopped_queue_is_obeyed_through_a_reconnect(
    make_cluster, rabbitmq_process, rabbitmq_url
):
    with proxy(rabbitmq_process.port) as link:
        cluster = make_cluster(
            rabbitmq_url.replace(str(rabbitmq_process.port), str(link.port)), global_concurrency_limits={"emails": 1}
        )
        (worker,) = cluster.start("w1", queues="emails,other")
        cluster.broker = rabbitmq_url
        cluster.send("held", 1)
        cluster.send("nap", 60, 0.02, first=1)
        wait_until(lambda: said(cluster, worker).get("stopped_queues") == ["emails"], what="the queue is stopped")
        assert subscribed(cluster, worker) == {"emails", "other"}

        control = cluster.app().control
        control.cancel_consumer("emails", destination=[worker.node], reply=True)
        left = wait_until(lambda: cluster.waiting_in("emails"), what="some stayed in the broker")
        cluster.oracle.let_go()
        cluster.done(61 - left, seconds=30)
        cluster.send("pooled", 1, 0.01, queue="other", first=1000)
        cluster.done(1, name="pooled")
        assert subscribed(cluster, worker) == {"other"}
        assert cluster.waiting_in("emails") == left, "we resumed a queue that the operator had cancelled"

        link.cut()
        link.restore()
        cluster.send("pooled", 1, 0.01, queue="other", first=1001)
        cluster.done(2, name="pooled")
        assert subscribed(cluster, worker) == {"other"}
        assert cluster.waiting_in("emails") == left, "the reconnect resumed a queue that the operator had cancelled"

        control.add_consumer("emails", destination=[worker.node], reply=True)
        cluster.done(60, name="nap", seconds=30)
        assert cluster.oracle.starts("nap") == list(range(1, 61))


def test_green_threaded_and_solo_workers_share_a_limit_and_all_take_part(make_cluster, rabbitmq_url):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={"emails": 2})
    workers = [cluster.spawn(pool, pool=pool, concurrency=2) for pool in ("gevent", "threads", "solo")]
    cluster.ready(*workers)
    cluster.send("nap", 40, 0.1)
    cluster.done(40)
    assert cluster.oracle.peak() == 2
    assert sorted(cluster.oracle.starts()) == list(range(40))
    assert {event.pid for event in cluster.oracle.events()} == {worker.process.pid for worker in workers}


def test_what_a_hung_worker_of_another_pool_has_read_starts_in_another(make_cluster, rabbitmq_url):
    # Green ones stand in test_redis.py, where they have no event loop either.
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={"emails": 4}, worker_prefetch_multiplier=2)
    starts_of_a_hung_workers_surplus(cluster, "threads")


# -- Messages of quorum queues go back ------------------------------------------------------------------------


@needs_quorum_queues
def test_a_message_of_a_quorum_queue_may_go_back_up_to_half_of_its_delivery_limit(rabbitmq_process):
    queue = SPECIAL["strict"]  # its limit is 4
    with Connection(rabbitmq_process.url) as connection, connection.channel() as channel:
        queue(channel).declare()
        queue(channel).purge()
        connection.Producer().publish({}, routing_key=queue.routing_key, exchange=queue.exchange)
        received: list[Message] = []
        with Consumer(channel, [queue(channel)], on_message=received.append, accept=["json"]) as consumer:
            broker = AMQPBroker(consumer)
            may_move = []
            while len(received) < 4:
                connection.drain_events(timeout=20)
                may_move.append(broker.may_move("strict", received[-1]))
                received[-1].requeue() if len(received) < 4 else received[-1].ack()
    assert may_move == [True, True, False, False]


@needs_quorum_queues
@pytest.mark.parametrize("can_publish", [True, False])
def test_messages_near_their_delivery_limit_go_back_as_copies_or_themselves_and_none_is_kept(
    rabbitmq_process, can_publish
):
    queue = SPECIAL["strict"]
    with Connection(rabbitmq_process.url) as connection, connection.channel() as channel:
        queue(channel).declare()
        queue(channel).purge()
        for number in range(3):
            headers = {"number": number, "app": "mine"}
            connection.Producer().publish({}, routing_key=queue.routing_key, exchange=queue.exchange, headers=headers)
        received: list[Message] = []

        def receive() -> list[int]:
            received.clear()
            while len(received) < 3:
                connection.drain_events(timeout=20)
            return [message.headers.get("x-delivery-count", 0) for message in received]

        with Consumer(channel, [queue(channel)], on_message=received.append, accept=["json"]) as consumer:
            broker, port = AMQPBroker(consumer), connection.port
            for count in range(2):  # of four; from two before on a copy is made
                assert receive() == [count] * 3
                broker.give_back([("strict", message) for message in received])
            assert receive() == [2] * 3
            connection.port = port if can_publish else free_port()  # one more connection can't be made
            broker.give_back([("strict", message) for message in received])
            assert receive() == ([0] * 3 if can_publish else [3] * 3)
            assert sorted(message.headers["number"] for message in received) == [0, 1, 2]
            for message in received:
                message.ack()


def test_a_signal_is_handled_after_all_have_gone_back_and_not_in_the_middle_of_a_frame(rabbitmq_process):
    # Celery's handlers write to the same connection, whose lock this thread has in the middle of a frame.
    many, handled, has_gone = 300, [], threading.Event()

    def handle(_number: int, frame: FrameType | None) -> None:
        called = [one.f_code.co_name for one, _ in walk_stack(frame)]
        handled.append("in a frame" if "write_frame" in called else "between them" if "put_back" in called else "after")

    def interrupt() -> None:
        while not has_gone.wait(0.0005):
            os.kill(os.getpid(), signal.SIGQUIT)

    former = signal.signal(signal.SIGQUIT, handle)
    try:
        with Connection(rabbitmq_process.url) as connection, connection.channel() as channel:
            queue = Queue("interrupted", channel=channel, auto_delete=True)
            queue.declare()
            for _ in range(many):
                connection.Producer().publish({}, routing_key=queue.name)
            received: list[Message] = []
            with Consumer(channel, [queue], on_message=received.append, accept=["json"]) as consumer:
                while len(received) < many:
                    connection.drain_events(timeout=20)
                subscriptions = Subscriptions()
                subscriptions.attach(consumer, "amqp", None)
                runs = [Run(SimpleNamespace(message=message), (), queue.name) for message in received]
                interrupter = threading.Thread(target=interrupt)
                interrupter.start()
                wait_until(lambda: handled, what="signals come")
                Returns(subscriptions).put_back(runs)
                has_gone.set()
                interrupter.join()
                consumer.cancel()
            subscriptions.close()
    finally:
        signal.signal(signal.SIGQUIT, former)
    assert len(handled) > 1
    assert "in a frame" not in handled
    assert all(run.request.message._state == "REQUEUED" for run in runs)


def test_a_message_that_was_asked_for_is_known_by_its_queue_however_often_that_was_consumed_since(
    rabbitmq_process: RabbitMQServer,
):
    with Connection(rabbitmq_process.url) as connection, connection.channel() as channel:
        queue = Queue("asked-for", Exchange("asked-for"), routing_key="another.key", channel=channel)
        queue.declare()
        received: list[Message] = []
        with Consumer(channel, [queue], on_message=received.append, accept=["json"]) as consumer:
            broker = AMQPBroker(consumer)
            broker.cancel(queue.name, consumer._active_tags[queue.name])
            connection.Producer().publish({}, exchange="asked-for", routing_key="another.key")
            wait_until(lambda: channel.queue_declare(queue.name, passive=True).message_count == 1, what="it is there")
            assert broker.fetch(queue.name, 1) == broker.under_way(queue.name) == 1
            for _ in range(3):  # as where the broker stands still for long
                broker.consume(queue, consumer._active_tags[queue.name])
                broker.cancel(queue.name, consumer._active_tags[queue.name])
            while not received:
                connection.drain_events(timeout=20)
            assert broker.queue_of(received[0]) == queue.name
            assert (broker.under_way(queue.name), broker.count([queue.name])) == (0, {queue.name: 0})
            received[0].ack()
        broker.close()
        queue.delete()
