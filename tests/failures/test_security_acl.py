"""The least that our user may do in Redis: the lines of security.md suffice, and ours has no command too many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from celery_gconc.errors import StoreUnavailable
from celery_gconc.protocol.session_store import SessionStore
from celery_gconc.worker.session.counts import Counters
from tests.kit.keys import key
from tests.kit.servers import ROOT, RedisServer, redis_server, wait_until
from tests.store import namespace as kit
from tests.store.test_model import Model

PAGE = (ROOT / "docs/explanation/security.md").read_text()

#: The lines of the page: for a Redis that coordinates, and for one that is broker and result backend too.
OURS, ALL = (line.split()[2:] for line in re.findall(r"^ACL SETUSER .*$", PAGE, re.MULTILINE))

COMMANDS = [word for word in OURS if word.startswith("+")]


class Guarded:
    """A Redis with users."""

    def __init__(self, server: RedisServer) -> None:
        self.url = server.url
        self.admin = redis.Redis.from_url(server.url, decode_responses=True)

    def user(self, line: list[str], without: str = "") -> str:
        """Make the user of a line; the URL with its name and password."""
        name = line[0]
        self.admin.execute_command("ACL", "SETUSER", name, "reset", *(word for word in line[1:] if word != without))
        self.admin.execute_command("ACL", "LOG", "RESET")
        return self.url.replace("://", f"://{name}:PASSWORD@")

    def refusals(self) -> list[str]:
        """What was refused to anybody."""
        return [entry["object"] for entry in self.admin.execute_command("ACL", "LOG")]


@pytest.fixture(scope="module")
def guarded(redis_process: Any) -> Iterator[Guarded]:
    with redis_server() as server:
        yield Guarded(server)


@pytest.fixture
def store_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the store's tests use their store with the rights of a user; they look at the keys as they always do."""

    def use(url: str) -> None:
        monkeypatch.setattr(kit, "SessionStore", lambda _, prefix, **how: SessionStore(url, prefix, **how))

    return use


@pytest.mark.timeout(400)
def test_the_model_of_the_store_holds_under_the_line(guarded: Guarded, store_of: Any):
    store_of(guarded.user(OURS))

    class Restricted(Model):
        url = guarded.url

    run_state_machine_as_test(
        Restricted,
        settings=settings(
            max_examples=6,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert guarded.refusals() == []


def tour(guarded: Guarded) -> dict[str, Any]:
    """Something of everything, in an empty Redis; what came of it."""
    guarded.admin.flushall()
    guarded.admin.script_flush()
    namespace = kit.Namespace(guarded.url)
    try:
        pubsub = namespace.store.subscribe("a survivor")
        found: dict[str, Any] = {"policy": namespace.store.server_info("memory").get("maxmemory_policy", "")}
        first = namespace.session("a", slots=1, config={"app": 1})
        found["is careful"] = first.opened.shut > kit.INTERVAL
        found["identified"] = first.opened.identified
        namespace.reopen()
        held = first.ask("app")
        second = namespace.session("b", config={"app": 1}).listen()
        second.ask("app")
        namespace.elapse(kit.INTERVAL)
        first.release(held)
        found["told"] = bool(second.hear())
        found["ticket"] = namespace.store.ticket()
        namespace.set("queue:x", 3)
        namespace.store.pause("queue:x", True, by="test")
        namespace.store.pause("queue:y", True, by="test", duration=0.001)
        wait_until(lambda: not namespace.store.status("queue:y")["queue:y"].paused, what="the end of the pause")
        namespace.store.reset("queue:x", by="test")
        found["limits"] = len(namespace.store.status().limits)
        found["holders"] = len(namespace.store.holders("app", 5))
        found["waiting"] = len(namespace.store.waiting("app", 5)) + len(namespace.store.find("unknown"))
        # So many as there may be: those of limits that are no more make room.
        gone = [f"gone{number}" for number in range(10000)]
        guarded.admin.hset(key("totals"), mapping=dict.fromkeys(gone, "{}"))
        counters = Counters()
        counters.released(("app",), 1.0, 0.0, 1.0)
        with counters.collect(1.0, {"app": 1}) as record:
            namespace.store.record("a", record)
        guarded.admin.hdel(key("totals"), *gone)
        found["history"] = len(namespace.store.history("app", 60)) + len(namespace.store.totals().limits)
        found["audit"] = namespace.store.audit(repair=True)
        for name in "ab":
            namespace.store.close_session(name)
        namespace.store.ask(pubsub)
        heard = iter(lambda: pubsub.get_message(timeout=5), None)  # of the table's changes first
        found["hears"] = next(message["type"] for message in heard if message["type"] != "message")
        pubsub.close()
        return found
    finally:
        namespace.close()


def test_the_line_suffices_for_every_script(guarded: Guarded, store_of: Any):
    store_of(guarded.user(OURS))
    found = tour(guarded)
    assert found == {
        "policy": "noeviction", "is careful": True, "identified": True, "told": True,
        "ticket": 1, "limits": 2, "holders": 1, "waiting": 0, "history": 2, "audit": (), "hears": "pong",
    }  # fmt: skip
    assert guarded.refusals() == []


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_of_the_line_can_be_left_out(guarded: Guarded, store_of: Any, command: str):
    store_of(guarded.user(OURS))
    everything = tour(guarded)
    store_of(guarded.user(OURS, without=command))
    try:
        found = tour(guarded)
    except (StoreUnavailable, redis.ResponseError) as exc:
        found = {"error": str(exc)}
        assert "PASSWORD" not in str(exc)
    assert found != everything
    assert command in ("+info", "+pubsub|channels") or "error" in found, "it goes on without these two only"
    assert guarded.refusals()


@pytest.mark.parametrize("word", [word for word in OURS if word[0] in "~&"])
def test_neither_its_keys_nor_its_channels_can_be_left_out(guarded: Guarded, store_of: Any, word: str):
    store_of(guarded.user(OURS, without=word))
    with pytest.raises(StoreUnavailable):
        tour(guarded)


def test_the_user_can_touch_nothing_else(guarded: Guarded):
    with redis.Redis.from_url(guarded.user(OURS)) as client:
        guarded.admin.set("celery", "x")
        for command in (
            ("GET", "celery"), ("HGET", "celery", "x"), ("HSET", "{gconc}:v1:meta", "x", 1), ("PUBLISH", "other", "x"),
            ("EVAL", "return redis.call('GET', KEYS[1])", 1, "celery"), ("FLUSHALL",),
            ("KEYS", "*"), ("CONFIG", "GET", "*"), ("CLIENT", "LIST"),
            ("DEBUG", "SLEEP", 0), ("DEL", key("meta")), ("PSUBSCRIBE", "*"), ("ACL", "LIST"),
            ("SHUTDOWN",), ("MONITOR",),
        ):  # fmt: skip
            with pytest.raises(redis.ResponseError):
                client.execute_command(*command)


def test_workers_run_under_the_line(guarded: Guarded, make_cluster):
    guarded.admin.flushall()
    cluster = make_cluster(
        global_concurrency_redis_url=guarded.user(OURS),
        global_concurrency_limits={"emails": 2},
        global_concurrency_heartbeat_interval=0.5,
        global_concurrency_heartbeat_timeout=3,
    )
    run_tasks(cluster)
    assert guarded.refusals() == []


def test_workers_run_under_the_line_for_a_redis_that_is_the_broker_too(guarded: Guarded, make_cluster):
    guarded.admin.flushall()
    url = guarded.user(ALL)
    cluster = make_cluster(
        broker=url,
        global_concurrency_limits={"emails": 2},
        global_concurrency_heartbeat_interval=0.5,
        global_concurrency_heartbeat_timeout=3,
    )
    cluster.redis = url
    run_tasks(cluster)
    assert guarded.refusals() == []


def run_tasks(cluster: Any) -> None:
    """More than may run at once, and a change meanwhile."""
    cluster.start("a", "b", concurrency=2)
    app = cluster.app()
    results = [app.send_task("tests.cluster.app.nap", (n, 0.05), queue="emails") for n in range(40)]
    told = cluster.celery("control", "set_global_concurrency", "emails", "3")
    assert "now 3" in told.stdout, told.stdout + told.stderr
    assert "queue:emails" in cluster.celery("inspect", "global_concurrency").stdout
    for result in results:
        result.get(timeout=30)
    wait_until(lambda: cluster.oracle.count("e") == 40, what="all have run")
    assert cluster.oracle.peak() <= 3
    for worker in cluster.workers:
        worker.process.terminate()
    for worker in cluster.workers:
        assert worker.process.wait(30) == 0
        assert "PASSWORD" not in worker.output()
