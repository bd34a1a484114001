"""``celery gconc explain``: in every state that a task can be in, with real workers, and with none."""

from __future__ import annotations

import json
import re
import signal
from datetime import datetime, timedelta, timezone

import pytest

from celery_gconc.brokers import backlog
from tests.cli.case import LONG, QUICK, MakeCluster, case_of
from tests.kit.servers import redis_server, wait_until
from tests.kit.workers import SHORT_POLLS


def test_from_its_queue_to_its_end_under_a_full_limit(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, **QUICK)
    with case_of(cluster) as case:
        first, second = case.send("held"), case.send("nap", 0.1)
        found = case.explain(second)
        assert found.answer == "No worker has taken it yet: it is message 2 of 2 in queue emails; no worker answers."
        assert (found.state, found.queue, found.queue_position, found.queue_length) == ("queued", "emails", 2, 2)
        assert (found.task, found.limits) == ("tests.cluster.app.nap", ("queue:emails",))

        cluster.start("w1", concurrency=2)
        case.started()
        case.waits("emails")
        found = case.explain(first)
        assert (found.state, found.node, found.limits) == ("running", "w1@test", ("queue:emails",))
        assert re.fullmatch(
            r"It has been running on w1@test for \d+\.\d s, with a permit for queue:emails\.", found.answer
        )
        found = case.explain(second)
        assert re.fullmatch(
            r"It is waiting for a permit: queue:emails is full \(.*\)\. It is next in line\.", found.answer
        )
        assert (found.state, found.position, found.line, found.node) == ("waiting", 1, "queue:emails", "w1@test")
        assert [holder.task_id for holder in found.holders] == [first]
        assert f"held[{first}] on w1@test (for" in " ".join(found.details)

        cluster.oracle.let_go()
        cluster.done(2)
        found = wait_until(lambda: (it := case.explain(second)).state == "succeeded" and it)
        assert re.fullmatch(r"It succeeded at \S+\.", found.answer)


def test_the_position_in_line_and_the_expected_wait_come_from_recent_tasks(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2}, **QUICK)
    with case_of(cluster) as case:
        cluster.start("w1", concurrency=4)
        cluster.send("nap", 10, 0.2)
        cluster.done(10)
        wait_until(lambda: case.operations.history("emails"), what="ended tasks are recorded")
        waiting = [case.send("nap", LONG) for _ in range(20)]
        case.waits("emails", 2)
        third = next(waiter for waiter in case.operations.waiting("emails") if waiter.position == 2)
        found = case.explain(third.task_id)
        assert (found.state, found.position) == ("waiting", 2)
        # Tasks of 0.2 s take longer on a machine that is busy; what is told is what is expected.
        assert 0.1 <= found.expected_wait <= 2.0
        assert f"It is 2nd in line and should start in about {found.expected_wait:.1f} s." in found.answer

        parked = case.explain(waiting[2 + len(case.operations.waiting("emails"))])
        assert (parked.state, parked.position) == ("parked", None)
        last = case.explain(waiting[-1])
        assert last.state in ("queued", "parked")
        if last.state == "queued":
            assert "queue:emails is full (2 of " in last.answer
        assert last.expected_wait is not None
        assert last.expected_wait > found.expected_wait


def test_a_task_whose_limits_have_room_waits_for_a_slot(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 5}, **QUICK)
    with case_of(cluster) as case:
        cluster.start("w1", concurrency=1)
        uncovered = case.send("nap", 6.0, queue="celery")
        case.started()
        covered = case.send("nap", 0.1)
        case.waits("emails")
        behind = case.send("nap", 0.1, queue="celery")
        case.taken(0, "celery")
        found = case.explain(uncovered)
        assert re.fullmatch(r"It has been running on w1@test for \d+\.\d s; no limit covers it\.", found.answer)
        found = case.explain(covered)
        assert (found.state, found.limits) == ("waiting for a slot", ("queue:emails",))
        assert found.answer == ("It is waiting for a free slot on w1@test: all slots are busy; queue:emails has room.")
        found = case.explain(behind)
        assert (found.state, found.limits, found.node) == ("waiting for a slot", (), "w1@test")


def test_tasks_that_celery_itself_holds_back(make_cluster: MakeCluster):
    rate = {"tests.cluster.app.late": {"rate_limit": "1/h"}}
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, task_annotations=rate, **QUICK)
    with case_of(cluster) as case:
        cluster.start("w1", concurrency=2)
        eta = datetime.now(timezone.utc) + timedelta(hours=3)
        later = case.send("nap", 0.1, eta=eta)
        case.send("late", 0.1, queue="celery")
        limited = case.send("late", 0.1, queue="celery")
        cluster.done(1)
        case.taken(0, "celery")
        case.taken(0)
        found = case.explain(later)
        assert found.state == "scheduled"
        assert "It is held back on w1@test until its ETA or countdown, " in found.answer
        assert "3 h from now" in found.answer
        found = case.explain(limited)
        assert (found.state, found.task) == ("rate limited", "tests.cluster.app.late")
        assert "by its task's rate_limit (1/h)" in found.answer


def test_tasks_that_ended_badly(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, **QUICK)
    with case_of(cluster) as case:
        cluster.start("w1", concurrency=2)
        failed = case.send("outcome", "failure")
        expired = case.send("nap", 0.1, expires=datetime.now(timezone.utc) - timedelta(seconds=5))
        wait_until(lambda: case.app.AsyncResult(failed).state == "FAILURE", what="it has failed")
        case.operations.pause("emails")
        case.change_is_known()
        revoked = case.send("nap", 0.1)
        case.waits("emails")
        case.app.control.revoke(revoked)
        # (Celery 5.7 writes REVOKED when the worker hears of it, a moment before the worker lets go of the task.)
        wait_until(lambda: not case.operations.waiting("emails"), what="it is revoked while it is parked")
        found = case.explain(failed)
        assert found.state == "failed"
        assert re.fullmatch(r"It failed at \S+: ValueError: failure\.", found.answer)
        found = case.explain(expired)
        assert found.state == "revoked"
        assert found.answer.startswith("It expired before it started")
        found = case.explain(revoked)
        assert found.state == "revoked"
        assert found.answer.startswith("It was revoked before it started")


def test_a_message_in_a_queue_that_nobody_reads(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        case.cluster.start("w1", concurrency=1)
        unread = case.send("nap", 0.1, queue="other")
        found = case.explain(unread)
        assert "message 1 of 1 in queue other; no worker that answers consumes other" in found.answer
        odd = str(case.cluster.app().send_task("tests.cluster.app.nap", (1,), queue="odd one").id)  # our app knows none
        assert case.explain(odd, queues=["odd one"]).state == "queued"
        case.app.control.revoke(unread)
        found = wait_until(lambda: (it := case.explain(unread)).details and it)
        assert found.state == "queued"
        assert "It is revoked: a worker that takes it will discard it." in found.details


def test_the_position_in_a_queue_counts_priorities_and_many_messages(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        low = case.send("nap", queue="other", priority=9)
        case.cluster.send("nap", 700, queue="other")
        high = case.send("nap", queue="other", priority=0)
        found = case.explain(low)
        assert (found.queue_position, found.queue_length) == (702, 702)
        assert case.explain(high).queue_position == 701


def test_a_worker_that_died(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, **QUICK)
    with case_of(cluster) as case:
        (worker,) = cluster.start("w1", concurrency=2)
        running, parked = case.send("late", LONG), case.send("late", LONG)
        case.started()
        wait_until(lambda: [one.task_id for one in case.operations.waiting("emails")] == [parked], what="it is in line")
        worker.kill()
        found = case.explain(running)
        assert (found.state, found.node) == ("running", "w1@test")
        assert "w1@test did not answer; this is what it last reported to Redis." in found.details
        assert case.explain(parked).state == "waiting"
        wait_until(lambda: not case.operations.status().sessions, what="its lease has ended")
        found = case.explain(parked)
        assert found.state == "taken"
        assert re.fullmatch(
            r"A worker took it from queue emails .* ago, and no worker that answers has it\. If that worker is gone, "
            r"the broker redelivers it in about (60|59) min \(visibility_timeout\)\.",
            found.answer,
        )


def test_a_worker_that_died_and_was_started_anew(make_cluster: MakeCluster):
    conf = {**QUICK, "global_concurrency_heartbeat_timeout": 30.0}
    with case_of(make_cluster(global_concurrency_limits={"queue:emails": 1}, **conf)) as case:
        (worker,) = case.cluster.start("w1", concurrency=2)
        running, parked = case.send("late", LONG), case.send("late", LONG)
        case.started()
        wait_until(lambda: [one.task_id for one in case.operations.waiting("emails")] == [parked], what="it is in line")
        worker.kill()
        case.cluster.start("w1", concurrency=2)
        wait_until(lambda: len(case.operations.status().sessions) == 2, what="the former session lives on for a while")
        for task, has in ((running, "counts as running"), (parked, "stands in line")):
            found = case.explain(task)
            assert found.state == "taken", found
            assert "the broker redelivers it in about" in found.answer
            assert re.search(
                rf"It still {has} for an earlier process of w1@test until that one's lease ends, in \d+ s\.",
                " ".join(found.details),
            )


def test_a_queued_task_names_its_limit_whether_or_not_a_worker_answers(make_cluster: MakeCluster):
    with case_of(make_cluster(global_concurrency_limits={"queue:emails": 1}, **QUICK)) as case:
        case.operations.pause("emails", by="ann@host", reason="mail server is down")
        task = case.send("nap")
        found = case.explain(task)
        assert "in queue emails; queue:emails was paused by ann@host " in found.answer
        assert found.answer.endswith(' ("mail server is down"), and no worker answers.')
        assert found.line == "queue:emails"
        case.operations.resume("emails")
        case.cluster.start("w1", pool="solo", concurrency=1)
        case.cluster.done(1)
        busy = case.send("nap", LONG)
        case.started(2)
        case.silent = 1
        wait_until(lambda: case.explain(busy).state == "running", what="Redis knows that it runs")
        case.cluster.send("nap", 9, queue="emails")  # more than it prefetches
        left = wait_until(lambda: (it := case.explain(case.send("nap"))).state == "queued" and it)
        assert ", and no worker answers (w1@test is alive according to Redis)" in left.answer


def test_only_those_that_wait_for_the_same_limit_are_before_a_parked_task(make_cluster: MakeCluster):
    limits = {"queue:emails": 1, "task:tests.cluster.app.late": 1}
    with case_of(make_cluster(global_concurrency_limits=limits, **QUICK)) as case:
        case.cluster.start("w1", concurrency=4)
        case.send("nap", LONG)
        case.send("late", LONG, queue="celery")
        case.started(2)
        for _ in range(6):
            case.send("nap", LONG)
        case.waits("emails")
        late = [case.send("late", LONG, queue="celery") for _ in range(4)]
        case.taken(0, "celery")
        found = wait_until(lambda: (it := case.explain(late[-1])).state == "parked" and it)
        assert (
            "It waits on w1@test, behind 3 others of that worker: task:tests.cluster.app.late is full" in found.answer
        )


def test_a_queue_that_only_routes_name_is_looked_in(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        case.app.conf.task_routes = {"tests.cluster.app.*": {"queue": "routed"}}
        found = case.explain(case.send("nap", queue="routed"))
        assert (found.state, found.queue) == ("queued", "routed")


@pytest.mark.parametrize(
    ("backend", "why"),
    [("disabled://", "there is no result backend"), ("rpc://", "results of rpc:// go to whoever sent the task")],
)
def test_a_result_backend_that_nobody_can_ask_is_named(make_cluster: MakeCluster, backend: str, why: str):
    with case_of(make_cluster(result_backend=backend, **QUICK)) as case:
        found = case.explain("no-such-task")
        assert found.state == "unknown"
        assert f"Its result is unknown: {why}" in " ".join(found.details)


def test_a_broker_that_says_nothing_keeps_nobody(make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backlog, "SILENCE_SECONDS", 0.5)
    with redis_server() as silent, case_of(make_cluster(silent.url, **QUICK)) as case:
        case.app.conf.global_concurrency_redis_url = case.cluster.redis
        silent.process.send_signal(signal.SIGSTOP)
        found = case.explain("no-such-task")
        assert found.state == "unknown"
        assert "Neither the queues nor the workers could be asked: broker unavailable: " in found.details[-1]


def test_workers_without_the_extension(make_cluster: MakeCluster):
    cluster = make_cluster(**QUICK)
    cluster.module = "tests.cli.plain"
    with case_of(cluster) as case:
        cluster.start("plain", concurrency=1)
        running = case.send("nap", 8.0)
        wait_until(lambda: "received" in cluster.workers[0].output(), what="it is received")
        behind = case.send("nap", LONG)
        later = case.send("nap", 0.1, countdown=LONG)
        case.taken(0)
        found = case.explain(running)
        assert re.fullmatch(r"It has been running on plain@test for \d+\.\d s; no limit covers it\.", found.answer)
        assert case.explain(behind).state == "waiting for a slot"
        found = case.explain(later)
        assert (found.state, found.node) == ("scheduled", "plain@test")
        case.app.control.revoke("some task")
        found = wait_until(lambda: (it := case.explain("some task")).state == "revoked" and it)
        assert "revoked" in found.answer


def test_a_task_that_is_tried_again(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, **QUICK)
    cluster.module = "tests.cli.app"
    with case_of(cluster) as case:
        (worker,) = cluster.start("w1", concurrency=2)
        task = str(case.app.send_task("tests.cli.app.again", (1,), queue="emails").id)
        found = wait_until(lambda: (it := case.explain(task)).state == "scheduled" and it)
        assert "300 s from now" in found.answer or "5 min from now" in found.answer
        assert "The result backend has RETRY, from an earlier run." in found.details
        wait_until(lambda: not case.operations.find(task), what="its permit is free")
        worker.kill()
        cluster.client.delete("unacked", "unacked_index")
        found = case.explain(task)
        assert (found.state, found.result) == ("retrying", "RETRY")


def test_a_worker_that_is_too_busy_to_answer(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, task_track_started=True, **QUICK)
    with case_of(cluster) as case:
        (worker,) = cluster.start("w1", pool="solo", concurrency=1)
        covered = case.send("nap", LONG)
        case.started()
        case.silent = 1
        found = case.explain(covered)
        assert (found.state, found.limits) == ("running", ("queue:emails",))
        assert "w1@test did not answer; this is what it last reported to Redis." in found.details
        worker.kill()
        case.silent = 0
        cluster.start("w2", pool="solo", concurrency=1)
        uncovered = case.send("late", LONG, queue="celery")
        wait_until(lambda: case.app.AsyncResult(uncovered).state == "STARTED", what="it has started")
        case.silent = 1
        found = case.explain(uncovered)
        assert found.answer.startswith("The result backend says that it has started, but no worker that answers has it")
        assert found.answer.endswith(
            " If it is gone, the broker redelivers the task in about 60 min (visibility_timeout)."
        )


def test_a_task_with_several_limits(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"pool:db": 1, "app": 50}, **QUICK)
    with case_of(cluster) as case:
        cluster.start("w1", concurrency=4)
        case.send("pooled", LONG)
        case.started()
        task = case.send("pooled", 0.1)
        case.waits("pool:db")
        found = wait_until(lambda: (it := case.explain(task)).state == "waiting" and it)
        assert (found.line, found.limits) == ("pool:db", ("app", "pool:db"))
        assert re.search(r"pool:db is full \(.*\)\. It is next in line", found.answer)
        case.operations.pause("app", reason="stop everything")
        found = wait_until(lambda: "app was paused" in (it := case.explain(task)).answer and it)
        assert '("stop everything")' in found.answer


def test_keys_with_a_prefix_are_found_in_the_broker(make_cluster: MakeCluster):
    with case_of(make_cluster(broker_transport_options={"global_keyprefix": "shop:"}, **QUICK)) as case:
        case.send("nap")
        found = case.explain(case.send("nap"))
        assert (found.state, found.queue_position, found.queue_length) == ("queued", 2, 2)


def test_with_rabbitmq(make_cluster: MakeCluster, rabbitmq_url: str):
    cluster = make_cluster(rabbitmq_url, global_concurrency_limits={"queue:emails": 1}, **QUICK)
    with case_of(cluster) as case:
        case.app.send_task("tests.cluster.app.nap", (1, 0.1), queue="celery")
        first = case.send("nap", LONG)
        found = case.explain(first)
        assert found.state == "unknown"
        assert "It may be in queue celery, which holds 1 message, or in emails, which holds 1 message." in found.answer
        cluster.start("w1", concurrency=2)
        case.started(2)
        second, third = case.send("nap", LONG), case.send("nap", LONG)
        case.waits("emails")
        assert case.explain(first).state == "running"
        assert case.explain(second).answer.startswith("It is waiting for a permit: queue:emails is full (1 of ")
        assert case.explain(third).state in ("parked", "waiting")
        later = case.send("nap", 0.1, countdown=LONG)
        found = wait_until(lambda: (it := case.explain(later)).state != "unknown" and it)
        assert found.state == "scheduled"


def test_at_a_shell_with_nothing_there(make_cluster: MakeCluster):
    cluster = make_cluster(broker_transport_options=SHORT_POLLS, **QUICK)
    done = cluster.celery("gconc", "explain", "no-such-task", "--timeout", "0.2")
    assert done.returncode == 1
    assert "Not found. Searched: Redis, workers (none answered), 6 queues and the result backend." in done.stdout


def test_at_a_shell_as_json(make_cluster: MakeCluster):
    conf = {"global_concurrency_limits": {"queue:emails": 1}, "broker_transport_options": SHORT_POLLS}
    with case_of(make_cluster(**conf, **QUICK)) as case:
        task = case.send()
        done = case.cluster.celery("gconc", "explain", task, "--json", "--timeout", "0.2")
        told = json.loads(done.stdout)
        assert (done.returncode, told["state"], told["queue_position"]) == (0, "queued", 1)
        assert told["limits"] == ["queue:emails"]


def test_without_redis_it_says_so_in_one_line(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_redis_url="redis://127.0.0.1:1/0")
    done = cluster.celery("gconc", "explain", "no-such-task")
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1
    assert "redis://127.0.0.1:1/0" in done.stderr or "the coordination Redis" in done.stderr


def test_without_the_broker_redis_still_answers(make_cluster: MakeCluster):
    cluster = make_cluster("amqp://guest:secret@127.0.0.1:1//")
    with case_of(cluster) as case:
        found = case.explain("no-such-task")
        assert found.state == "unknown"
        assert (
            "Neither the queues nor the workers could be asked: broker unavailable: connection refused (amqp://guest:**@"
            in found.details[-1]
        )
        assert "secret" not in str(found)
