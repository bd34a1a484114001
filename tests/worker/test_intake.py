"""What an intake leaves for other workers: over a real Redis broker, with messages that were really taken from it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue
from kombu.common import QoS

from celery_gconc.clock import now
from celery_gconc.limits.claims import Claims, claims_on
from celery_gconc.protocol.messages import Grant, Synced
from celery_gconc.worker.intake import intake as intake_module
from celery_gconc.worker.intake.intake import LEFT_SECONDS, Intake
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.run import Run
from celery_gconc.worker.wake import Bell
from tests.kit.servers import wait_until
from tests.kit.tables import whole

from .session_parts import Pool

EMAILS = "emails"


class Taking:
    """A worker of one slot, as far as it takes messages of a queue."""

    def __init__(self, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        self.channel = connection.channel()
        self.connection = connection
        self.messages: list[object] = []
        self.syncs = 0
        self.pool = SimpleNamespace(**vars(Pool(startable=1)), size=1)
        self.bell = Bell()
        self.ledger: Ledger[Run] = Ledger({}, pool=self.pool, bell=self.bell)
        self.intake = Intake(self.ledger, self.pool, consumer_timeout=1800.0)
        self.consumer = Consumer(self.channel, [Queue(EMAILS)], on_message=self.messages.append, accept=["json"])
        self.intake.attach(self.consumer, QoS(lambda prefetch_count: None, 4), "redis")
        self.consumer.consume()
        #: By how much its clock is ahead of the real one.
        self.ahead = 0.0
        monkeypatch.setattr(intake_module, "now", lambda: now() + self.ahead)

    def send(self, task_id: str) -> None:
        """A message comes to the queue."""
        with self.connection.channel() as channel:
            producer = self.connection.Producer(channel)
            producer.publish({}, exchange="", routing_key=EMAILS, serializer="json", correlation_id=task_id)

    def take(self, candidates: Claims = ()) -> Run:
        """Take a message of the queue."""

        def taken() -> bool:
            if not self.messages:
                try:
                    self.connection.drain_events(timeout=0.1)
                except TimeoutError:
                    return False
            return bool(self.messages)

        wait_until(taken, what="a message has come")
        message = self.messages.pop(0)
        request = SimpleNamespace(
            id=message.properties["correlation_id"], message=message, request_dict={}, task=SimpleNamespace(name="t")
        )
        return Run(request, candidates, EMAILS)

    def sync(self, **reply: Any) -> None:
        """The session says what there is to say, and is answered."""
        self.syncs += 1
        self.ledger.collect("e", self.syncs, confirmed=self.syncs - 1, full=self.syncs == 1)
        self.ledger.apply(Synced("ok", version=1, **reply), now() + 60.0, now() + 60.0)

    def fill(self) -> Run:
        """The one slot is taken, by a task of another queue."""
        other = Run(SimpleNamespace(id="other"), (), "other")
        assert self.ledger.start_uncovered(other)
        return other

    @property
    def is_stopped(self) -> bool:
        """Whether the queue is not consumed just now."""
        return self.intake.subscriptions.stopped == [EMAILS]


@pytest.fixture
def taking(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Taking]:
    """One with a message in its queue."""
    with Connection(redis_url) as connection:
        taking = Taking(connection, monkeypatch)
        taking.send("first")
        yield taking
        taking.intake.close()
        taking.bell.close()


def test_a_queue_whose_message_went_back_for_others_is_left_alone_until_a_slot_is_free(taking):
    other, run = taking.fill(), taking.take()
    taking.intake.move([run])
    assert taking.is_stopped
    taking.intake.take_up_overdue()
    assert taking.is_stopped
    assert not taking.intake.wants_more
    taking.ledger.ended(other)
    taking.intake.take_up_overdue()
    assert not taking.is_stopped
    assert taking.take().task_id == "first"


def test_it_is_left_alone_for_ten_seconds_at_most_whatever_others_do(taking):
    taking.fill()
    taking.intake.move([taking.take()])
    taking.ahead = LEFT_SECONDS - 1.0
    taking.intake.take_up_overdue()
    assert taking.is_stopped
    taking.ahead = LEFT_SECONDS
    taking.intake.take_up_overdue()
    assert not taking.is_stopped
    assert taking.take().task_id == "first"


def test_a_message_goes_back_for_others_once(taking):
    taking.fill()
    run = taking.take()
    assert taking.intake.may_move(run)
    taking.intake.move([run])
    taking.intake.take_up([EMAILS])
    again = taking.take()
    assert again.message_id == run.message_id
    assert not taking.intake.may_move(again)
    taking.send("second")
    assert taking.intake.may_move(taking.take())


def test_while_all_units_are_in_use_here_and_others_wait_nothing_is_fetched_that_they_precede(taking):
    own = claims_on(("queue:emails",))
    taking.ledger.opened("s", 1, now() + 60.0)
    taking.sync(changes=whole({"queue:emails": 1}, 1))
    run = taking.take(own)
    run.arrived = now()
    taking.ledger.wait(run)
    taking.intake.parked(run)
    taking.intake.subscriptions.stop(EMAILS)
    taking.sync(grants=[Grant(2, 1, own, fence=7)], contended={"queue:emails": 1})
    assert taking.ledger.next() is run
    taking.intake.unparked(run)
    assert not taking.intake.wants_more
    taking.intake.resume()
    assert taking.is_stopped, "what is fetched would hold up the end of what runs, and start after what others have"
    taking.ledger.ended(run)
    assert taking.intake.wants_more
    taking.intake.resume()
    assert not taking.is_stopped
