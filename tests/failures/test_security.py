"""Strangers on the broker, on the notice channel and at the keys: they neither stop a worker nor lift a limit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection

from celery_gconc import GlobalConcurrency
from celery_gconc.errors import GlobalConcurrencyError, LimitError
from celery_gconc.limits.name import parse_limit
from celery_gconc.protocol.keys import KEYSPACE
from tests.kit.keys import key
from tests.kit.servers import wait_until
from tests.kit.workers import Cluster
from tests.store.namespace import Namespace

HEARTBEAT = {"global_concurrency_heartbeat_interval": 0.5, "global_concurrency_heartbeat_timeout": 3}

MEGABYTE = "x" * 2**20

#: Names as nobody should have them.
NAMES = [
    *("a\x1fb", "a\nb", "a\x00b", "\x7f", "\x85", "\ud800", "queue:a\x1f0", "x" * 10_000, MEGABYTE, "", "  ", "queue:"),
    *(":", "other:x", None, 1, True, b"x", [], {}, ["queue:x"]),
]

#: Names that are odd, and a name like any other.
ODD = [
    "queue:{gconc}:v2:meta", "{x}", "}{", "*", "[a", "(a", "+",
    "%s", "é\u202e", "𝄞" * 512, "a b", "pool:a:b", "\\", '"',
    "task:a:b", "app ",
]  # fmt: skip


@pytest.fixture
def namespace(redis_url: str) -> Iterator[Namespace]:
    namespace = Namespace(redis_url)
    yield namespace
    namespace.close()


def last_lines(worker: Any, count: int = 20) -> str:
    return "\n".join(worker.output().splitlines()[-count:])


def send(
    cluster: Any, task: str, queue: str = "emails", *, headers: dict[str, Any] | None = None, **named: Any
) -> None:
    """Send a task as a stranger does: kombu, and headers of one's own."""
    body = ([named.pop("number"), 0.02], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None})
    known = {"lang": "py", "task": task, "id": "id", "root_id": "id", "retries": 0, **(headers or {})}
    with Connection(cluster.broker) as connection:
        connection.Producer().publish(body, routing_key=queue, headers=known, serializer="json", **named)


# -- Names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:20])
def test_a_name_that_is_none_is_refused_in_one_line(redis_url: str, name: Any):
    gconc = GlobalConcurrency(Celery("x", broker=redis_url, set_as_current=False))
    with redis.Redis.from_url(redis_url) as client:
        before = client.keys()
    for call in (gconc.set, gconc.pause, gconc.reset):
        with pytest.raises(LimitError) as refused:
            call(name, 3) if call == gconc.set else call(name)
        text = str(refused.value)
        assert len(text) < 400 and text.isprintable()
    gconc.close()
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys() == before


def test_odd_names_make_no_key_and_no_channel_of_their_own(namespace: Namespace):
    session = namespace.session("a", slots=100)
    namespace.reopen()
    for number, name in enumerate(ODD):
        limit = parse_limit(name)
        namespace.set(limit, 1)
        assert namespace.store.status(limit)[limit].max == 1, number
        session.sync()
        session.state()
        session.ask(limit)
        assert namespace.holders(limit) == [("a", session.numbers)]
    assert {key.decode() for key in namespace.raw.keys("*")} <= {namespace.keys.key(name) for name in KEYSPACE}
    for name in ODD:
        namespace.store.reset(parse_limit(name), by="test")
    namespace.store.close_session("a")
    assert namespace.left_behind() == {}


def test_no_more_than_ten_thousand_limits_are_set_at_run_time(namespace: Namespace):
    namespace.raw.hset(namespace.keys.key("overrides"), mapping={f"queue:{n}": '{"max":1}' for n in range(10_000)})
    with pytest.raises(GlobalConcurrencyError, match="10000 limits"):
        namespace.set("queue:one more", 1)
    namespace.set("queue:5", 2)
    namespace.store.reset("queue:6", by="test")
    namespace.set("queue:one more", 1)


# -- The broker: messages --------------------------------------------------------------------------------


def test_ids_and_headers_that_a_sender_makes_up_neither_stop_a_worker_nor_lift_a_limit(make_cluster):
    cluster = make_cluster(**HEARTBEAT, global_concurrency_limits={"emails": 1})
    (worker,) = cluster.start("a", concurrency=3)
    ids = [MEGABYTE, "a:b", "a\x1fb", "\x00", "\ud800", "{x}", "é" * 300, "*"]
    forged = [
        {"gconc_queue": "other"},
        {"gconc_delivered_at": -1e9, "delivery_info": {"gconc_queue": "other", "routing_key": "other"}},
        {"permit": {"number": 1, "limits": []}, "gconc_permit": [[], 10**15, "x", 1.0], "global_concurrency": None},
        {"_gconc": 1, "limits": [], "fence": 10**15, "session": "x", "hostname": "x"},
    ]
    for number, id in enumerate(ids):
        send(cluster, "tests.cluster.app.nap", number=number, headers={"id": id, "root_id": id})
    for number, headers in enumerate(forged, start=len(ids)):
        send(cluster, "tests.cluster.app.nap", number=number, headers={"id": f"forged-{number}", **headers})
    count = len(ids) + len(forged)
    wait_until(lambda: cluster.oracle.count("e") == count, what="all have run", seconds=30)
    assert cluster.oracle.peak() == 1
    assert "unexpected error" not in worker.output() and "unavailable" not in worker.output()
    assert max(map(len, worker.output().splitlines())) < 3 * len(MEGABYTE), "Celery's own lines have the id in them"
    wait_until(lambda: cluster.permits() == 0, what="nothing of them is left")


# -- The broker: remote control --------------------------------------------------------------------------

COMMANDS = [
    "set_global_concurrency",
    "reset_global_concurrency",
    "pause_global_concurrency",
    "resume_global_concurrency",
]

#: What may stand for the limit, or the max.
PAYLOADS = [
    *(None, 1, True, [], {}, ["emails"], {"x": 1}, {"name": None}, {"name": ["emails"]}, {"name": MEGABYTE}, MEGABYTE),
    *("a\x1fb", "\ud800"),
    *({"name": "emails", "ticket": ticket} for ticket in (-1, 10**30, "x", 1.5, [1], float("inf"))),
]


def test_broadcasts_of_any_kind_get_a_short_answer_and_change_nothing(make_cluster):
    cluster = make_cluster(**HEARTBEAT, global_concurrency_limits={"emails": 2})
    (worker,) = cluster.start("a", concurrency=1)
    control = cluster.app().control
    for payload in PAYLOADS:
        for command in [*COMMANDS, "global_concurrency"][:: 4 if payload is MEGABYTE else 2]:
            (reply,) = control.broadcast(
                command, {"limit": payload, "max": 3, "more": 1}, reply=True, timeout=5, limit=1
            )
            (answer,) = reply.values()
            if command != "global_concurrency" or payload is not None:
                assert "error" in answer, (command, str(payload)[:80], answer)
            assert len(str(answer)) < 1000
    for maximum in (-1, 1.5, "x", MEGABYTE, [1], {}, 10**30, True):
        arguments = {"limit": "emails", "max": maximum}
        (reply,) = control.broadcast("set_global_concurrency", arguments, reply=True, timeout=5, limit=1)
        assert "error" in str(reply) and len(str(reply)) < 1000
    for size in (0, -1, 1.5, "2", None, [], MEGABYTE, True):
        (reply,) = control.broadcast("set_local_concurrency", {"size": size}, reply=True, timeout=5, limit=1)
        assert "error" in str(reply) and len(str(reply)) < 1000
    assert not cluster.client.exists(key("overrides"))
    command = {"name": "emails", "by": MEGABYTE, "ticket": 2**40}
    (reply,) = control.broadcast("set_global_concurrency", {"limit": command, "max": 1}, reply=True, timeout=5, limit=1)
    assert "now 1" in str(reply), "what claims a ticket that was never given is taken as none"
    assert cluster.client.hstrlen(key("overrides"), "queue:emails") < 500
    assert int(cluster.client.hget(key("meta"), "ticket")) == 1
    assert "now 3" in cluster.celery("control", "set_global_concurrency", "emails", "3").stdout
    assert "celery-gconc: unexpected" not in worker.output()


# -- The notice channel ----------------------------------------------------------------------------------

NOTICES = [
    *(b"", b"x", b"\xff\xfe", b"null", b"1", b"[]", b'"x"', b"{", b"[" * 100_000, b'{"grants": 1}', b'{"grants": [1]}'),
    *(b'{"grants": [[1]]}', b'{"grants": [["a", "b", "c", "d"]]}', b'{"grants": [[NaN, Infinity, 1, 1]]}'),
    *(b'{"grants": [[1e999, 1, 1, 1]]}', b'{"recall": 1}', b'{"recall": {"queue:emails": "x"}}', b'{"recall": [1]}'),
    *(b'{"recall": {"queue:emails": null}}', b'{"version": "x"}', b'{"version": []}'),
]

#: Each by itself is what a script could have said.
MADE_UP = [
    *({"grants": [[2, 1, 1, 1]]}, {"grants": [[10**11, 1, 1, 1]]}, {"grants": [[2, 1, 1, 1], [10**11, 2, 1, 1]]}),
    *({"grants": [[-5, -5, -5, -5]]}, {"version": 10**9}, {"version": -1}, {"offer": True}),
    *({"recall": {"queue:emails": 99, "queue:x": -1}}, {"recall": {f"queue:{n}": 0 for n in range(10_000)}}),
]


def notice_channels(cluster: Cluster) -> list[bytes]:
    """The channels of the sessions' notices; those that only tell a lease have one more part."""
    channels = cluster.client.pubsub_channels(key("notices:*"))
    return [channel for channel in channels if channel.count(b":") == 4]


def test_what_strangers_publish_to_a_worker_is_ignored_with_one_line(make_cluster):
    cluster = make_cluster(**HEARTBEAT, global_concurrency_limits={"emails": 2})
    (worker,) = cluster.start("a", concurrency=3)
    (channel,) = notice_channels(cluster)
    app = cluster.app()
    for round in range(20):
        app.send_task("tests.cluster.app.nap", (round, 0.05), queue="emails")
        for notice in NOTICES:
            cluster.client.publish(channel, notice)
    wait_until(lambda: cluster.oracle.count("e") == 20, what="all have run")
    assert cluster.oracle.peak() <= 2
    lines = [
        line for line in worker.output().splitlines() if "celery-gconc" in line and ("WARN" in line or "ERROR" in line)
    ]
    assert len([line for line in lines if "unrecognised message" in line]) == 1, lines
    assert "Traceback" not in worker.output()
    assert notice_channels(cluster) == [channel], "it is the same session still"


def test_notices_that_are_made_up_stop_nothing_for_longer_than_a_heartbeat(make_cluster):
    cluster = make_cluster(**HEARTBEAT, global_concurrency_limits={"emails": 2})
    (worker,) = cluster.start("a", concurrency=3)
    (channel,) = notice_channels(cluster)
    app = cluster.app()
    sent = 0
    for notice in MADE_UP:
        for _ in range(4):
            app.send_task("tests.cluster.app.nap", (sent, 0.05), queue="emails")
            sent += 1
        cluster.client.publish(channel, json.dumps(notice))
        all_ran = partial(lambda count: cluster.oracle.count("e") == count, sent)
        wait_until(all_ran, seconds=5, what=f"all have run in spite of {str(notice)[:60]}")
    assert "Traceback" not in worker.output()
    wait_until(lambda: cluster.permits() == 0, what="nothing is held for nobody")


# -- The keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["another type", "junk"])
def test_keys_changed_by_hand_stop_limited_tasks_until_they_are_gone(make_cluster, how: str):
    cluster = make_cluster(**HEARTBEAT, global_concurrency_limits={"emails": 2})
    (worker,) = cluster.start("a", concurrency=3)
    client, app = cluster.client, cluster.app()
    for name in KEYSPACE:
        at = key(name)
        if how == "another type":
            client.delete(at)
            client.set(at, "x")
        elif client.type(at) == b"hash":
            client.hset(at, mapping=dict.fromkeys(client.hkeys(at), "junk"))
        else:
            client.zadd(at, {"junk": 0, "a\x1fb": 0, ":": 0})
    app.send_task("tests.cluster.app.nap", (0, 0.01), queue="celery").get(timeout=10)
    app.send_task("tests.cluster.app.nap", (1, 0.01), queue="emails")
    client.delete(*client.keys(key("*")))
    wait_until(lambda: cluster.oracle.count("e") == 2, seconds=20, what="it heals when they are gone")
    lines = [
        line for line in worker.output().splitlines() if re.search(r"(WARNING|ERROR|CRITICAL).*celery-gconc", line)
    ]
    assert len(lines) < 12, lines
