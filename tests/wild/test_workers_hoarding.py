"""What a worker holds and can't start doesn't wait for it while another could: it goes back to its place in the queue.

Real workers over both brokers. ``a`` is the one that holds messages and has no slot for them; its tasks last for ever.
"""

from __future__ import annotations

import pytest
from kombu import Connection, Consumer
from kombu.message import Message

from celery_gconc.brokers.amqp import AMQPBroker
from celery_gconc.brokers.queues import identity_of
from tests.cluster.kit import Cluster, Worker
from tests.cluster.queues import SPECIAL
from tests.cluster.versions import needs_quorum_queues
from tests.servers import free_port, wait_until

#: Seconds: longer than any test.
FOR_EVER = 600

#: The broker, and the queue.
QUEUES = [("redis", "emails"), ("rabbitmq", "emails"), pytest.param(("rabbitmq", "quorum"), marks=needs_quorum_queues)]


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> str:
    """The URL of the broker that a test is for."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def where(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The URL of the broker that a test is for, and the queue."""
    broker, queue = request.param
    return str(request.getfixturevalue(f"{broker}_url")), queue


def waiting_at(cluster: Cluster, worker: Worker) -> int:
    """How many requests wait in a worker."""
    app = cluster.app()
    try:
        stats = app.control.inspect([worker.node], timeout=2).stats() or {}
        return int(stats.get(worker.node, {}).get("global_concurrency", {}).get("parked", 0))
    finally:
        app.close()


def starts_by(cluster: Cluster, worker: Worker, name: str) -> set[int]:
    """The numbers of the tasks that a worker started."""
    pids = {worker.process.pid, *worker.children()}
    return {
        event.number
        for event in cluster.oracle.events()
        if event.kind == "s" and event.name == name and event.pid in pids
    }


def told(cluster: Cluster, what: bytes) -> list[int]:
    """What Redis was told by each session: room, or how many syncs there were."""
    with cluster.client as client:
        fields = client.hgetall("{gconc}:v1:session")
    return [int(value) for field, value in fields.items() if field.endswith(b":" + what)]


@pytest.mark.wild("workers", "six messages wait in a worker whose slots run other queues' tasks; two workers are idle")
@pytest.mark.parametrize("where", QUEUES, indirect=True)
def test_what_waits_in_a_full_worker_starts_in_idle_ones(make_cluster, where):
    url, queue = where
    cluster = make_cluster(url, global_concurrency_limits={queue: 1})
    cluster.special = ("quorum",) if queue == "quorum" else ()
    (c,) = cluster.start("c", concurrency=2, queues=queue)
    cluster.send("delivery", 1, FOR_EVER, queue=queue, task_id="first")
    wait_until(lambda: cluster.oracle.count("s") == 1, what="the first runs at c")
    control = cluster.app().control
    control.cancel_consumer(queue, destination=[c.node], reply=True)

    (a,) = cluster.start("a", concurrency=2, queues=f"{queue},other")
    cluster.send("delivery", 6, 0.1, queue=queue, first=1)
    wait_until(lambda: waiting_at(cluster, a) == 6, what="six wait at a")
    cluster.send("nap", 2, FOR_EVER, queue="other", first=100)
    wait_until(lambda: cluster.oracle.count("s", "nap") == 2, what="both slots of a are taken")
    (b,) = cluster.start("b", concurrency=2, queues=queue)
    control.add_consumer(queue, destination=[c.node], reply=True)
    assert waiting_at(cluster, a) == 6

    control.revoke("first", terminate=True)
    began = cluster.oracle.now()
    cluster.done(7, name="delivery", seconds=20)
    print("six started within", max(e.time for e in cluster.oracle.events() if e.kind == "s") - began)
    assert sorted(cluster.oracle.starts("delivery")) == list(range(7))
    assert cluster.oracle.peak("delivery") == 1
    assert not starts_by(cluster, a, "delivery")
    assert max(cluster.oracle.delivery_counts().values()) <= 1, "each went back once"
    assert waiting_at(cluster, b) == waiting_at(cluster, a) == 0


@pytest.mark.wild("workers", "a worker hangs in tasks under the limit, which has room for more")
@pytest.mark.parametrize(
    ("broker", "pool"),
    [("redis", "prefork"), ("redis", "gevent"), ("rabbitmq", "threads"), ("rabbitmq", "gevent")],
    indirect=["broker"],
)
def test_what_a_hung_worker_has_read_beyond_its_slots_starts_in_another(make_cluster, broker, pool):
    cluster = make_cluster(broker, global_concurrency_limits={"emails": 4}, worker_prefetch_multiplier=2)
    cluster.send("nap", 6, FOR_EVER)
    (a,) = cluster.start("a", pool=pool, concurrency=2, queues="emails")
    wait_until(lambda: waiting_at(cluster, a) >= 2, what="two run at a, others wait there")
    (b,) = cluster.start("b", pool=pool, concurrency=2, queues="emails")
    wait_until(lambda: cluster.oracle.count("s") == 4, seconds=20, what="two more have started")
    assert starts_by(cluster, a, "nap") == {0, 1}
    assert starts_by(cluster, b, "nap") == {2, 3}, "in their order"


@pytest.mark.wild("workers", "a limit raised from 2 to 16, and three workers added, while one holds all messages")
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_all_of_a_raised_limit_is_used_by_workers_that_come_later(make_cluster, broker):
    limit = "task:tests.cluster.app.nap"
    cluster = make_cluster(broker, global_concurrency_limits={limit: 2})
    count = 30 if broker.startswith("redis") else 200  # a worker takes no more there
    cluster.send("nap", count, FOR_EVER)
    (a,) = cluster.start("a", queues="emails", concurrency=4)
    wait_until(lambda: waiting_at(cluster, a) == count - 2, what="one worker holds all")
    assert cluster.celery("gconc", "set", limit, "16").returncode == 0
    cluster.start("b", "c", "d", queues="emails", concurrency=4)
    wait_until(lambda: cluster.oracle.count("s") == 16, seconds=30, what="sixteen run")
    assert len(starts_by(cluster, a, "nap")) == 4


@pytest.mark.wild("workers", "a message waits in a full worker, and all others are full", result="starts where it is")
def test_where_all_are_full_a_message_stays_where_it_is_and_gets_the_next_slot(make_cluster):
    cluster = make_cluster(
        global_concurrency_limits={"emails": 4},
        global_concurrency_heartbeat_interval=0.5,
        global_concurrency_heartbeat_timeout=5,
    )
    cluster.send("late", 1, FOR_EVER, queue="custom", routing_key="some.key")
    (b,) = cluster.start("b", concurrency=1, queues="custom")
    cluster.send("pooled", 1, FOR_EVER, queue="other", task_id="before")
    (a,) = cluster.start("a", concurrency=1, queues="emails,other")
    cluster.send("nap", 1, 0.1, first=7)
    wait_until(lambda: waiting_at(cluster, a) == 1, what="it waits at a")
    wait_until(lambda: told(cluster, b"room") == [0, 0], what="Redis knows that both are full")
    control = cluster.app().control
    control.add_consumer("emails", destination=[b.node], reply=True)
    begun = sum(told(cluster, b"sync"))
    wait_until(lambda: sum(told(cluster, b"sync")) > begun + 12, what="a has asked several times")
    control.revoke("before", terminate=True)
    cluster.done(1, name="nap")
    assert starts_by(cluster, a, "nap") == {7}
    wait_until(lambda: "nap[" in a.output() and "] succeeded" in a.output(), what="its log tells of the end")
    assert a.output().count("cluster.app.nap[") == 2, "received and succeeded: it never left"
    assert "cluster.app.nap[" not in b.output()


def test_a_broker_has_one_identity_by_whatever_url_it_is_reached(rabbitmq_process, redis_process):
    def identity(url: str, **options: object) -> str:
        with Connection(url, transport_options=options) as connection:
            connection.ensure_connection(max_retries=1)
            return identity_of(connection)

    rabbitmq, redis = rabbitmq_process.url.partition("://")[2], redis_process.url.removesuffix("/0").partition("://")[2]
    assert identity(f"amqp://{rabbitmq}") == identity(f"pyamqp://{rabbitmq}".rstrip("/") + "/%2F")
    assert identity(f"redis://{redis}") == identity(f"redis://{redis}/0")
    others = [identity(f"redis://{redis}/1"), identity(f"redis://{redis}", global_keyprefix="prod:")]
    assert len({identity(f"amqp://{rabbitmq}"), identity(f"redis://{redis}"), *others}) == 4


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


@pytest.mark.wild("workers", "an urgent message arrives while 200 others wait for a limit, in a queue with priorities")
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
@pytest.mark.parametrize("limit", ["emails", "task:tests.cluster.app.nap"])
def test_an_urgent_message_waits_for_two_messages_a_slot_at_most(make_cluster, broker, limit):
    slots, is_redis = 2, broker.startswith("redis")
    conf = {} if is_redis else {"task_queue_max_priority": 10}
    low, urgent = (9, 0) if is_redis else (1, 9)
    cluster = make_cluster(broker, global_concurrency_limits={limit: 1}, **conf)
    cluster.send("nap", 200, 0.05, priority=low)
    cluster.start("a", queues="emails", concurrency=slots)
    wait_until(lambda: cluster.oracle.count("s") >= 20, what="some have run")
    cluster.send("nap", 1, 0.05, first=1000, priority=urgent)
    sent = cluster.oracle.count("s")
    wait_until(lambda: 1000 in cluster.oracle.starts(), what="the urgent one has started")
    # Those that wait here, the one that runs, and one more that began while this was counted.
    assert cluster.oracle.starts().index(1000) - sent <= 2 * slots + 2
    assert cluster.oracle.peak() == 1
    starts = cluster.oracle.starts()
    assert len(starts) == len(set(starts))
