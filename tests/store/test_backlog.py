"""Where a message stands in a Redis broker: found among many and strange ones, and nothing is changed by looking."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from celery_gconc.brokers import backlog
from celery_gconc.brokers.backlog import BrokerUnavailable, BrokerView
from tests.store.test_fuzz_broker import JUNK, STRANGE, Lists


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def send(app: Celery, **options: Any) -> str:
    return str(app.send_task("work", **{"queue": "celery", **options}).id)


def test_a_message_is_found_between_strange_ones_and_all_stay_as_they_are(app: Celery, client: redis.Redis):
    for number in range(60):
        send(app, task_id=f"before {number}")
    client.lpush("celery", *STRANGE, '{"headers": {"id": "wanted"}', '{"id": "wanted"}', '[{"id": "wanted"}]')
    send(app, task_id="wanted", retries=2, expires=60)
    client.lpush("celery", *STRANGE)
    before = client.lrange("celery", 0, -1)
    with BrokerView(app) as broker:
        found = broker.find("wanted", ["other", "celery"]).message
    assert found is not None
    assert (found.queue, found.position, found.task, found.retries) == ("celery", 60 + len(STRANGE) + 3 + 1, "work", 2)
    assert found.expires is not None
    assert client.lrange("celery", 0, -1) == before
    assert not client.exists("unacked")


@pytest.mark.parametrize("task_id", ["näme", 'with "quotes"', "back\\slash", "%d", "%", ".*", "[a-z]"])
def test_a_name_of_any_kind_is_found(app: Celery, task_id: str):
    for _ in range(3):
        send(app)
    send(app, task_id=task_id)
    with BrokerView(app) as broker:
        found = broker.find(task_id, ["celery"]).message
    assert found is not None
    assert found.position == 4


def test_a_message_is_not_found_by_its_parent_or_by_a_part_of_its_name(app: Celery):
    send(app, task_id="child", parent_id="parent", root_id="root")
    with BrokerView(app) as broker:
        for name in ("parent", "root", "chil", "hild", ""):
            search = broker.find(name, ["celery"])
            assert search.message is None
            assert (search.counts, search.can_look, search.is_complete) == ({"celery": 1}, True, True)


def test_a_parent_of_many_children_costs_no_more_than_any_other_task(app: Celery, client: redis.Redis):
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        for _ in range(1000):
            app.send_task("work", producer=producer, parent_id="parent", root_id="parent")
    client.config_resetstat()
    with BrokerView(app) as broker:
        assert broker.find("parent", ["celery"]).message is None
    assert client.info("commandstats")["cmdstat_eval"]["calls"] < 10


def test_a_message_that_was_taken_is_found_with_the_time_when_it_returns(app: Celery, client: redis.Redis):
    for number in range(300):
        client.hset("unacked", f"tag {number}", json.dumps([{"headers": {"id": str(number)}}, "", "celery"]))
    send(app, task_id="wanted")
    raw = client.rpop("celery")
    client.hset("unacked", "a tag", f'[{raw}, "", "celery"]')
    client.zadd("unacked_index", {"a tag": 1_000_000.5})
    with BrokerView(app) as broker:
        found = broker.find("wanted", ["celery"]).message
    assert found is not None
    assert (found.queue, found.position, found.taken_at, found.returns_at) == ("celery", None, 1_000_000.5, 1_003_600.5)


def test_of_a_long_queue_the_end_that_is_consumed_first_is_looked_at(app: Celery, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backlog, "MAX_LOOKED_AT", 700)
    near = send(app)
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        for _ in range(1400):
            app.send_task("work", producer=producer)
    far = send(app)
    with BrokerView(app) as broker:
        assert broker.find(near, ["celery"]).message is not None
        search = broker.find(far, ["celery"])
    assert search.message is None
    assert not search.is_complete


def test_queues_are_counted_whether_they_exist_or_not(app: Celery):
    send(app)
    send(app, priority=6)
    with BrokerView(app) as broker:
        assert (broker.count("celery"), broker.count("none")) == (2, 0)


def test_a_broker_that_is_away_is_named_without_its_password():
    app = Celery("shop", broker="redis://:secret@127.0.0.1:1/0", set_as_current=False)
    with (
        BrokerView(app) as broker,
        pytest.raises(
            BrokerUnavailable, match=r"^broker unavailable: connection refused \(.*127\.0\.0\.1:1/0\)"
        ) as caught,
    ):
        broker.find("any", ["celery"])
    assert "secret" not in str(caught.value)


@pytest.fixture
def lists(redis_url: str) -> Iterator[Lists]:
    lists = Lists(redis_url)
    lists.lay(STRANGE)
    yield lists
    lists.raw.close()


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize(("name", "keys"), [("find_in_list", ["celery"]), ("find_taken", ["unacked", "unacked_index"])])
def test_bent_arguments_change_nothing(lists: Lists, name: str, keys: list[str], junk: str):
    before = lists.dump()
    ordinary = ['"3"', 0, 10] if name == "find_in_list" else ['"3"', "0"]
    for at in range(len(ordinary)):
        lists.call(name, keys, [*ordinary[:at], junk, *ordinary[at + 1 :]])
        lists.call(name, keys, ordinary[:at])
    lists.call(name, ["a string"] * len(keys), ordinary)
    lists.call(name, [], ordinary)
    assert lists.dump() == before
