"""What every broker has to pass so that limits hold over it and nothing is lost: a suite to subclass.

    class TestMyBroker(Exercise):
        @pytest.fixture
        def broker(self) -> Broker:
            return Broker("sqs://...", at_a_time=10)

Real workers run over the broker; what they ran is told by an oracle that neither it nor celery-gconc knows. What only
one broker has stands beside, in that broker's file. Where a test can't be passed, override it with one that says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from celery_gconc.protocol.scripts import TURNS
from tests.cluster.queues import SPECIAL
from tests.kit import warm
from tests.kit.servers import wait_until
from tests.kit.workers import Cluster, Worker

NAP, HELD, POOLED = (f"task:tests.cluster.app.{name}" for name in ("nap", "held", "pooled"))

#: Seconds: longer than any test.
FOR_EVER = 600

#: How long, in seconds, the tests of an impatient broker keep a message waiting, in time-outs of that broker.
TIMES_OVER = 3


@dataclass(frozen=True)
class Broker:
    """A broker with none of the tests' queues, and what can be expected of it."""

    url: str
    #: The queue that tests fill: one that every app has, or one of the special ones (tests/cluster/queues.py).
    queue: str = "emails"
    #: Settings that its apps need.
    conf: Mapping[str, object] = field(default_factory=dict)
    #: How many messages may be on their way to a worker of four slots when it stops reading a queue.
    on_their_way: int = 0
    #: How many messages of one queue a worker takes at most that wait for other limits than the queue's own.
    parks: int = 30
    #: An urgent, a middling and a low priority, and the settings with which queues have them; None = it has none.
    priorities: tuple[int, int, int] | None = None
    with_priorities: Mapping[str, object] = field(default_factory=dict)

    @property
    def special(self) -> tuple[str, ...]:
        return (self.queue,) if self.queue in SPECIAL else ()


Make = Callable[..., Cluster]


def said(cluster: Cluster, worker: Worker) -> dict[str, Any]:
    """What a worker says of its limits; nothing where it doesn't answer in time."""
    app = cluster.app()
    try:
        replies = app.control.inspect([worker.node], timeout=2).stats() or {}
        return dict(replies.get(worker.node, {}).get("global_concurrency", {}))
    finally:
        app.close()


def wait_for_parked(cluster: Cluster, worker: Worker, count: int) -> None:
    """Wait until so many requests wait in a worker."""
    wait_until(lambda: said(cluster, worker).get("parked") == count, what=f"{count} wait at {worker.name}")


def subscribed(cluster: Cluster, worker: Worker) -> set[str]:
    """The queues that ``inspect active_queues`` shows."""
    app = cluster.app()
    try:
        replies = wait_until(app.control.inspect([worker.node], timeout=2).active_queues, what="the worker answers")
        return {queue["name"] for queue in replies[worker.node]}
    finally:
        app.close()


def started(cluster: Cluster, count: int, name: str | None = None, seconds: float = 20) -> None:
    """Wait until so many tasks have started."""
    wait_until(lambda: cluster.oracle.count("s", name) == count, seconds, what=f"{count} have started")


def starts_by(cluster: Cluster, worker: Worker, name: str) -> set[int]:
    """The numbers of the tasks that a worker started."""
    pids = {worker.process.pid, *worker.children()}
    events = cluster.oracle.events()
    return {event.number for event in events if (event.kind, event.name) == ("s", name) and event.pid in pids}


def watch(seconds: float, look: Callable[[], int]) -> set[int]:
    """What *look* gave over so many seconds."""
    found = set()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        found.add(look())
        time.sleep(0.05)
    return found


class Exercise:
    """The suite. A subclass has the fixture ``broker``, and ``long_wait`` where its broker is impatient."""

    @pytest.fixture
    def broker(self) -> Broker:
        raise NotImplementedError("a subclass says which broker it is")

    @pytest.fixture
    def long_wait(self) -> LongWait:
        """Where the broker delivers again what isn't acknowledged in time: what :func:`wait_for_long` saw of one."""
        pytest.skip("it waits for an acknowledgement for ever")

    @pytest.fixture
    def make(self, broker: Broker, make_cluster: Make) -> Make:
        """Makes a cluster over the broker, under limits by their names."""

        def make(limits: Mapping[str, int], **conf: object) -> Cluster:
            cluster = make_cluster(broker.url, global_concurrency_limits=dict(limits), **{**broker.conf, **conf})
            cluster.special = broker.special
            return cluster

        return make

    def test_limits_of_queues_hold_over_workers_whatever_their_exchanges_and_every_task_runs_once(self, broker, make):
        cluster = make({broker.queue: 3, "custom": 1, "topics": 2, "mail": 1})
        loads = {  # the limit of each, how many there are, how long each takes, and where it is sent
            "nap": (3, 30, 0.1, {"queue": broker.queue}),
            "late": (1, 20, 0.05, {"queue": "custom"}),  # its routing key is not its name
            "pooled": (2, 20, 0.1, {"queue": "topics", "routing_key": "news.today"}),
            "delivery": (1, 20, 0.05, {"queue": "mail"}),  # its name is not that
        }
        numbers = []
        for task, (_, count, seconds, where) in loads.items():
            cluster.send(task, count, seconds, first=100 * len(numbers), **where)
            numbers.append(range(100 * len(numbers), 100 * len(numbers) + count))
        cluster.start("w1", "w2", concurrency=6, queues=f"{broker.queue},custom,topics,mail.out")
        cluster.done(90)
        assert {task: cluster.oracle.peak(task) for task in loads} == {task: most for task, (most, *_) in loads.items()}
        assert cluster.oracle.peak() > 3, "they don't limit each other"
        assert sorted(cluster.oracle.starts()) == [number for sent in numbers for number in sent]

    def test_tasks_that_share_a_limit_keep_near_their_order_where_other_limits_cover_some_of_them(self, broker, make):
        cluster = make({broker.queue: 1, POOLED: 5})
        for first in range(0, 24, 4):
            cluster.send("pooled", 1, 0.02, queue=broker.queue, first=first)
            cluster.send("nap", 3, 0.02, queue=broker.queue, first=first + 1)
        cluster.start("w1", queues=broker.queue)
        cluster.done(24)
        # A request may miss three turns (TURNS). Others pass it too before Redis has heard of it, and what is under way
        # when permits are reserved for it: with RabbitMQ, which hands one message over at a time, up to five did.
        assert max(abs(turn - number) for turn, number in enumerate(cluster.oracle.starts())) <= 2 * TURNS
        assert cluster.oracle.peak() == 1

    def test_a_full_queue_stays_in_the_broker_delays_no_other_and_is_read_again_in_its_order(self, broker, make):
        queue, slots, count = broker.queue, 4, 80
        cluster = make({queue: 1})
        cluster.send("held", 1, queue=queue)
        cluster.send("nap", count, 0.01, queue=queue, first=1)
        (worker,) = cluster.start("w1", concurrency=slots, queues=f"{queue},other")
        started(cluster, 1)
        # (While no slot is free, requests wait for one as in plain Celery, and as many are prefetched.)
        wait_until(lambda: said(cluster, worker).get("stopped_queues") == [queue], what="the queue is not read")
        cluster.send("pooled", 60, 0.01, queue="other", first=1000)
        cluster.done(60, seconds=20)
        assert cluster.oracle.count("s", "nap") == 0

        most = 3 * 1 + slots + broker.on_their_way

        def held_here() -> int:
            return count - cluster.waiting_in(queue)

        wait_until(lambda: held_here() <= most, what=lambda: f"{held_here()} are held, not {most} at most")
        held = watch(1.0, held_here)
        assert 1 <= min(held) <= max(held) <= most
        assert subscribed(cluster, worker) == {queue, "other"}, "to the operator it is read still"

        control = cluster.app().control
        control.cancel_consumer(queue, destination=[worker.node], reply=True)
        wait_until(lambda: subscribed(cluster, worker) == {"other"}, what="the operator is obeyed")
        control.add_consumer(queue, destination=[worker.node], reply=True)
        wait_until(lambda: subscribed(cluster, worker) == {queue, "other"}, what="the operator is obeyed again")
        cluster.oracle.let_go()
        cluster.done(count, name="nap")
        assert [number for number in cluster.oracle.starts() if number < 1000] == list(range(1 + count))
        assert cluster.oracle.peak("held", "nap") == 1

    @pytest.mark.wild("workers", "a limit raised from 2 to 12, and two workers added, while one holds all messages")
    def test_tasks_of_a_full_limit_block_no_others_of_any_queue_and_all_of_the_raised_limit_is_used_by_workers_to_come(
        self, broker, make
    ):
        cluster = make({HELD: 2})
        first = a_full_limit_blocks_no_others(cluster, broker)
        assert cluster.celery("gconc", "set", HELD, "12").returncode == 0
        cluster.start("w2", "w3", concurrency=4, queues=broker.queue)
        started(cluster, 12, "held", seconds=30)
        assert len(starts_by(cluster, first, "held")) == 4

    def test_a_limited_task_gets_its_turn_on_a_worker_flooded_with_others(self, broker, make):
        cluster = make({NAP: 1})
        cluster.start("w1", queues=f"{broker.queue},other", concurrency=2)
        cluster.send("pooled", 400, 0.02, queue="other", first=1000)
        cluster.send("nap", 5, 0.02, queue=broker.queue)
        cluster.done(5, name="nap", seconds=30)
        assert cluster.oracle.count("e", "pooled") < 400, "they had to wait for all the others"
        assert cluster.oracle.peak("nap") == 1

    @pytest.mark.wild(
        "workers", "six messages wait in a worker whose slots run other queues' tasks; two workers are idle"
    )
    def test_what_waits_in_a_full_worker_starts_in_idle_ones(self, broker, make):
        queue = broker.queue
        cluster = make({queue: 1})
        (c,) = cluster.start("c", concurrency=2, queues=queue)
        cluster.send("delivery", 1, FOR_EVER, queue=queue, task_id="first")
        started(cluster, 1)
        control = cluster.app().control
        control.cancel_consumer(queue, destination=[c.node], reply=True)

        (a,) = cluster.start("a", concurrency=2, queues=f"{queue},other")
        cluster.send("delivery", 6, 0.1, queue=queue, first=1)
        wait_for_parked(cluster, a, 6)
        cluster.send("nap", 2, FOR_EVER, queue="other", first=100)
        started(cluster, 2, "nap")
        (b,) = cluster.start("b", concurrency=2, queues=queue)
        control.add_consumer(queue, destination=[c.node], reply=True)
        wait_for_parked(cluster, a, 6)

        control.revoke("first", terminate=True)
        cluster.done(7, name="delivery", seconds=20)
        assert sorted(cluster.oracle.starts("delivery")) == list(range(7))
        assert cluster.oracle.peak("delivery") == 1
        assert not starts_by(cluster, a, "delivery")
        assert max(cluster.oracle.delivery_counts().values()) <= 1, "each went back once"
        for worker in (a, b):
            wait_for_parked(cluster, worker, 0)

    @pytest.mark.wild("workers", "a worker hangs in tasks under the limit, which has room for more")
    def test_what_a_hung_worker_has_read_beyond_its_slots_starts_in_another(self, broker, make):
        starts_of_a_hung_workers_surplus(make({broker.queue: 4}, worker_prefetch_multiplier=2), "prefork", broker.queue)

    @pytest.mark.wild(
        "workers", "an urgent message arrives while 100 others wait for a limit, in a queue with priorities"
    )
    @pytest.mark.parametrize("limit", ["of the queue", "of the task"])
    def test_priorities_go_before_the_order_and_an_urgent_message_waits_for_two_messages_a_slot_at_most(
        self, broker, make, limit
    ):
        if broker.priorities is None:
            pytest.skip("its queues have no priorities")
        urgent, middling, low = broker.priorities
        slots, count = 2, 100
        cluster = make({broker.queue if limit == "of the queue" else NAP: 1}, **broker.with_priorities)
        cluster.send("nap", count, 0.05, queue=broker.queue, priority=low)
        cluster.send("nap", 30, 0.05, queue=broker.queue, priority=middling, first=1000)
        cluster.start("a", queues=broker.queue, concurrency=slots)
        wait_until(lambda: cluster.oracle.count("s") >= 40, what="some have run")
        cluster.send("nap", 1, 0.05, queue=broker.queue, first=2000, priority=urgent)
        sent = cluster.oracle.count("s")
        wait_until(lambda: 2000 in cluster.oracle.starts(), what="the urgent one has started")
        starts = cluster.oracle.starts()
        # What is given back comes again while others are on their way: these may be here before it.
        assert max(starts.index(number) for number in range(1000, 1030)) < 30 + 2 * slots
        # Those that wait here, the one that runs, and one more that began while this was counted.
        assert starts.index(2000) - sent <= 2 * slots + 2
        assert cluster.oracle.peak() == 1
        assert len(starts) == len(set(starts))

    def test_tasks_parked_for_thrice_the_brokers_time_out_run_once(self, long_wait):
        for queue, numbers in long_wait.parked.items():
            assert sorted(set(numbers) & set(long_wait.starts)) == list(numbers), queue
        assert len(long_wait.starts) == len(set(long_wait.starts))
        assert "Traceback" not in long_wait.log


def a_full_limit_blocks_no_others(cluster: Cluster, broker: Broker) -> Worker:
    """A worker with messages of a full limit runs what comes behind them, in their queue and in another."""
    cluster.send("held", broker.parks, queue=broker.queue)
    cluster.send("pooled", 5, 0.01, queue=broker.queue, first=500)
    (worker,) = cluster.start("w1", concurrency=4, queues=f"{broker.queue},other")
    cluster.done(5, seconds=20)
    wait_for_parked(cluster, worker, broker.parks - 2)
    cluster.send("late", 60, 0.01, queue="other", first=1000)
    cluster.done(65, seconds=20)
    assert sorted(cluster.oracle.starts("held")) == [0, 1]
    return worker


def starts_of_a_hung_workers_surplus(cluster: Cluster, pool: str, queue: str = "emails") -> None:
    """One worker hangs in tasks under a limit of four with two slots, and has read more: those start in another."""
    cluster.send("nap", 4, FOR_EVER, queue=queue)
    (a,) = cluster.start("a", pool=pool, concurrency=2, queues=queue)
    wait_until(lambda: said(cluster, a).get("parked", 0) >= 2, what="two run at a, others wait there")
    (b,) = cluster.start("b", pool=pool, concurrency=2, queues=queue)
    started(cluster, 4)
    assert starts_by(cluster, a, "nap") == {0, 1}
    assert starts_by(cluster, b, "nap") == {2, 3}


@dataclass(frozen=True)
class LongWait:
    """What was seen while tasks were parked for thrice the time after which their broker delivers again."""

    #: The numbers of the parked tasks of each queue, and of those of all tasks in the order in which they started.
    parked: Mapping[str, range]
    starts: list[int]
    #: How often the broker had delivered each of them before, where it counts that.
    delivery_counts: Mapping[int, int]
    #: What the looks gave while tasks were parked, and at the end.
    seen: Mapping[str, set[int]]
    left: Mapping[str, int]
    log: str


Waits = Mapping[str, Callable[[], LongWait]]


@contextmanager
def beside(request: pytest.FixtureRequest, waits: Waits) -> Iterator[dict[str, Future[LongWait]]]:
    """Have all these long waits go on while the tests of a module run, from the first of them on, if any wants them."""
    tests = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    if not any("impatient" in getattr(item, "fixturenames", ()) for item in tests):
        yield {}
        return
    warm.zygote()  # one for all threads
    with ThreadPoolExecutor(len(waits)) as threads:
        yield {name: threads.submit(wait) for name, wait in waits.items()}


def wait_for_long(
    cluster: Cluster,
    time_out: float,
    queues: Iterable[str],
    parked: int,
    looks: Mapping[str, Callable[[], int]],
    *names: str,
    **options: object,
) -> LongWait:
    """Park tasks of each queue, each under a limit of one, for thrice the broker's time-out in seconds; then run them.

    *names* are those of the workers. *looks* are taken while tasks are parked, and at last.
    """
    queues = list(queues)
    workers = cluster.start(*names, queues=",".join((*queues, "other")), concurrency=8)
    for number, queue in enumerate(queues):
        cluster.send("held", 1, queue=queue, first=number)
    started(cluster, len(queues))
    numbers = {queue: range(100 * n, 100 * n + parked) for n, queue in enumerate(queues, start=1)}
    for queue, own in numbers.items():
        cluster.send("delivery", parked, 0.01, queue=queue, first=own.start, **options)
    wait_until(lambda: sum(said(cluster, one).get("parked", 0) for one in workers), what="some are parked")
    seen: dict[str, set[int]] = {name: set() for name in looks}
    ends = time.monotonic() + TIMES_OVER * time_out + 1
    while time.monotonic() < ends:
        for name, look in looks.items():
            seen[name].add(look())
        time.sleep(0.1)
    cluster.send("late", 10, 0.01, queue="other", first=10_000)
    cluster.done(10, name="late", seconds=10)
    cluster.oracle.let_go()
    cluster.done(len(queues) * (1 + parked) + 10, seconds=30)
    # Where something was delivered again, copies may come late.
    cluster.send("nap", 1, 0.01, queue=queues[0], first=99)
    cluster.done(1, name="nap", seconds=20)
    assert [worker.stop() for worker in workers] == [0] * len(workers), "whatever they still had has run"
    log = "".join(worker.output() for worker in workers)
    left = {name: look() for name, look in looks.items()}
    return LongWait(numbers, cluster.oracle.starts(), cluster.oracle.delivery_counts(), seen, left, log)
