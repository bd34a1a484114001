"""What a worker tells of its limited tasks: signals, task events, the log, counters, and rows of ``inspect stats``."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.events.state import State

from celery_gconc import GlobalConcurrency, Operations
from tests.kit.servers import wait_until
from tests.kit.workers import Cluster


@pytest.fixture
def operations(redis_url: str) -> Iterator[Operations]:
    """What any process may ask."""
    from celery import Celery

    asking = Operations(Celery("asking", broker=redis_url, set_as_current=False))
    yield asking
    asking.close()


def signals_of(cluster: Cluster) -> list[tuple[str, str, dict[str, Any]]]:
    """What the app's receivers told the oracle."""
    return [tuple(json.loads(line)) for line in cluster.oracle.client.lrange("signals", 0, -1)]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_each_task_sends_its_signals_in_order_with_its_times(
    make_cluster: Callable[..., Cluster], pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SIGNALS", "1")
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1})
    cluster.start("one", pool=pool)
    began = cluster.oracle.now()
    cluster.send("nap", 3, 0.3)
    wait_until(lambda: sum(kind == "permit_released" for kind, *_ in signals_of(cluster)) == 3, what="three releases")
    took = cluster.oracle.now() - began
    by_task: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for kind, sender, facts in signals_of(cluster):
        assert sender == "tests.cluster.app.nap"
        assert facts["limits"] == ["queue:emails"]
        by_task.setdefault(facts["task_id"], []).append((kind, facts))
    assert len(by_task) == 3
    waits, holds = [], []
    for told in by_task.values():
        kinds = [kind for kind, _ in told]
        assert kinds[-2:] == ["permit_granted", "permit_released"]
        assert kinds[:-2] in ([], ["permit_waiting"])
        holds.append(told[-1][1]["held"])
        waits.append(told[-2][1]["waited"])
    first, second, third = sorted(waits)
    assert min(holds) >= 0.3
    assert 0 <= first <= took - sum(holds), "one after the other: whatever the machine has to do besides"
    assert first + 0.3 <= second + 0.05
    assert second + 0.3 <= third + 0.05 <= took - min(holds) + 0.05
    assert sum(kinds[0][0] == "permit_waiting" for kinds in by_task.values()) >= 2


def test_a_changed_limit_is_a_signal_in_each_worker(
    make_cluster: Callable[..., Cluster], operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SIGNALS", "1")
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1})
    cluster.start("one", "two", concurrency=1)

    def changes() -> list[tuple[str, Any, Any]]:
        told = [(sender, facts["was"], facts["max"]) for kind, sender, facts in signals_of(cluster)]
        return [change for change in told if change[0] == "queue:emails"]

    operations.set("emails", 5)
    wait_until(lambda: changes() == [("queue:emails", 1, 5)] * 2, what="both workers told of 5")
    operations.pause("emails")
    wait_until(lambda: changes()[2:] == [("queue:emails", 5, 0)] * 2, what="both workers told of the pause")


def test_a_lost_lease_is_a_signal(
    make_cluster: Callable[..., Cluster], operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SIGNALS", "1")
    cluster = make_cluster(
        global_concurrency_limits={"queue:emails": 1},
        global_concurrency_heartbeat_interval=0.5,
        global_concurrency_heartbeat_timeout=2.0,
    )
    (worker,) = cluster.start("one", concurrency=1)
    (session,) = operations.status().sessions
    worker.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: not operations.status().sessions, what="the end of its lease")
    worker.process.send_signal(signal.SIGCONT)
    wait_until(lambda: any(kind == "lease_lost" for kind, *_ in signals_of(cluster)), what="the signal")
    (lost,) = [sender for kind, sender, _ in signals_of(cluster) if kind == "lease_lost"]
    assert lost == session.session
    wait_until(lambda: operations.totals().lease_losses == 1, what="the counter")


def test_a_parked_task_is_waiting_then_started_then_a_success_to_whoever_reads_the_events(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1})
    app = cluster.app()
    GlobalConcurrency(app)  # as the app has that Flower is started with
    state, seen, heard = State(), {}, threading.Event()

    def note(event: dict[str, Any]) -> None:
        heard.set()
        state.event(event)
        if uuid := event.get("uuid"):
            told = seen.setdefault(uuid, [])
            if not told or told[-1] != state.tasks[uuid].state:
                told.append(state.tasks[uuid].state)

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None}, daemon=True)
        thread.start()
        cluster.start("one", options=("-E",))
        assert heard.wait(30)  # that it is there, or a heartbeat: from now on it hears everything
        cluster.send("nap", 2, 0.5)
        wait_until(lambda: sum(told[-1] == "SUCCESS" for told in list(seen.values())) == 2, what="two successes")
        receiver.should_stop = True
    assert ["RECEIVED", "WAITING", "STARTED", "SUCCESS"] in list(seen.values())
    thread.join(10)


def test_task_events_of_ours_can_be_turned_off(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, global_concurrency_task_events=False)
    app = cluster.app()
    kinds: list[str] = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: kinds.append(event["type"])})
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None}, daemon=True)
        thread.start()
        cluster.start("one", options=("-E",))
        wait_until(lambda: kinds, what="that it is there, or a heartbeat: from now on it hears everything")
        cluster.send("nap", 2, 0.3)
        wait_until(lambda: kinds.count("task-succeeded") == 2, what="two successes")
        receiver.should_stop = True
    assert "task-received" in kinds
    assert "task-waiting" not in kinds
    thread.join(10)


def test_a_long_wait_is_one_line_in_the_log_that_names_the_limit_and_a_short_one_none(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, global_concurrency_wait_warning=1.5)
    (worker,) = cluster.start("one")
    cluster.send("nap", 4, 0.05)
    cluster.done(4)
    assert "has waited" not in worker.output()
    assert worker.output().count("celery-gconc: ") == 1  # the line of its session: nothing of the ordinary case
    cluster.send("held", 3, first=10)
    wait_until(lambda: "has waited" in worker.output(), what="the warning")
    warned = cluster.oracle.now()
    wait_until(lambda: cluster.oracle.now() > warned + 1.0, what="four looks, each of which could warn again")
    cluster.oracle.let_go()
    cluster.done(7)
    lines = [line for line in worker.output().splitlines() if "has waited" in line]
    assert len(lines) == 1
    assert "WARNING" in lines[0]
    assert "for a permit under queue:emails, and 1 more here" in lines[0]
    assert "gconc explain" in lines[0]


def test_what_workers_count_is_there_for_all_to_read(
    make_cluster: Callable[..., Cluster], operations: Operations
) -> None:
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2}, global_concurrency_heartbeat_interval=0.5)
    cluster.start("one", "two", concurrency=2)
    cluster.send("nap", 20, 0.1)
    cluster.done(20)

    def of_emails() -> tuple[int, int, int]:
        found = [limit for limit in operations.totals().limits if limit.limit == "queue:emails"]
        return (found[0].grants, found[0].wait.count, found[0].hold.count) if found else (0, 0, 0)

    wait_until(lambda: of_emails() == (20, 20, 20), what="20 of each")
    (limit,) = operations.totals().limits
    starts = sorted(event.time for event in cluster.oracle.events() if event.kind == "s")
    ends = sorted(event.time for event in cluster.oracle.events() if event.kind == "e")
    assert limit.hold.sum == pytest.approx(sum(ends) - sum(starts), rel=0.5)
    history = operations.history("emails")
    assert sum(sample.weight for sample in history) == pytest.approx(20)
    assert operations.status("emails")["queue:emails"].per_minute == 20


def test_requests_that_a_worker_holds_behind_those_in_line_are_counted(
    make_cluster: Callable[..., Cluster], operations: Operations
) -> None:
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2}, global_concurrency_heartbeat_interval=0.5)
    cluster.start("one", concurrency=2)
    cluster.send("nap", 8, 3.0)

    def held() -> int:
        limit = operations.status("emails")["queue:emails"]
        return limit.running + limit.waiting + limit.parked

    wait_until(lambda: held() == 8 - cluster.waiting_in("emails") and held() > 3, what="all that was fetched")


def test_inspect_stats_has_a_readable_row_for_each_limit(
    make_cluster: Callable[..., Cluster], operations: Operations
) -> None:
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2, "task:tests.cluster.app.two": 1})
    cluster.start("one")
    operations.set("emails", 1, reason="a sale", by="ann")
    cluster.send("nap", 3, 5.0)
    inspect = cluster.app().control.inspect(["one@test"], timeout=5)

    def row() -> str:
        return str(inspect.stats()["one@test"].get("gconc queue:emails"))

    wait_until(lambda: row().startswith("1 of 1 running, 2 waiting (longest "), what="the row")
    assert row().endswith("s); set by ann: a sale")
    stats = inspect.stats()["one@test"]
    assert stats["gconc task:tests.cluster.app.two"] == "0 of 1 running"
    assert stats["gconc as of"].endswith("UTC (reload to update)")
    assert stats["global_concurrency"]["running"] == 1
    assert stats["global_concurrency"]["version"]


def test_a_worker_says_what_it_does_with_a_task(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, worker_prefetch_multiplier=4)
    cluster.start("one", concurrency=2)
    app = cluster.app()

    def send(*, queue: str = "emails", **options: Any) -> str:
        return str(app.send_task("tests.cluster.app.nap", (1, 20.0), queue=queue, **options).id)

    inspect = app.control.inspect(["one@test"], timeout=5)

    def ask(task_id: str) -> dict[str, Any]:
        reply = inspect._request("global_concurrency_task", task_id=task_id)
        return dict((reply or {}).get("one@test") or {})

    running = send()
    wait_until(lambda: ask(running).get("state") == "running", what="it runs")
    assert ask(running)["limits"] == ["queue:emails"]
    first, second = send(), send()
    wait_until(lambda: ask(second).get("state") == "parked", what="it is parked")
    assert (ask(first)["ahead"], ask(second)["ahead"]) == (0, 1)
    assert ask(second)["task"] == "tests.cluster.app.nap"
    later = send(queue="celery", countdown=600)
    wait_until(lambda: ask(later).get("state") == "scheduled", what="it is scheduled")
    app.control.revoke(second)
    wait_until(lambda: ask(second).get("revoked") is True, what="it is revoked")
    send(queue="celery")
    unlucky = send()
    wait_until(lambda: ask(unlucky).get("state") == "waits for a slot", what="it waits for a slot")
    assert ask("unknown") == {}


def test_a_task_is_counted_from_its_grant_to_its_end_under_the_same_limits_whatever_is_set_meanwhile(
    make_cluster: Callable[..., Cluster], operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SIGNALS", "1")
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 3}, global_concurrency_heartbeat_interval=0.5)
    cluster.start("one")
    cluster.send("held", 2)
    wait_until(lambda: cluster.oracle.count("s") == 2, what="both run")
    operations.set("emails", None)  # it covers them no more
    operations.set("app", 9)  # this does from now on
    wait_until(
        lambda: sum(kind == "limit_changed" for kind, *_ in signals_of(cluster)) == 2, what="it has heard of both"
    )
    cluster.oracle.let_go()
    cluster.done(2)

    def counts() -> dict[str, tuple[int, int]]:
        return {limit.limit: (limit.grants, limit.hold.count) for limit in operations.totals().limits}

    wait_until(lambda: counts().get("queue:emails") == (2, 2), what="two grants and two ends")
    assert set(counts()) == {"queue:emails"}
    told = [(kind, facts["limits"]) for kind, _, facts in signals_of(cluster) if kind.startswith("permit_")]
    assert told.count(("permit_granted", ["queue:emails"])) == 2
    assert told.count(("permit_released", ["queue:emails"])) == 2
