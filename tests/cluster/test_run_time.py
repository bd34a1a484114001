"""Limits changed while they run: at the shell, from Python, and what that does to tasks and to later workers."""

from __future__ import annotations

import json
import re

import pytest

from tests.kit.keys import key
from tests.kit.servers import wait_until

CONF = {"global_concurrency_limits": {"queue:emails": 2}}


def running(cluster) -> int:
    return cluster.oracle.count("s") - cluster.oracle.count("e")


def test_a_raised_limit_starts_waiting_tasks_within_a_second(make_cluster):
    cluster = make_cluster(**CONF)
    cluster.start("w1", "w2", concurrency=8)  # slots for all of them, whoever takes how many
    cluster.send("nap", 8, 8)
    wait_until(lambda: running(cluster) == 2, what="two run")
    from celery_gconc.protocol.store import Store

    store = Store(cluster.broker, "gconc")
    asked = cluster.oracle.now()
    change = store.set("queue:emails", 5, by="test")
    assert (change.was.max, change.now.max) == (2, 5)
    wait_until(lambda: running(cluster) == 5, seconds=10, what="five run")
    starts = [e.time for e in cluster.oracle.events() if e.kind == "s"]
    assert starts[4] - asked <= 1.0
    store.close()


def test_the_commands_set_pause_resume_and_reset_a_limit_and_say_what_was_and_is(make_cluster):
    cluster = make_cluster(**CONF)
    cluster.start("w1", "w2", concurrency=4)

    def control(*arguments: str) -> list[str]:
        # (Celery waits a second for further answers, unless it is told whose there are.)
        result = cluster.celery("control", "-d", "w1@test,w2@test", *arguments, "--json")
        assert result.returncode == 0, result.stderr
        replies = [reply["ok"] for item in json.loads(result.stdout) for reply in item.values()]
        assert len(replies) == 2
        assert len(set(replies)) == 1, "ten workers handle one broadcast, and all give the same answer"
        return replies[0]

    assert control("set_global_concurrency", "emails", "4") == "queue:emails: was 2 (configured), now 4"
    cluster.send("nap", 300, 0.1)
    wait_until(lambda: cluster.oracle.count("e") >= 12, what="some ran")
    assert control("pause_global_concurrency", "queue:emails") == "queue:emails: was 4, now 4, paused"
    wait_until(lambda: running(cluster) == 0, what="those that ran have ended")
    paused = cluster.oracle.count("s")
    (late,) = cluster.start("w3", concurrency=4)
    shown = cluster.celery("inspect", "global_concurrency", "emails", "-d", late.node, "--json")
    (status,) = json.loads(shown.stdout)[late.node].values()
    assert status["paused"] is True
    assert (status["max"], status["configured"], status["running"]) == (4, 2, 0)
    assert status["waiting"] > 0
    assert "@" in status["set_by"]
    assert cluster.oracle.count("s") == paused, "a worker that starts while a limit is paused obeys too"
    result = cluster.celery("control", "resume_global_concurrency", "emails", "-d", late.node, "--json")
    assert "was 4, paused, now 4" in result.stdout
    cluster.done(paused + 20)
    assert cluster.oracle.peak() == 4
    result = cluster.celery("control", "reset_global_concurrency", "emails", "--json")  # to all three
    assert result.stdout.count("was 4, now 2 (configured)") == 3
    result = cluster.celery("control", "set_global_concurrency", "emails", "unlimited", "-d", late.node, "--json")
    assert "was 2 (configured), now unlimited" in result.stdout
    cluster.send("nap", 12, 1, first=100)
    wait_until(lambda: running(cluster) > 4, what="more run than any limit said")


def test_a_lowered_limit_drains_and_then_holds(make_cluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 6})
    cluster.start("w1", "w2", concurrency=4)
    cluster.send("nap", 300, 0.1)
    wait_until(lambda: cluster.oracle.count("e") >= 12, what="some ran")
    result = cluster.celery("control", "set_global_concurrency", "emails", "1", "-d", "w1@test")
    assert result.returncode == 0, result.stderr
    lowered = cluster.oracle.now() + 0.3  # those that ran then have ended
    ended = cluster.oracle.count("e")
    cluster.send("nap", 10, 0.1, first=1000)
    cluster.done(ended + 10)
    assert cluster.oracle.peak(until=lowered - 1) <= 6
    assert cluster.oracle.peak(since=lowered) == 1


def test_a_limit_set_where_none_was_counts_the_tasks_that_already_run(make_cluster):
    cluster = make_cluster()
    cluster.start("w1", "w2", concurrency=6)  # slots for all of them, whoever takes how many
    cluster.send("held", 6)
    wait_until(lambda: running(cluster) == 6, what="six run without a limit")
    result = cluster.celery("control", "set_global_concurrency", "emails", "6", "-d", "w1@test")
    assert result.returncode == 0, result.stderr
    assert "was unlimited, now 6" in result.stdout
    cluster.send("nap", 2, 0.1, first=100)
    wait_until(lambda: cluster.permits() == 8, what="two wait for the first six")
    cluster.oracle.let_go()
    cluster.done(8)
    assert cluster.oracle.peak() == 6, "the first six count"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set_global_concurrency", "emails", "many"), "a max must be a whole number >= 0, or 'unlimited'; got 'many'"),
        (("set_global_concurrency", "--", "emails", "-1"), "a max must be between 0 and"),
        (("set_global_concurrency", "mail:out", "1"), "for a queue with that name, write queue:mail:out"),
        (("set_global_concurrency", "emails", "1", "2"), "takes arguments: <limit> <max|unlimited>"),
        (("pause_global_concurrency", "nope:x"), "unknown scope 'nope'"),
        (("set_local_concurrency", "none"), "a pool size must be a whole number >= 1; got 'none'"),
    ],
)
def test_bad_input_gets_one_clear_line_and_changes_nothing(make_cluster, arguments, said):
    cluster = make_cluster(**CONF)
    result = cluster.celery("control", *arguments)
    assert result.returncode != 0
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    client = cluster.client
    assert not client.exists(key("overrides"))
    client.close()


def test_with_no_redis_a_command_says_so_in_one_line(make_cluster):
    cluster = make_cluster(**CONF, global_concurrency_redis_url="redis://127.0.0.1:1/0")
    result = cluster.celery("control", "set_global_concurrency", "emails", "4")
    assert result.returncode != 0
    assert "coordination Redis unavailable" in result.stderr
    assert "nothing was changed" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_worker_without_redis_does_not_claim_that_nothing_was_changed(make_cluster):
    cluster = make_cluster(**CONF, global_concurrency_redis_url="redis://127.0.0.1:1/0")
    cluster.start("w1")
    app = cluster.app()
    (reply,) = app.control.broadcast("set_global_concurrency", {"limit": "emails", "max": 4}, reply=True, limit=1)
    app.close()
    assert re.fullmatch(
        "coordination Redis unavailable: .*; it is not known whether the change was applied", reply["w1@test"]["error"]
    )


def test_a_command_that_is_handled_late_does_not_undo_a_newer_value(make_cluster):
    import signal

    from celery_gconc.protocol.store import Store

    cluster = make_cluster(**CONF)
    (worker,) = cluster.start("w1")
    worker.process.send_signal(signal.SIGSTOP)
    cluster.celery("control", "-t", "0.2", "set_global_concurrency", "emails", "7")
    store = Store(cluster.broker, "gconc")
    store.set("queue:emails", 3, by="newer")
    worker.process.send_signal(signal.SIGCONT)
    app = cluster.app()
    wait_until(lambda: app.control.ping([worker.node], timeout=10.0), what="the worker answers")
    assert store.status("queue:emails")["queue:emails"].max == 3
    app.close()
    store.close()


def test_the_pool_is_resized_to_an_absolute_number_and_its_prefetch_follows(make_cluster):
    cluster = make_cluster(**CONF, worker_prefetch_multiplier=2)
    cluster.start("w1", queues="other", concurrency=4)
    app = cluster.app()

    def stats() -> dict:
        return app.control.inspect(["w1@test"], timeout=10.0).stats()["w1@test"]

    assert stats()["prefetch_count"] == 8
    cluster.send("held", 3, queue="other")
    wait_until(lambda: running(cluster) == 3, what="three of four children are busy")
    result = cluster.celery("control", "set_local_concurrency", "2", "-d", "w1@test", "--json")
    assert "pool size was 4, now 3; 1 more to go as tasks end" in result.stdout
    cluster.oracle.let_go()
    cluster.done(3)
    wait_until(lambda: stats()["prefetch_count"] == 4, what="the prefetch count has followed")
    wait_until(lambda: len(stats()["pool"]["processes"]) == 2, what="two children are left")
    result = cluster.celery("control", "set_local_concurrency", "5", "-d", "w1@test", "--json")
    assert "pool size was 2, now 5" in result.stdout
    wait_until(lambda: stats()["prefetch_count"] == 10, what="the prefetch count has followed")
    app.close()


def test_a_pool_that_cannot_change_its_size_says_so(make_cluster):
    cluster = make_cluster(**CONF)
    cluster.start("w1", pool="threads")
    result = cluster.celery("control", "set_local_concurrency", "2", "-d", "w1@test", "--json")
    assert "can't change its size while it runs: restart the worker with -c 2" in result.stdout
