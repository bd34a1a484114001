"""The scripts over kombu's keys, with malformed arguments and messages: an error, or no message is lost."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_gconc.connection.scripts import assemble

QUEUE, UNACKED, INDEX, OTHER = "celery", "unacked", "unacked_index", "a string"

#: What may stand where a number, a tag or a message should.
JUNK = [
    "", "-1", "0", "1", "3", "0.5", "-0", "1e3", "1e300", "nan", "inf", "-inf", "0x10", "x", "9" * 40, "\x00", "\x1f",
    "[]", "{}", "null", "x" * 10_000, '"task": "a"', "%d", "*",
]  # fmt: skip

#: Messages that a stranger may have pushed: they name a task, but are not what kombu writes.
STRANGE = [
    '"task": "a"',
    '{"task": "a"',
    '{"task": "a"}',
    '["task": "a"]',
    '{"headers": {"task": "a"}, "properties": null}',
    '{"headers": {"task": "a"}, "properties": 1}',
    '{"headers": {"task": "a"}, "properties": {}}',
    '{"headers": {"task": "a"}, "properties": {"delivery_tag": 1}}',
    '{"headers": {"task": "a"}, "properties": {"delivery_tag": {}, "delivery_info": {}}}',
    '{"headers": {"task": "a"}, "properties": {"delivery_tag": "t", "delivery_info": []}}',
    '{"headers": {"task": "a"}, "properties": {"delivery_tag": "t", "delivery_info": {"exchange": {}}}}',
    '{"headers": {"task": "a"}, "properties": {"delivery_tag": "t", "delivery_info": {"routing_key": null}}}',
    '{"headers": {"task": "a"}, "properties": {"delivery_tag": null, "delivery_info": null}}',
    '{"headers": {"task": "a"}, "x": ' + "[" * 2000 + "]" * 2000 + "}",
    "",
    "\x00\x1f",
    "null",
]

FUZZ = settings(
    max_examples=int(os.environ.get("GCONC_FUZZ_EXAMPLES", "40")),
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    database=None,
    suppress_health_check=list(HealthCheck),
)


def message(number: int, task: str) -> str:
    """As kombu writes it."""
    info = {"exchange": "", "routing_key": QUEUE}
    properties = {"delivery_tag": f"tag-{number}", "delivery_info": info, "priority": 0}
    return json.dumps({"body": "W10=", "headers": {"task": task, "id": str(number)}, "properties": properties})


class Lists:
    """A list of kombu's with messages in it, some of them delivered."""

    def __init__(self, url: str) -> None:
        self.raw = redis.Redis.from_url(url, decode_responses=True)

    def lay(self, strange: Sequence[str] = ()) -> None:
        messages = [message(number, "ab"[number % 2]) for number in range(6)]
        self.raw.flushall()
        self.raw.lpush(QUEUE, *messages, *strange)
        for number in (7, 8):
            self.raw.hset(UNACKED, f"tag-{number}", f'[{message(number, "a")}, "", "{QUEUE}"]')
            self.raw.zadd(INDEX, {f"tag-{number}": 1})
        self.raw.set(OTHER, "x")

    def dump(self) -> dict[str, Any]:
        return {
            QUEUE: self.raw.lrange(QUEUE, 0, -1),
            UNACKED: self.raw.hgetall(UNACKED),
            INDEX: sorted(self.raw.zrange(INDEX, 0, -1)),
            OTHER: self.raw.get(OTHER),
            "keys": sorted(self.raw.keys("*")),
        }

    def call(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Call a script; None where it gave an error, which must have come before its first write."""
        script = assemble("celery_gconc.brokers", name)
        before = self.dump()
        try:
            return self.raw.eval(script, len(keys), *keys, *arguments)
        except redis.ResponseError as exc:
            # Where a key of kombu's is of another type, it may come late, and a message be there twice.
            assert OTHER in keys or self.dump() == before, f"an error after a write: {exc}"
            return None


@pytest.fixture(scope="module")
def lists(redis_process: Any) -> Iterator[Lists]:
    lists = Lists(redis_process.url)
    yield lists
    lists.raw.close()


def bent(arguments: list[Any], data: Any) -> list[Any]:
    """Arguments of which some are replaced, left out or added."""
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(len(arguments) - 1, 0)))
        how = data.draw(st.sampled_from(["replace", "replace", "leave out", "add"]))
        if how == "add" or not arguments:
            arguments.insert(at, data.draw(st.sampled_from(JUNK)))
        elif how == "replace":
            arguments[at] = data.draw(st.sampled_from(JUNK))
        else:
            del arguments[at]
    return arguments


@FUZZ
@given(data=st.data())
def test_messages_taken_by_bent_arguments_are_not_lost(lists: Lists, data: Any):
    lists.lay(data.draw(st.lists(st.sampled_from(STRANGE), max_size=3)))
    before = lists.raw.lrange(QUEUE, 0, -1)
    ordinary = [QUEUE, UNACKED, INDEX]
    strange = [[], [QUEUE, UNACKED], [*ordinary, QUEUE], [QUEUE, OTHER, INDEX], [QUEUE, UNACKED, OTHER]]
    keys = data.draw(st.sampled_from([ordinary] * 5 + strange))
    arguments = [0, 500, 3, "1700000000.5", "b"]
    if data.draw(st.booleans()):
        arguments = bent(arguments, data)
    reply = lists.call("take_past", keys, arguments)
    left, taken = lists.raw.lrange(QUEUE, 0, -1), [] if reply is None else reply[1:]
    assert Counter(left) + Counter(taken) == Counter(before), "a message was lost, or is there twice"
    unacked = lists.raw.hgetall(UNACKED)
    for payload in taken:
        tag = json.loads(payload)["properties"]["delivery_tag"]
        assert json.loads(unacked[tag])[0] == json.loads(payload)
        assert lists.raw.zscore(INDEX, tag) is not None


@pytest.mark.parametrize("strange", STRANGE)
def test_a_strange_message_is_looked_past_and_stays_where_it_is(lists: Lists, strange: str):
    lists.lay([strange])
    _, *taken = lists.call("take_past", [QUEUE, UNACKED, INDEX], [0, 500, 9, 1.5])
    assert len(taken) == 6, "those of both tasks are taken past it"
    assert lists.raw.lrange(QUEUE, 0, -1) == [strange]


@FUZZ
@given(data=st.data())
def test_messages_given_back_by_bent_arguments_are_not_lost(lists: Lists, data: Any):
    lists.lay()
    payloads = {number: message(number, "a") for number in (7, 8)}
    keys = [UNACKED, INDEX, QUEUE, QUEUE]
    arguments = [text for number in payloads for text in (f"tag-{number}", payloads[number])]
    which = data.draw(st.sampled_from(["arguments", "keys", "both"]))
    if which != "keys":
        arguments = bent(arguments, data)
    if which != "arguments":
        wrong = [[UNACKED, INDEX, QUEUE, OTHER], [OTHER, INDEX, QUEUE, QUEUE], [UNACKED, OTHER, QUEUE, QUEUE]]
        keys = data.draw(st.sampled_from([[], keys[:1], keys[:2], keys[:3], [*keys, QUEUE], *wrong]))
    lists.call("give_back", keys, arguments)
    unacked = lists.raw.hgetall(UNACKED)
    for number in (number for number in payloads if f"tag-{number}" not in unacked):
        place = arguments.index(f"tag-{number}")
        assert str(arguments[place + 1]) in lists.raw.lrange(QUEUE, 0, -1)


@FUZZ
@given(data=st.data())
def test_messages_removed_by_bent_arguments_are_those_that_name_a_task(lists: Lists, data: Any):
    lists.lay(data.draw(st.lists(st.sampled_from(STRANGE), max_size=3)))
    before = lists.raw.lrange(QUEUE, 0, -1)
    keys = data.draw(st.sampled_from([[QUEUE]] * 5 + [[], [OTHER], [QUEUE, QUEUE]]))
    arguments: list[Any] = [0, 500, "", "b"]
    is_bent = data.draw(st.booleans())
    if is_bent:
        arguments = bent(arguments, data)
    reply = lists.call("remove", keys, arguments)
    removed = Counter(before) - Counter(lists.raw.lrange(QUEUE, 0, -1))
    assert removed.total() == (0 if reply is None else reply[1])
    assert all(json.loads(one)["headers"]["task"] for one in removed)
    if keys == [QUEUE] and not is_bent:
        assert removed == Counter(message(number, "b") for number in (1, 3, 5))


@pytest.mark.parametrize("strange", [one for one in STRANGE if not one.startswith('{"headers"')])
def test_a_message_whose_headers_name_no_task_is_not_removed(lists: Lists, strange: str):
    lists.lay([strange])
    assert lists.call("remove", [QUEUE], [0, 500, "celery."]) == [1, 6]
    assert lists.raw.lrange(QUEUE, 0, -1) == [strange]
