"""What docs/how-to/deploy-redis.md says that Redis needs: memory, by Redis' own count, and connections."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from celery_gconc.limits.claims import claims_on
from celery_gconc.protocol.counted import BUCKETS, RECORDED, Lately, LimitCounts, Record
from celery_gconc.protocol.messages import Row, Running, Want, running_text
from celery_gconc.worker.ledger.asks import MAX_ASKED
from tests.cluster.conftest import make_cluster, oracle_url  # noqa: F401 - fixtures
from tests.kit.namespace import empty_namespace
from tests.kit.servers import ROOT, RedisServer, redis_server
from tests.store import namespace as kit

PAGE = (ROOT / "docs/how-to/deploy-redis.md").read_text()

#: How many of each are made, to see what one takes.
MANY = 200

QUEUE, POOL = "queue:transactional-mail", "pool:database-writers"

#: A row of the page's table.
FIRST = "first task of a worker that waits for a limit"


def stated(row: str) -> int:
    """The bytes in a row of the page's table."""
    found = re.search(rf"^\| {re.escape(row)}\s*\| ([\d,]+) \|", PAGE, re.MULTILINE)
    assert found is not None, row
    return int(found[1].replace(",", ""))


class Measured:
    """A namespace in a Redis of its own, and what its keys take."""

    def __init__(self, url: str) -> None:
        self.namespace = kit.Namespace(url)
        self.raw = redis.Redis.from_url(url)
        self.raw.flushall()
        self.session = self.open(slots=10_000)
        self.namespace.reopen()

    def open(self, **how: Any) -> kit.Session:
        """One more worker's session, with names of usual lengths."""
        info = {
            "node": f"mailer-{uuid.uuid4().hex[:6]}@ip-10-1-24-{len(self.namespace._sessions)}",
            "pid": 12345, "pool": "prefork", "app": "proj", "broker": "redis://redis.internal:6379/0",
            "version": "0.1.0", "celery": "5.7.0", "python": "3.11.7",
        }  # fmt: skip
        return self.namespace.session(uuid.uuid4().hex, config={QUEUE: 4, POOL: 8}, info=info, **how)

    def workers(self, count: int = MANY) -> list[kit.Session]:
        """Sessions of so many workers."""
        return [self.open(slots=10_000) for _ in range(count)]

    def ask(self, session: kit.Session, *limits: str, count: int = 1) -> None:
        """So many of its tasks wait for these limits."""
        tasks = [Row(0.0, str(uuid.uuid4()), "proj.tasks.import_rows") for _ in range(count)]
        session.sync(wants=[Want(1, claims_on(limits), requests=tasks)], units={}, room=10_000)

    def state(self, session: kit.Session, *limits: str, count: int = 1) -> None:
        """It says at a heartbeat that so many tasks run under these limits."""
        claims = claims_on(limits)
        tasks = [Running(claims, str(uuid.uuid4()), "proj.tasks.import_rows", 1000.0) for _ in range(count)]
        session.state(units=dict.fromkeys(limits, count), running=running_text(tasks), wants=[], room=10_000)

    @property
    def bytes(self) -> int:
        """What all keys take, by MEMORY USAGE."""
        return sum(int(self.raw.memory_usage(key, samples=0)) for key in self.raw.keys("*"))

    def taken_by(self, make: Callable[[], None], count: int = MANY) -> float:
        """What one of the *count* things takes that *make* makes."""
        before = self.bytes
        make()
        return (self.bytes - before) / count


@pytest.fixture(scope="module")
def own_redis(redis_process: RedisServer) -> Iterator[str]:
    with redis_server() as server:
        yield server.url


@pytest.fixture
def measured(own_redis: str) -> Iterator[Measured]:
    measured = Measured(own_redis)
    yield measured
    measured.namespace.close()


def within(taken: float, row: str) -> None:
    """As the page says: no more, and not so much less that the page is misleading."""
    assert stated(row) / 3 < taken <= stated(row)


def test_a_namespace_with_nothing_in_it_takes_what_is_stated(measured):
    assert measured.bytes < 9_000
    assert "Everything else takes less than 9 kB." in PAGE


def test_a_worker_takes_what_is_stated(measured):
    within(measured.taken_by(lambda: [measured.open(slots=8) for _ in range(MANY)]), "worker")


def test_a_configured_limit_takes_what_is_stated_however_many_workers_have_it(measured):
    config = {f"pool:some-resource-of-{number}": 5 for number in range(MANY)}
    within(measured.taken_by(lambda: measured.namespace.session("a", config=config)), "configured limit")
    taken = measured.taken_by(lambda: [measured.namespace.session(name, config=config) for name in ("b", "c")], 2)
    assert taken <= stated("worker")


def test_the_first_task_of_a_worker_that_waits_takes_what_is_stated(measured):
    measured.namespace.set(QUEUE, 0)
    workers = measured.workers()
    within(measured.taken_by(lambda: [measured.ask(worker, QUEUE) for worker in workers]), FIRST)
    assert len(measured.namespace.store.waiting(QUEUE, 1000)) == MANY


def test_each_further_task_that_waits_takes_what_is_stated(measured):
    measured.namespace.set(QUEUE, 0)
    workers = measured.workers(20)
    one = measured.taken_by(lambda: [measured.ask(worker, QUEUE) for worker in workers[:10]], 10)
    all_of_them = measured.taken_by(
        lambda: [measured.ask(worker, QUEUE, count=MAX_ASKED) for worker in workers[10:]], 10
    )
    within((all_of_them - one) / (MAX_ASKED - 1), "each further one")
    assert f"up to {MAX_ASKED - 1} for each of these" in PAGE


def test_a_further_limit_of_a_task_that_waits_takes_what_is_stated(measured):
    for limit in (QUEUE, POOL):
        measured.namespace.set(limit, 0)
    workers = measured.workers(2 * MANY)
    one = measured.taken_by(lambda: [measured.ask(worker, QUEUE) for worker in workers[:MANY]])
    two = measured.taken_by(lambda: [measured.ask(worker, QUEUE, POOL) for worker in workers[MANY:]])
    assert two - one <= stated("each further limit of a task")


def test_a_limit_under_which_tasks_of_a_worker_run_takes_what_is_stated(measured):
    measured.namespace.set(QUEUE, 100_000)
    workers = measured.workers()
    within(
        measured.taken_by(lambda: [measured.state(worker, QUEUE) for worker in workers]),
        "limit under which tasks of a worker run",
    )
    assert len(measured.namespace.store.holders(QUEUE, 1000)) == MANY


def test_a_task_that_was_granted_its_permit_takes_what_is_stated(measured):
    measured.namespace.set(QUEUE, 100_000)
    within(measured.taken_by(lambda: measured.ask(measured.session, QUEUE, count=MANY)), "running task")
    assert len(measured.namespace.store.holders(QUEUE, 1000)) == MANY


def test_a_task_that_runs_takes_less_from_the_next_heartbeat_on(measured):
    measured.namespace.set(QUEUE, 100_000)
    assert measured.taken_by(lambda: measured.state(measured.session, QUEUE, count=MANY)) < stated("running task")
    assert len(measured.namespace.store.holders(QUEUE, 1000)) == MANY


def test_a_further_limit_of_a_running_task_takes_what_is_stated(measured):
    for limit in (QUEUE, POOL):
        measured.namespace.set(limit, 100_000)
    one = measured.taken_by(lambda: measured.ask(measured.session, QUEUE, count=MANY))
    other = measured.open(slots=10_000)
    two = measured.taken_by(lambda: measured.ask(other, QUEUE, POOL, count=MANY))
    assert len(measured.namespace.store.holders(POOL, 1000)) == MANY
    within(two - one, "each further limit of a task")


def test_a_limit_that_is_set_takes_what_is_stated(measured):
    names = [f"pool:some-resource-of-{number}" for number in range(MANY)]
    taken = measured.taken_by(lambda: [measured.namespace.set(name, 5) for name in names])
    within(taken, "limit with a max set at run time")


def told(limits: list[str], ended: int = 0) -> Record:
    """What a session tells with a heartbeat of busy limits, of *ended* tasks of each."""
    counts = LimitCounts(100_000, [9_999] * len(BUCKETS), 99_999.0, [9_999] * len(BUCKETS), 99_999.0)
    lately = Lately(ended, [(0.5, 12.345, 1.234)] * min(ended, 64))
    return Record(dict.fromkeys(limits, counts), dict.fromkeys(limits, lately) if ended else {}, 0, 0, 0, {})


def test_the_statistics_of_a_limit_take_what_is_stated(measured):
    names = [f"pool:some-resource-of-{number}" for number in range(MANY)]
    key = measured.namespace.keys.key("totals")

    def a_minute() -> None:
        for first in range(0, MANY, RECORDED):
            measured.namespace.store.record(measured.session.name, told(names[first : first + RECORDED]))
        for name in names:  # as after a minute in which tasks ended all the time
            total = json.loads(measured.namespace.raw.hget(key, name))
            total["lately"] = [[total["lately"][0][0] - slot, 9_999] for slot in range(12)]
            measured.namespace.raw.hset(key, name, json.dumps(total, separators=(",", ":")))

    within(measured.taken_by(a_minute), "limit with statistics")


def test_a_heartbeat_in_which_many_tasks_ended_takes_what_is_stated(measured):
    measured.namespace.store.record(measured.session.name, told([QUEUE], 500))

    def tell() -> None:
        for _ in range(MANY):
            measured.namespace.store.record(measured.session.name, told([QUEUE], 500))

    within(measured.taken_by(tell), "heartbeat that reports ended tasks, for each limit")


def test_a_worker_keeps_two_connections(make_cluster, own_redis):  # noqa: F811
    cluster = make_cluster(global_concurrency_redis_url=own_redis, global_concurrency_limits={"emails": 2})
    client = redis.Redis.from_url(own_redis)
    empty_namespace(own_redis)
    others = {one["id"] for one in client.client_list()}  # some of these may be on their way out
    cluster.start("w1", concurrency=4)
    cluster.send("nap", 20, 0.01)
    cluster.done(20)
    assert len({one["id"] for one in client.client_list()} - others) == 2
    assert "| connections | 2 for each worker |" in PAGE
