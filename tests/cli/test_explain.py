"""``celery gconc explain``: in every state that a task can be in, with real workers, and with none."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from celery_gconc.brokers.backlog import Message, Search
from celery_gconc.diagnosis.evidence import Evidence, Result, Told
from celery_gconc.diagnosis.explain import judge
from tests.cli.case import LONG, QUICK, MakeCluster, case_of
from tests.servers import redis_server, wait_until


def test_from_its_queue_to_its_end_under_a_full_limit(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, **QUICK)
    with case_of(cluster) as case:
        first, second = case.send("nap", 2.5), case.send("nap", 0.1)
        found = case.explain(second)
        assert (
            found.answer
            == "No worker has taken it yet: it is behind 1 of 2 messages in queue emails; no worker answers."
        )
        assert (found.state, found.queue, found.queue_place, found.queue_length) == ("queued", "emails", 2, 2)
        assert (found.task, found.limits) == ("tests.cluster.app.nap", ("queue:emails",))

        cluster.start("w1", concurrency=2)
        case.started()
        case.waits("emails")
        found = case.explain(first)
        assert (found.state, found.node, found.limits) == ("running", "w1@test", ("queue:emails",))
        assert re.fullmatch(r"It runs on w1@test, for \d+\.\d s now, with a permit for queue:emails\.", found.answer)
        found = case.explain(second)
        assert found.answer == "It waits for a permit: queue:emails is full (1 of 1 running); it is next in line."
        assert (found.state, found.place, found.line, found.node) == ("waiting", 1, "queue:emails", "w1@test")
        assert [holder.task_id for holder in found.holders] == [first]
        assert f"nap[{first}] on w1@test for" in " ".join(found.details)

        cluster.done(2)
        found = wait_until(lambda: (it := case.explain(second)).state == "succeeded" and it)
        assert re.fullmatch(r"It has ended at \S+, with success\.", found.answer)


def test_the_place_in_line_and_the_time_it_takes_come_from_recent_tasks(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2}, **QUICK)
    with case_of(cluster) as case:
        cluster.start("w1", concurrency=4)
        cluster.send("nap", 10, 0.2)
        cluster.done(10)
        wait_until(lambda: case.operations.history("emails"), what="ended tasks are recorded")
        waiting = [case.send("nap", LONG) for _ in range(20)]
        case.waits("emails", 2)
        third = next(waiter for waiter in case.operations.waiting("emails") if waiter.place == 2)
        found = case.explain(third.task_id)
        assert (found.state, found.place) == ("waiting", 2)
        # Tasks of 0.2 s take longer on a machine that is busy; what is told is what is expected.
        assert 0.1 <= found.expected_wait <= 2.0
        assert f"it is 2nd in line, and its turn comes in about {found.expected_wait:.1f} s." in found.answer

        parked = case.explain(waiting[2 + len(case.operations.waiting("emails"))])
        assert (parked.state, parked.place) in {("parked", None), ("waiting", parked.place)}
        last = case.explain(waiting[-1])
        assert last.state in ("queued", "parked")
        if last.state == "queued":
            assert "queue:emails is full (2 of 2 running)" in last.answer
        assert last.expected_wait is not None
        assert last.expected_wait > found.expected_wait


def test_limits_that_are_paused_or_zero(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 1}, **QUICK)
    with case_of(cluster) as case:
        cluster.start("w1", concurrency=2)
        case.operations.pause("emails", by="ann@host", reason="mail server is down", duration=7200)
        task = case.send("nap", 0.1)
        case.waits("emails")
        found = case.explain(task)
        assert found.state == "waiting"
        assert re.search(
            r"paused by ann@host \d+\.\d s ago, for another 2 h \(\"mail server is down\"\); it is next in line\.",
            found.answer,
        )
        assert found.expected_wait is None
        case.operations.resume("emails")
        cluster.done(1)

        case.operations.set("emails", 0, by="bob@host")
        case.change_is_known()
        task = case.send("nap", 0.1)
        case.waits("emails")
        assert re.search(r"queue:emails has a max of 0, set by bob@host \d+\.\d s ago", case.explain(task).answer)


def test_a_task_that_has_a_place_but_no_slot(make_cluster: MakeCluster):
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
        assert re.fullmatch(r"It runs on w1@test, for \d+\.\d s now; no limit covers it\.", found.answer)
        found = case.explain(covered)
        assert (found.state, found.limits) == ("waiting for a slot", ("queue:emails",))
        assert found.answer == (
            "It waits for a slot of its worker w1@test: all its slots are busy; queue:emails has a place for it."
        )
        found = case.explain(behind)
        assert (found.state, found.limits, found.node) == ("waiting for a slot", (), "w1@test")


def test_a_task_that_no_limit_covers_waits_for_a_slot(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        case.cluster.start("w1", concurrency=1)
        case.send("nap", LONG, queue="celery")
        case.started()
        second = case.send("nap", LONG, queue="celery")
        case.taken(0, "celery")
        assert case.explain(second).state == "waiting for a slot"


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
        assert "It is held back on w1@test by its ETA or countdown until" in found.answer
        assert "3 h from now" in found.answer
        found = case.explain(limited)
        assert (found.state, found.task) == ("rate limited", "tests.cluster.app.late")
        assert "by the rate_limit of its task (1/h)" in found.answer


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
        wait_until(lambda: case.app.AsyncResult(revoked).state == "REVOKED", what="it is revoked while it is parked")
        found = case.explain(failed)
        assert found.state == "failed"
        assert re.fullmatch(r"It has failed at \S+: ValueError: failure\.", found.answer)
        found = case.explain(expired)
        assert found.state == "revoked"
        assert found.answer.startswith("It expired before it was started")
        found = case.explain(revoked)
        assert found.state == "revoked"
        assert found.answer.startswith("It was revoked before it was started")


def test_a_message_in_a_queue_that_nobody_reads(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        case.cluster.start("w1", concurrency=1)
        unread = case.send("nap", 0.1, queue="other")
        found = case.explain(unread)
        assert "the next of 1 message in queue other; no worker that answers consumes other" in found.answer
        odd = str(case.cluster.app().send_task("tests.cluster.app.nap", (1,), queue="odd one").id)  # our app knows none
        assert case.explain(odd, queues=["odd one"]).state == "queued"
        case.app.control.revoke(unread)
        found = wait_until(lambda: (it := case.explain(unread)).details and it)
        assert found.state == "queued"
        assert "It is revoked: a worker that takes it will discard it." in found.details


def test_the_place_in_a_queue_counts_priorities_and_many_messages(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        low = case.send("nap", queue="other", priority=9)
        case.cluster.send("nap", 700, queue="other")
        high = case.send("nap", queue="other", priority=0)
        found = case.explain(low)
        assert (found.queue_place, found.queue_length) == (702, 702)
        assert case.explain(high).queue_place == 701


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
        assert "w1@test gave no answer: this is what it has last told Redis." in found.details
        assert case.explain(parked).state == "waiting"
        wait_until(lambda: not case.operations.status().sessions, what="its lease has ended")
        found = case.explain(parked)
        assert found.state == "taken"
        assert re.fullmatch(
            r"A worker took it from queue emails .* ago, and no worker that answers has it: where that worker is gone, "
            r"the broker delivers it once more in about (60|59) min \(visibility_timeout\)\.",
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
        for task, has in ((running, "counts as running"), (parked, "has a place in line")):
            found = case.explain(task)
            assert found.state == "taken", found
            assert "the broker delivers it once more in about" in found.answer
            assert re.search(
                rf"It still {has} for a former process of w1@test, until the lease of that one ends, in \d+ s\.",
                " ".join(found.details),
            )


def test_a_delivery_that_waits_while_an_earlier_one_counts_for_a_dead_worker(make_cluster: MakeCluster):
    conf = {**QUICK, "global_concurrency_heartbeat_timeout": 30.0}
    with case_of(make_cluster(global_concurrency_limits={"queue:emails": 1}, **conf)) as case:
        (worker,) = case.cluster.start("w1", concurrency=2)
        case.send("nap", LONG, task_id="twin")
        case.started()
        worker.kill()
        case.cluster.start("w2", concurrency=2)
        case.send("nap", LONG, task_id="twin")
        case.waits("emails")
        found = case.explain("twin")
        assert (found.state, found.node) == ("waiting", "w2@test")
        assert "It also counts as running on w1@test, by another delivery of its message." in found.details


def test_a_task_that_runs_while_another_delivery_of_it_waits(make_cluster: MakeCluster):
    with case_of(make_cluster(global_concurrency_limits={"queue:emails": 1}, **QUICK)) as case:
        case.cluster.start("w1", concurrency=2)
        for _ in range(2):
            case.send("nap", LONG, task_id="twin")
        case.waits("emails")
        found = case.explain("twin")
        assert (found.state, found.node) == ("running", "w1@test")
        assert "It also has a place in line on w1@test, by another delivery of its message." in found.details


def test_a_queued_task_names_its_limit_whether_or_not_a_worker_answers(make_cluster: MakeCluster):
    with case_of(make_cluster(global_concurrency_limits={"queue:emails": 1}, **QUICK)) as case:
        case.operations.pause("emails", by="ann@host", reason="mail server is down")
        task = case.send("nap")
        found = case.explain(task)
        assert "in queue emails; queue:emails is paused by ann@host " in found.answer
        assert found.answer.endswith(' ("mail server is down"); and no worker answers.')
        assert found.line == "queue:emails"
        case.operations.resume("emails")
        case.cluster.start("w1", pool="solo", concurrency=1)
        case.cluster.done(1)
        busy = case.send("nap", LONG)
        case.started(2)
        wait_until(lambda: case.explain(busy).state == "running", what="Redis knows that it runs")
        case.cluster.send("nap", 9, queue="emails")  # more than it prefetches
        left = wait_until(lambda: (it := case.explain(case.send("nap"))).state == "queued" and it)
        assert "queue:emails is full (1 of 1 running); and no worker answers (w1@test lives, says Redis)" in left.answer


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


def test_a_revoked_task_that_is_not_due_yet_is_told_as_revoked(make_cluster: MakeCluster):
    conf = {"global_concurrency_limits": {"queue:emails": 1}, "result_backend": "disabled://", **QUICK}
    with case_of(make_cluster(**conf)) as case:
        case.cluster.start("w1", concurrency=2)
        later = case.send("nap", 0.1, countdown=LONG)
        wait_until(lambda: case.explain(later).state == "scheduled", what="its worker holds it back")
        case.app.control.revoke(later)
        found = wait_until(lambda: "revoked" in (it := case.explain(later)).answer and it)
        assert found.state == "scheduled"
        assert found.answer.endswith(" It is revoked: its worker will discard it when its turn comes.")


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
        assert f"Of results nothing is known: {why}" in " ".join(found.details)


def test_a_broker_that_says_nothing_keeps_nobody(make_cluster: MakeCluster):
    with redis_server() as silent, case_of(make_cluster(silent.url, **QUICK)) as case:
        case.app.conf.global_concurrency_redis_url = case.cluster.redis
        silent.process.send_signal(signal.SIGSTOP)
        found = case.explain("no-such-task")
        assert found.state == "unknown"
        assert "Neither the queues nor the workers could be asked: the broker redis://127.0.0.1" in found.details[-1]


def test_a_limit_after_redis_lost_its_data(make_cluster: MakeCluster, redis_url: str):
    cluster = make_cluster(
        global_concurrency_limits={"queue:emails": 1}, **{**QUICK, "global_concurrency_heartbeat_timeout": 20.0}
    )
    with case_of(cluster) as case:
        cluster.start("w1", concurrency=2)
        case.send("nap", LONG)
        case.started()
        waiting = case.send("nap", 0.1)
        case.waits("emails")
        for key in cluster.client.scan_iter("{gconc}*"):
            cluster.client.delete(key)
        case.waits("emails")
        found = case.explain(waiting)
        if case.operations.status("emails")["queue:emails"].settling:
            assert "it grants nothing until every worker has reported what it is running" in found.answer
        assert found.state == "waiting"


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
        assert re.fullmatch(r"It runs on plain@test, for \d+\.\d s now; no limit covers it\.", found.answer)
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
        found = case.explain(covered)
        assert (found.state, found.limits) == ("running", ("queue:emails",))
        assert "w1@test gave no answer: this is what it has last told Redis." in found.details
        worker.kill()
        cluster.start("w2", pool="solo", concurrency=1)
        uncovered = case.send("late", LONG, queue="celery")
        wait_until(lambda: case.app.AsyncResult(uncovered).state == "STARTED", what="it has started")
        found = case.explain(uncovered)
        assert found.answer.startswith("It was started, says the result backend, but no worker that answers has it: ")
        assert found.answer.endswith(
            " If it is gone, the broker delivers the task once more in about 60 min (visibility_timeout)."
        )


def test_what_runs_anew_is_not_taken_for_its_former_end(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        task = case.send("nap")
        case.app.backend.store_result(task, 1, "SUCCESS")
        found = case.explain(task)
        assert found.state == "queued"
        assert "The result backend has SUCCESS, from an earlier run." in found.details


def test_what_ends_while_it_is_asked_for_has_ended(make_cluster: MakeCluster):
    with case_of(make_cluster(**QUICK)) as case:
        evidence = Evidence(
            task_id="some task",
            before=Result("PENDING"),
            search=Search(Message("emails", place=1)),
            broker_trouble="",
            told=Told(own={"w1@test": {"state": "running", "limits": ["queue:emails"]}}),
            found=(),
            status=case.operations.status(),
            after=Result("SUCCESS"),
        )
        assert judge(case.operations, evidence).state == "succeeded"
        assert judge(case.operations, replace(evidence, before=Result("SUCCESS"))).state == "running"
        assert judge(case.operations, replace(evidence, told=Told(), after=Result("PENDING"))).state == "queued"
        noted = replace(
            evidence, search=Search(None), told=Told(revoked=frozenset({"w1@test"})), after=Result("PENDING")
        )
        halfway = replace(evidence, search=Search(None), told=Told(), after=Result("HALFWAY"))
        answer = "Its state is HALFWAY, says the result backend; nobody else knows of it."
        assert judge(case.operations, halfway).answer == answer
        answer = "It is revoked, as w1@test noted: a worker that takes it will discard it."
        assert judge(case.operations, noted).answer == answer


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
        assert "pool:db is full (1 of 1 running); it is next in line" in found.answer
        case.operations.pause("app", reason="stop everything")
        found = wait_until(lambda: "app is paused" in (it := case.explain(task)).answer and it)
        assert '("stop everything")' in found.answer


def test_a_task_that_was_delivered_twice(make_cluster: MakeCluster):
    with case_of(make_cluster(global_concurrency_limits={"app": 50}, **QUICK)) as case:
        case.cluster.start("w1", concurrency=4)
        for _ in range(2):
            case.send("nap", LONG, task_id="twin")
        case.started(2)
        found = case.explain("twin")
        assert found.state == "running"
        assert "It runs more than once: its message was delivered again." in found.details


def test_keys_with_a_prefix_are_found_in_the_broker(make_cluster: MakeCluster):
    with case_of(make_cluster(broker_transport_options={"global_keyprefix": "shop:"}, **QUICK)) as case:
        case.send("nap")
        found = case.explain(case.send("nap"))
        assert (found.state, found.queue_place, found.queue_length) == ("queued", 2, 2)


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
        assert case.explain(second).answer.startswith("It waits for a permit: queue:emails is full (1 of 1 running)")
        assert case.explain(third).state in ("parked", "waiting")
        later = case.send("nap", 0.1, countdown=LONG)
        found = wait_until(lambda: (it := case.explain(later)).state != "unknown" and it)
        assert found.state == "scheduled"


def test_at_a_shell_with_nothing_there(make_cluster: MakeCluster):
    cluster = make_cluster(**QUICK)
    done = cluster.celery("gconc", "explain", "no-such-task")
    assert done.returncode == 1
    assert "Nobody has it: asked were Redis, workers (none answers), 6 queues and the result backend." in done.stdout


def test_at_a_shell_as_json(make_cluster: MakeCluster):
    with case_of(make_cluster(global_concurrency_limits={"queue:emails": 1}, **QUICK)) as case:
        task = case.send()
        done = case.cluster.celery("gconc", "explain", task, "--json")
        told = json.loads(done.stdout)
        assert (done.returncode, told["state"], told["queue_place"]) == (0, "queued", 1)
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
            "Neither the queues nor the workers could be asked: the broker amqp://guest:**@127.0.0.1:1//"
            in found.details[-1]
        )
        assert "secret" not in str(found)
