"""RabbitMQ queues that are deleted, or expire, while workers don't consume them because their limit is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kombu import Connection

from tests.cluster.versions import needs_quorum_queues
from tests.kit.namespace import begin_namespace
from tests.kit.servers import RabbitMQServer, redis_server, wait_until
from tests.kit.tiers import starts
from tests.kit.together import EXPIRES, IMPATIENT
from tests.kit.workers import Cluster, Worker, cluster

#: Queues of the virtual host that deletes those that nobody uses.
EXPIRING = ("expiring", "expiring-quorum")


@pytest.fixture(scope="module")
def broker(rabbitmq_process: RabbitMQServer) -> str:
    """The URL of the RabbitMQ of all tests."""
    return rabbitmq_process.url


@pytest.fixture(scope="module", autouse=True)
@starts("process")
def unused(
    request: pytest.FixtureRequest, rabbitmq_process: RabbitMQServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster | None]:
    """A worker whose queues are not consumed, their limits being full, for longer than the server keeps such a queue.

    It has servers and a virtual host of its own, and goes on beside the other tests of this module.
    """
    tests = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    if needs_quorum_queues.args[0] or not any("policy" in item.name for item in tests):
        yield None
        return
    url = f"pyamqp://guest:guest@127.0.0.1:{rabbitmq_process.port}/{IMPATIENT}"
    limits = {"global_concurrency_limits": dict.fromkeys(EXPIRING, 1)}
    with (
        redis_server() as permits,
        redis_server() as oracle,
        cluster(url, permits.url, oracle.url, tmp_path_factory.mktemp("unused"), **limits) as made,
    ):
        begin_namespace(permits.url)
        made.special = EXPIRING
        for queue in EXPIRING:
            delete(url, queue)
        made.start("w1", concurrency=3, queues=",".join(EXPIRING))
        for first, queue in enumerate(EXPIRING):
            made.send("nap", 1, 1.5 * EXPIRES / 1000, queue=queue, first=1000 * first)
            made.send("nap", 60, 0, queue=queue, first=1000 * first + 1)
        yield made


def delete(url: str, queue: str, **again: object) -> None:
    """Delete a queue, as an operator might; and make it anew, with these arguments."""
    with Connection(url) as connection, connection.channel() as channel:
        channel.queue_delete(queue)
        if again:
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=again)
            channel.queue_bind(queue, exchange=queue, routing_key=queue)


def exists(url: str, queue: str) -> bool:
    with Connection(url) as connection:
        try:
            with connection.channel() as channel:
                channel.queue_declare(queue, passive=True)
        except connection.channel_errors:
            return False
    return True


def stats(cluster: Cluster) -> dict:
    app = cluster.app()
    try:
        told = app.control.inspect(["w1@test"], timeout=5).stats() or {}
        return next(iter(told.values()), {}).get("global_concurrency", {})
    finally:
        app.close()


@pytest.fixture
def stopped(make_cluster: Callable[..., Cluster], broker: str) -> tuple[Cluster, Worker]:
    """A worker that has stopped consuming ``emails``: one runs, many wait."""
    cluster = make_cluster(broker, global_concurrency_limits={"emails": 1})
    for queue in ("emails", "other"):
        delete(broker, queue)
    (worker,) = cluster.start("w1", concurrency=4, queues="emails,other")
    cluster.send("nap", 1, 60)
    cluster.send("nap", 60, 0, first=1)
    wait_until(lambda: stats(cluster).get("stopped_queues") == ["emails"], what="the queue is not consumed")
    wait_until(lambda: cluster.oracle.count("s") == 1, what="one runs")
    return cluster, worker


def go_on(cluster: Cluster, worker: Worker) -> set[int]:
    """Send to both queues, let all start that wait, and give their numbers once what was sent now has run."""
    app = cluster.app()
    for first, queue in ((100, "emails"), (200, "other")):  # by the exchange: so Celery declares no queue
        for number in range(first, first + 5):
            app.send_task("tests.cluster.app.nap", (number, 0), exchange=queue, routing_key=queue)
    app.close()
    assert cluster.celery("gconc", "set", "emails", "50").returncode == 0
    sent = {*range(100, 105), *range(200, 205)}

    def what() -> str:
        return f"these run: {sorted(sent - set(cluster.oracle.starts()))}; {worker.output()[-5000:]}"

    wait_until(lambda: sent <= set(cluster.oracle.starts()), 60, what)
    assert worker.process.poll() is None, worker.output()
    assert "Unrecoverable error" not in worker.output()
    return set(cluster.oracle.starts())


@pytest.mark.wild("workers", "RabbitMQ: a queue is deleted while its limit is full",
                  result="declared again within seconds; `doctor` names it")  # fmt: skip
def test_a_queue_that_is_deleted_while_its_limit_is_full_is_declared_anew(stopped, broker):
    cluster, worker = stopped
    delete(broker, "emails")
    wait_until(lambda: exists(broker, "emails"), what="it is there again")
    wait_until(lambda: stats(cluster).get("lost_queues") == {"emails": 1}, what="the worker tells of it")
    doctor = cluster.celery("gconc", "doctor", "--timeout", "3").stdout
    assert "warning: w1@test found queue emails gone, once" in doctor
    started = go_on(cluster, worker)
    assert len(started) > 11, "what it held was not lost"
    assert "queue emails was deleted or expired" in worker.output()


@pytest.mark.wild("workers", "RabbitMQ: a queue is deleted just before it is consumed again",
                  result="the worker reconnects, as plain Celery does")  # fmt: skip
def test_a_worker_does_not_end_when_a_queue_is_gone_that_it_consumes_again(stopped, broker):
    cluster, worker = stopped
    delete(broker, "emails")
    assert cluster.app().control.broadcast("set_global_concurrency", {"limit": "emails", "max": 50}) is None
    wait_until(lambda: exists(broker, "emails"), what="it is there again")
    # (Between its declaration and its binding, what is sent to it is lost.)
    wait_until(lambda: stats(cluster).get("stopped_queues") == [], what="it is consumed")
    go_on(cluster, worker)


@pytest.mark.wild("workers", "RabbitMQ: a queue is recreated with other arguments while its limit is full",
                  result="it is consumed as it is")  # fmt: skip
def test_a_queue_that_is_made_anew_with_other_arguments_is_consumed_as_it_is(stopped, broker):
    cluster, worker = stopped
    delete(broker, "emails", **{"x-max-length": 1000})
    go_on(cluster, worker)
    assert "PRECONDITION_FAILED" not in worker.output()
    delete(broker, "emails")


@needs_quorum_queues
def test_the_doctor_names_queues_whose_declaration_makes_waiting_costly(make_cluster, broker):
    cluster = make_cluster(broker, global_concurrency_limits={"single": 1})
    cluster.special = ("single", "tight")
    for queue in cluster.special:
        delete(broker, queue)
    cluster.start("w1", concurrency=1, queues="single,tight,other")
    said = " ".join(cluster.celery("gconc", "doctor", "--timeout", "3").stdout.split())
    assert "warning: queue tight has an x-delivery-limit of 2: a message that goes back" in said
    assert "info: workers never stop consuming queue:single" in said
    assert "workers that also read other and tight" in said


@pytest.mark.wild("workers", "RabbitMQ: a policy expires queues that nobody consumes, and their limits are full",
                  result="they stay alive, and nothing is lost")  # fmt: skip
@needs_quorum_queues
def test_a_queue_with_an_expiry_by_policy_outlives_its_full_limit(unused: Cluster):
    unused.done(122)
    assert sorted(unused.oracle.starts()) == [*range(61), *range(1000, 1061)]
    assert "was deleted" not in unused.workers[0].output()
