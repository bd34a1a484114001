"""What of a full queue waits at the broker: a real Redis broker and ledger; what Redis answers is written here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue
from kombu.common import QoS

from celery_gconc.clock import now
from celery_gconc.limits.claims import Claim, claims_on
from celery_gconc.limits.table import LimitTable
from celery_gconc.protocol.messages import Grant, Sync, Synced
from celery_gconc.worker.intake import metering as metering_module
from celery_gconc.worker.intake.intake import Intake
from celery_gconc.worker.intake.metering import AHEAD_SECONDS, PATIENT_SECONDS, Metering
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.run import Run
from celery_gconc.worker.wake import Bell
from tests.kit.tables import whole

from .session_parts import Pool

EMAILS, LIMIT = "emails", "queue:emails"
OWN = claims_on((LIMIT,))
SLOTS = 4


class Worker:
    """A worker with some slots, as far as it reads a queue and starts what it has units for."""

    def __init__(self, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connection, self.channel = connection, connection.channel()
        self.pool = SimpleNamespace(**vars(Pool(startable=SLOTS)), size=SLOTS)
        self.bell = Bell()
        self.ledger: Ledger[Run] = Ledger({}, pool=self.pool, bell=self.bell)
        self.intake = Intake(self.ledger, self.pool, consumer_timeout=1800.0)
        self.metering = Metering(self.ledger, self.pool, self.intake, is_on=True)
        #: What runs, and what waits here, in the order of its arrival.
        self.running: list[Run] = []
        self.waiting: list[Run] = []
        self.qos = QoS(lambda prefetch_count: None, 100)
        self.consumer = Consumer(self.channel, [Queue(EMAILS)], on_message=self.admit, accept=["json"])
        self.intake.attach(self.consumer, self.qos, "redis")
        self.consumer.consume()
        self.metering.attach()
        self.syncs = self.grants = 0
        self.ledger.opened("s", 1, now() + 60.0)
        self.table = {LIMIT: 2}
        self.sync(changes=whole(self.table, 1))
        self.grants = 1
        #: By how much the metering's clock is ahead of the real one.
        self.ahead = 0.0
        monkeypatch.setattr(metering_module, "now", lambda: now() + self.ahead)

    def send(self, *task_ids: str, priority: int = 0) -> None:
        """Messages come to the queue."""
        with self.connection.channel() as channel:
            producer = self.connection.Producer(channel)
            for task_id in task_ids:
                producer.publish(
                    {}, exchange="", routing_key=EMAILS, serializer="json", correlation_id=task_id, priority=priority
                )

    def admit(self, message: Any) -> None:
        """What the gate does with a message."""
        request = SimpleNamespace(
            id=message.properties["correlation_id"], message=message, request_dict={}, task=SimpleNamespace(name="t")
        )
        run = Run(request, OWN, EMAILS)
        run.arrived = now()
        if self.ledger.start(run):
            self.running.append(run)
        else:
            run.may_move = self.intake.may_move(run)
            self.waiting.append(run)
            self.ledger.wait(run)
            self.intake.parked(run)

    def sync(self, **reply: Any) -> Sync:
        """The session says what there is to say, and is answered."""
        self.syncs += 1
        sync = self.ledger.collect("e", self.syncs, confirmed=self.syncs - 1, full=self.syncs == 1)
        self.ledger.apply(Synced("ok", version=1, fence=7, **reply), now() + 60.0, now() + 60.0)
        return sync

    def give(self, count: int, **reply: Any) -> None:
        """Units come without a request."""
        grants = tuple(Grant(self.grants + 1 + number, 0, (Claim(LIMIT, 1),), fence=9) for number in range(count))
        self.grants += count
        self.sync(grants=grants, **reply)

    def end(self, number: int = 0) -> None:
        """A task ends, and the next that waits here starts."""
        self.ledger.ended(self.running.pop(number))
        self.start()
        self.metering.touch(EMAILS)

    def start(self) -> None:
        """What waits here starts, as far as there are units."""
        while (started := self.ledger.next()) is not None:
            self.waiting.remove(started)
            self.running.append(started)
            self.intake.unparked(started)

    def fill(self, slots: int = SLOTS) -> list[Run]:
        """Tasks of other queues take slots."""
        others = [Run(SimpleNamespace(id=f"other {number}"), (), "other") for number in range(slots)]
        assert all(self.ledger.start_uncovered(other) for other in others)
        return others

    def meter(self) -> None:
        """Its queue is metered."""
        self.metering.begin(EMAILS)
        self.metering.read()

    @property
    def has(self) -> tuple[list[str], list[str]]:
        """The ids of what runs, and of what waits here."""
        return [run.task_id for run in self.running], [run.task_id for run in self.waiting]

    @property
    def left(self) -> int:
        """How many messages are at the broker."""
        return sum(int(self.channel.client.llen(self.channel._q_for_pri(EMAILS, step))) for step in (0, 3, 6, 9))

    @property
    def is_metered(self) -> bool:
        """Whether the queue is read message by message."""
        return EMAILS in self.intake.subscriptions.metered


@pytest.fixture
def worker(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """One whose queue is empty."""
    with Connection(redis_url) as connection:
        worker = Worker(connection, monkeypatch)
        yield worker
        worker.intake.close()
        worker.bell.close()


def hungry(sync: Sync) -> Mapping[str, int]:
    return dict(sync.hungry)


# -- Reading --------------------------------------------------------------------------------------------------


def test_each_unit_brings_one_message_in_the_order_of_the_broker(worker: Worker):
    worker.meter()
    worker.send(*"abcd", priority=3)
    worker.send("urgent", priority=0)
    worker.give(2)
    worker.metering.read()
    assert (worker.has, worker.left) == ((["urgent", "a"], ["b", "c"]), 1), "and as many ahead of them"


def test_what_was_read_is_the_brokers_to_deliver_again_until_it_is_acknowledged(worker: Worker):
    worker.meter()
    worker.send("a", "b", "c")
    worker.give(1)
    worker.metering.read()
    assert worker.channel.client.hlen("unacked") == 2
    for run in [*worker.running, *worker.waiting]:
        run.request.message.ack()
    assert worker.channel.client.hlen("unacked") == 0


def test_what_a_worker_takes_as_it_dies_is_the_brokers_to_deliver_again(worker: Worker):
    worker.meter()
    worker.send("a", "b")
    broker: Any = worker.intake.subscriptions.broker
    broker._receivers[EMAILS] = lambda raw_message: None  # it is dead before it has seen what comes
    assert broker.fetch(EMAILS, 2) == 2
    unacked = worker.channel.client.hgetall("unacked")
    assert worker.channel.client.zcard("unacked_index") == len(unacked) == 2
    worker.channel.qos.restore_visible(num=10)
    for tag in unacked:
        worker.channel.qos.restore_by_tag(tag)
    assert worker.left == 2


def test_it_says_once_that_it_would_read_more(worker: Worker):
    worker.meter()
    assert hungry(worker.sync()) == {LIMIT: SLOTS}
    worker.send(*"abcdef")
    worker.give(1)
    worker.metering.read()
    assert hungry(worker.sync()) == {}, "Redis knows"
    worker.give(1)
    worker.start()
    worker.metering.read(everything=True)
    assert worker.has == (["a", "b"], ["c", "d"])
    worker.fill(2)
    worker.metering.read(everything=True)
    assert hungry(worker.sync()) == {LIMIT: 0}, "it has no slot"


def test_a_read_that_finds_less_ends_it(worker: Worker):
    worker.meter()
    worker.sync()
    worker.send("a")
    worker.give(2)
    worker.metering.read()
    assert (worker.has, worker.is_metered) == ((["a"], []), False)
    assert worker.intake.subscriptions.stopped == []
    assert hungry(worker.sync()) == {LIMIT: 0}


def test_what_is_no_message_of_kombus_is_left_to_kombu(worker: Worker):
    worker.meter()
    worker.channel.client.rpush(EMAILS, "no message")
    worker.send("behind")
    worker.channel.client.rpush(EMAILS, worker.channel.client.lpop(EMAILS))
    worker.channel.client.rpush(EMAILS, "no message")
    worker.give(1)
    worker.metering.read()
    assert (worker.has, worker.is_metered) == (([], []), False)


def test_nothing_is_read_where_others_have_taken_the_prefetch_count_nor_is_that_the_end_of_it(worker: Worker):
    worker.meter()
    worker.send("a", "b")
    worker.sync()
    worker.channel.qos.prefetch_count = 1
    worker.channel.qos._delivered["eta"] = object()
    worker.give(1, shares={LIMIT: 1})
    worker.metering.read()
    assert (worker.has, worker.left, worker.is_metered) == (([], []), 2, True)
    sync = worker.sync()
    assert (sync.units, hungry(sync)) == ({LIMIT: 0}, {LIMIT: 0}), "units are of no use here"
    worker.metering.read(everything=True)
    assert hungry(worker.sync()) == {}
    worker.channel.qos._delivered.clear()
    worker.metering.read(everything=True)
    assert hungry(worker.sync()) == {LIMIT: SLOTS}


# -- One in hand ----------------------------------------------------------------------------------------------


def test_one_is_read_ahead_of_units_in_use_and_starts_with_the_first_that_is_free(worker: Worker):
    worker.meter()
    worker.send(*"abcd")
    worker.give(1)
    worker.metering.read()
    worker.metering.read(everything=True)
    assert worker.has == (["a"], ["b"])
    assert worker.sync().wants == [], "it asks for nothing: what it needs is here"
    worker.end()
    assert worker.has == (["b"], [])
    worker.metering.read()
    assert worker.has == (["b"], ["c"])


def test_as_many_are_read_ahead_as_run_and_several_at_once(worker: Worker):
    worker.meter()
    worker.send(*"abcdefgh")
    worker.table = {LIMIT: 3}
    worker.give(3)
    worker.metering.read()
    assert worker.has == (["a", "b", "c"], ["d", "e", "f"])
    worker.end()
    worker.metering.read()
    assert worker.has == (["b", "c", "d"], ["e", "f"]), "not one by one"
    worker.end()
    worker.metering.read()
    assert worker.has == (["c", "d", "e"], ["f", "g", "h"])


def test_what_was_read_stays_though_it_waits_for_its_eta_before_it_comes_to_the_gate(worker: Worker):
    worker.meter()
    worker.send(*"abcdefghijklmnop")
    worker.give(1)
    with_eta: list[Any] = []
    worker.consumer.on_message = with_eta.append
    worker.metering.read()
    assert len(with_eta) >= 2
    for message in with_eta[:2]:
        worker.admit(message)
    assert worker.has == (["a"], ["b"])
    assert worker.intake.take_surplus() == []


def test_one_that_was_read_ahead_of_long_tasks_goes_back_and_no_other_is(worker: Worker):
    worker.meter()
    worker.send(*"abc")
    worker.give(1)
    worker.metering.read(everything=True)
    worker.metering.read(everything=True)
    assert worker.has == (["a"], ["b"])
    assert worker.metering.overdue([EMAILS]) == frozenset()
    worker.ahead = AHEAD_SECONDS
    assert worker.metering.overdue([EMAILS]) == {EMAILS}
    worker.metering.begin(EMAILS)
    back = worker.ledger.take_out([EMAILS], 10)
    worker.intake.send_back(back)
    assert [run.task_id for run in back] == ["b"]
    assert worker.left == 2
    worker.metering.read(everything=True)
    assert worker.left == 2


def test_a_worker_without_a_slot_has_one_message_in_hand(worker: Worker):
    worker.meter()
    worker.send("a", "b")
    worker.fill()
    worker.metering.read(everything=True)
    assert (worker.has, worker.left) == (([], ["a"]), 1), "so it has a place in the line for slots"
    worker.metering.read(everything=True)
    assert worker.left == 1


def test_spare_units_go_back_where_there_is_no_slot(worker: Worker):
    worker.meter()
    worker.send("a", "b")
    worker.sync()
    worker.fill()
    worker.metering.read(everything=True)
    worker.give(1, shares={LIMIT: 1})
    worker.metering.read(everything=True)
    assert worker.has == ([], ["a"])
    assert worker.sync().units == {LIMIT: 0}


def test_what_waits_at_the_broker_is_counted_for_people_while_it_does(worker: Worker):
    worker.meter()
    worker.send("a", "b", priority=3)
    worker.send("c", priority=9)
    worker.metering.count()
    assert worker.ledger.at_broker() == {LIMIT: 3}
    worker.metering.end(EMAILS)
    assert worker.ledger.at_broker() == {}


# -- Shares ---------------------------------------------------------------------------------------------------


def test_units_up_to_a_share_stay_from_task_to_task_and_more_go_as_tasks_end(worker: Worker):
    worker.meter()
    worker.send(*"abcdef")
    worker.give(2)
    worker.metering.read(everything=True)
    worker.sync(shares={LIMIT: 1})
    worker.end()
    worker.metering.read()
    assert worker.sync(shares={LIMIT: 1}).units == {LIMIT: 1}
    running = len(worker.running)
    worker.end()
    worker.metering.read()
    assert (running, len(worker.running)) == (1, 1)
    assert worker.sync().units == {}


# -- Its beginning and its end --------------------------------------------------------------------------------


def test_what_waits_for_idle_units_stays_here_for_a_moment(worker: Worker):
    worker.send("a", "b", "c")
    worker.connection.drain_events(timeout=5)
    assert worker.has == ([], ["a"])
    sync = worker.sync(stands=((1, LIMIT),))
    assert [want.queue_limit for want in sync.wants] == [LIMIT]
    assert worker.metering.overdue([EMAILS]) == frozenset()
    worker.ahead = PATIENT_SECONDS
    assert worker.metering.overdue([EMAILS]) == {EMAILS}


def test_what_waits_for_another_limit_stays_here(worker: Worker):
    worker.send("a")
    worker.connection.drain_events(timeout=5)
    worker.sync(stands=((1, "app"),))
    worker.ahead = 60.0
    assert worker.metering.overdue([EMAILS]) == frozenset()


def test_what_was_read_and_waits_for_another_limit_ends_it(worker: Worker):
    worker.meter()
    worker.send("a", "b")
    worker.fill()
    worker.metering.read(everything=True)
    assert (worker.has, worker.is_metered) == (([], ["a"]), True)
    worker.sync(stands=((1, LIMIT),))
    worker.metering.read(everything=True)
    assert worker.is_metered
    worker.sync(stands=((1, "app"),))
    worker.metering.read(everything=True)
    assert not worker.is_metered, "others may be read past it"
    worker.ahead = 60.0
    assert worker.metering.overdue([EMAILS]) == frozenset()


def test_a_limit_that_is_taken_away_ends_it(worker: Worker):
    worker.meter()
    worker.ledger.table = LimitTable({}, 2)
    worker.metering.read(everything=True)
    assert not worker.is_metered
    assert worker.intake.subscriptions.stopped == []


def test_a_queue_that_is_not_consumed_any_more_is_not_read(worker: Worker):
    worker.meter()
    worker.send("a")
    worker.give(1)
    worker.consumer.cancel_by_queue(EMAILS)
    worker.metering.read(everything=True)
    assert (worker.has, worker.left, worker.is_metered) == (([], []), 1, False)


def test_what_a_read_under_way_brings_goes_back(worker: Worker):
    worker.send("a", "b")
    worker.meter()
    message = worker.channel._get(EMAILS)
    worker.channel.connection._callbacks[EMAILS](message)
    assert [run.task_id for run in worker.intake.take_surplus()] == ["a"]


def test_switched_off_nothing_waits_at_the_broker(worker: Worker):
    off = Metering(worker.ledger, worker.pool, worker.intake, is_on=False)
    worker.ledger.may_meter(())
    off.attach()
    worker.send("a")
    worker.connection.drain_events(timeout=5)
    assert [want.queue_limit for want in worker.sync(stands=((1, LIMIT),)).wants] == [None]
    worker.ahead = 60.0
    assert off.overdue([EMAILS]) == frozenset()
