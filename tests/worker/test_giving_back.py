"""Many messages that go back to their queue stand there in their order, however many steps that takes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis import Redis

from celery_gconc.brokers.queues import identity_of
from tests.kit.servers import wait_until
from tests.store.namespace import Namespace

from .conftest import _worker

#: More than a worker moves in one turn of its event loop, and more than one script takes.
COUNT = 1300


class FullWorker:
    """One whose only slot another task has, and in which all messages of the queue "emails" wait."""

    def __init__(self, app: Any, redis_url: str) -> None:
        self.app, self.client = app, Redis.from_url(redis_url)
        self.release, self.ran = threading.Event(), list[int]()
        for queue in ("celery", "emails"):
            app.amqp.queues.select_add(queue)

        @app.task(shared=False, name="inside.hold")
        def hold() -> None:
            self.release.wait(60)

        @app.task(shared=False, name="inside.work", global_concurrency=1)
        def work(number: int) -> None:
            self.ran.append(number)

        self.hold, self.work = hold, work

    @contextmanager
    def run(self) -> Iterator[None]:
        with _worker(self.app, "threads", 1) as worker:
            gate = worker.consumer.global_concurrency.parts.gate
            self.hold.delay()
            wait_until(lambda: gate.counts.running == 1, what="the slot is taken")
            for number in range(COUNT):
                self.work.apply_async((number,), queue="emails", headers={"number": number})
            wait_until(lambda: gate.counts.parked == COUNT, seconds=60, what="all wait in the worker")
            try:
                yield
            except BaseException:
                self.release.set()
                raise

    def are_back(self) -> bool:
        return self.client.llen("emails") == COUNT

    def release_when_they_are_back(self) -> None:
        wait_until(self.are_back, seconds=60, what="all went back")
        self.release.set()

    def order(self) -> list[int]:
        """The numbers of the tasks in the queue, the next to be taken first."""
        return [json.loads(message)["headers"]["number"] for message in reversed(self.client.lrange("emails", 0, -1))]


@pytest.fixture
def full(make_app, redis_url) -> Iterator[FullWorker]:
    worker = FullWorker(make_app(worker_prefetch_multiplier=0), redis_url)
    yield worker
    worker.client.close()


@pytest.mark.process
def test_all_that_goes_back_for_another_worker_stands_in_its_order(full, redis_url):
    namespace = Namespace(redis_url)
    with full.run():
        with full.app.connection_for_read() as connection:
            connection.connect()
            source = identity_of(connection)
        idle = namespace.session("idle", slots=4)
        idle.sync(takes=["emails"], source=source)
        wait_until(lambda: idle.sync() and full.are_back(), seconds=60, what="all went back")
        assert full.order() == list(range(COUNT))
        assert not full.ran
        full.client.delete("emails")
        full.release.set()
    namespace.close()


@pytest.mark.process
def test_all_that_goes_back_from_a_worker_that_stops_stands_in_its_order(full):
    with full.run():
        thread = threading.Thread(target=full.release_when_they_are_back)
        thread.start()
    thread.join()
    assert full.order() == list(range(COUNT))
    assert not full.ran
