"""What is said of a task, from evidence alone. (How that is gathered: tests/cli/test_explain.py.)"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from celery_gconc.brokers.backlog import Message, Search
from celery_gconc.diagnosis.evidence import Evidence, Line, Result, Told
from celery_gconc.diagnosis.explanation import Explanation
from celery_gconc.diagnosis.judges import judge
from celery_gconc.protocol.status import EndedTask, Holder, LimitStatus, SessionStatus, Status, Waiter, Whereabouts

#: The time of all evidence here, as Unix time in seconds.
NOW = 1_800_000_000.0

FULL = LimitStatus("queue:emails", 2, paused=False, running=2, waiting=3)
OPEN = replace(FULL, running=1, waiting=0)
PARKED = {"state": "parked", "limits": ["queue:emails"], "waited": 7.0, "ahead": 0}


def session(name: str = "s1", node: str = "w1@test", since: float = NOW - 900, **more: Any) -> SessionStatus:
    known: dict[str, Any] = {"pid": 1, "pool": "prefork", "lease": 20.0, "permits": 0, "waiting": 0, "room": 1}
    return SessionStatus(session=name, node=node, since=since, timeout=30.0, **{**known, **more})


def in_redis(*, is_waiting: bool, node: str = "w1@test", name: str = "s1", **more: Any) -> Whereabouts:
    known: dict[str, Any] = {"limits": ("queue:emails",), "seconds": 7.0, "line": None, "position": None, "room": 1}
    return Whereabouts("t1", "proj.send", name, node, is_waiting=is_waiting, **{**known, **more})


def evidence(*limits: LimitStatus, **more: Any) -> Evidence:
    """Nobody knows the task, but for what *more* says."""
    known: dict[str, Any] = {
        "before": Result("PENDING"),
        "search": Search(None, {"emails": 0}, can_look=True),
        "broker_trouble": "",
        "told": Told(queues={"w1@test": ("emails",)}),
        "found": (),
        "status": Status(limits, (session(),), at=NOW),
        "after": Result("PENDING"),
    }
    return Evidence("t1", **{**known, **more})


def explained(*limits: LimitStatus, **more: Any) -> Explanation:
    found = judge(evidence(*limits, **more))
    assert found.task_id == "t1"
    assert re.fullmatch(r"[A-Z].*\.", found.answer), found.answer
    return found


def own(**answer: Any) -> Told:
    """One worker has this package, and says this of the task."""
    return Told(own={"w1@test": answer}, queues={"w1@test": ("emails",)})


# -- It runs, or waits in a worker -------------------------------------------------------------------------


def test_a_running_task_says_where_how_long_and_with_which_permit() -> None:
    found = explained(
        FULL, told=own(state="running", limits=["queue:emails"]), found=(in_redis(is_waiting=False, seconds=61.0),)
    )
    assert (found.state, found.node, found.limits, found.seconds) == ("running", "w1@test", ("queue:emails",), 61.0)
    assert found.answer == "It has been running on w1@test for 61 s, with a permit for queue:emails."


def test_a_running_task_that_no_limit_covers_says_so() -> None:
    told = Told(state={"w1@test": ("active", {"name": "proj.send", "time_start": NOW - 4})})
    found = explained(told=told)
    assert (found.state, found.task) == ("running", "proj.send")
    assert found.answer == "It has been running on w1@test for 4.0 s; no limit covers it."


def test_a_waiting_task_says_its_position_who_holds_the_limit_and_when_it_should_start() -> None:
    holder = Holder("s2", "w2@test", "t0", "proj.send", NOW - 12)
    line = Line((holder,), recent=(EndedTask(NOW - 5, 1.0, 20.0), EndedTask(NOW - 9, 1.0, 40.0, weight=2.0)))
    found = explained(
        FULL,
        told=own(**PARKED),
        found=(in_redis(is_waiting=True, line="queue:emails", position=3, full=("queue:emails",)),),
        lines={"queue:emails": line},
    )
    assert (found.state, found.line, found.position, found.holders) == ("waiting", "queue:emails", 3, (holder,))
    assert found.expected_wait == pytest.approx(50.0)
    assert found.answer.endswith(" It is 3rd in line and should start in about 50 s.")
    assert "queue:emails is full (2 of" in found.answer
    assert found.details == (
        "It has been waiting for 7.0 s.",
        "queue:emails is held by proj.send[t0] on w2@test (for 12 s); and 1 more.",
    )


def test_nothing_is_expected_of_a_limit_of_which_no_task_has_ended_lately() -> None:
    waits = in_redis(is_waiting=True, line="queue:emails", position=1, full=("queue:emails",))
    found = explained(FULL, told=own(**PARKED), found=(waits,))
    assert found.expected_wait is None
    assert found.answer.endswith(" It is next in line.")


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        (
            replace(OPEN, max=0, paused=True, paused_by="ann@host", paused_reason="mail is down", paused_at=NOW - 5),
            'queue:emails was paused by ann@host 5.0 s ago ("mail is down")',
        ),
        (
            replace(OPEN, max=0, overridden=True, set_by="bob@host", set_at=NOW - 61),
            "queue:emails has a max of 0, set by bob@host 61 s ago",
        ),
        (replace(OPEN, settling=True), "30 s"),
    ],
    ids=["paused", "zero", "settling"],
)
def test_a_limit_that_starts_nothing_is_named_with_who_and_why_and_expects_nothing(
    limit: LimitStatus, why: str
) -> None:
    line = Line(recent=(EndedTask(NOW - 5, 1.0, 20.0),))
    waits = in_redis(is_waiting=True, line="queue:emails", position=1, full=("queue:emails",))
    found = explained(limit, told=own(**PARKED), found=(waits,), lines={"queue:emails": line})
    assert found.state == "waiting"
    assert why in found.answer
    assert found.expected_wait is None


def test_of_several_limits_the_one_in_whose_line_it_stands_is_named_unless_one_is_paused() -> None:
    app = LimitStatus("app", 50, paused=False, running=2, waiting=0)
    both = {"limits": ("app", "queue:emails"), "line": "queue:emails", "position": 2}
    told = own(**{**PARKED, "limits": ["app", "queue:emails"]})
    waits = in_redis(is_waiting=True, full=("queue:emails",), **both)
    found = explained(app, FULL, told=told, found=(waits,))
    assert (found.line, found.limits) == ("queue:emails", ("app", "queue:emails"))
    waits = replace(waits, full=("app", "queue:emails"))
    found = explained(replace(app, paused=True, paused_reason="stop all"), FULL, told=told, found=(waits,))
    assert found.line == "app"
    assert 'app is paused ("stop all"). It is 2nd in the line of queue:emails' in found.answer


def test_before_redis_has_heard_of_it_its_worker_s_own_order_counts() -> None:
    waiting = tuple(Waiter("s1", "w1@test", f"t{n}", "proj.send", n, 1.0) for n in (1, 2))
    line = {"queue:emails": Line(waiting=waiting)}
    found = explained(FULL, told=own(**{**PARKED, "ahead": 1}), lines=line)
    assert (found.state, found.position) == ("waiting", 2)
    found = explained(FULL, told=own(**{**PARKED, "ahead": 3}), lines=line)
    assert (found.state, found.position) == ("parked", None)
    assert found.answer.startswith("It waits on w1@test, behind 3 others of that worker: queue:emails is full")


def test_a_task_whose_limits_have_room_is_next_or_waits_for_a_slot() -> None:
    found = explained(OPEN, told=own(**PARKED))
    assert found.state == "waiting"
    assert found.answer == "It is next: queue:emails has room, and its permit is on its way to w1@test."
    told = own(**{**PARKED, "state": "waits for a slot", "ahead": 2})
    found = explained(OPEN, told=told)
    assert found.state == "waiting for a slot"
    assert found.answer == (
        "It is waiting for a free slot on w1@test, behind 2 others: all slots are busy; queue:emails has room."
    )


def test_a_full_limit_in_a_worker_without_a_free_slot_is_told_with_both() -> None:
    waits = in_redis(is_waiting=True, line="queue:emails", position=1, full=("queue:emails",))
    found = explained(FULL, told=own(**{**PARKED, "state": "waits for a slot"}), found=(waits,))
    assert found.state == "waiting"
    assert "w1@test has no free slot either." in found.details


@pytest.mark.parametrize("state", ["reserved", "ready"])
def test_what_a_worker_without_this_package_has_fetched_waits_for_a_slot(state: str) -> None:
    found = explained(told=Told(state={"plain@test": (state, {"name": "proj.send"})}))
    assert (found.state, found.node, found.limits) == ("waiting for a slot", "plain@test", ())


def test_an_eta_and_a_rate_limit_are_told_as_what_they_are() -> None:
    eta = "2027-01-15T11:00:00+00:00"
    found = explained(told=own(state="scheduled", task="proj.send", eta=eta))
    assert found.state == "scheduled"
    assert found.answer == f"It is held back on w1@test until its ETA or countdown, {eta}, 3 h from now."
    assert explained(told=Told(scheduled={"w9@test": eta})).node == "w9@test"
    found = explained(told=own(state="rate limited", task="proj.send", rate="1/h"))
    assert found.state == "rate limited"
    assert found.answer == "It is held back on w1@test by its task's rate_limit (1/h), not by a concurrency limit."


def test_a_revoked_task_that_a_worker_still_holds_is_told_as_revoked() -> None:
    told = replace(own(**PARKED), revoked=frozenset({"w1@test"}))
    assert explained(FULL, told=told).answer.endswith(" It is revoked: its worker will discard it when its turn comes.")


# -- It is at the broker -----------------------------------------------------------------------------------


def in_queue(**more: Any) -> Search:
    return Search(Message("emails", **{"position": 2, "task": "proj.send", **more}), {"emails": 9}, can_look=True)


def test_a_queued_task_says_its_position_the_limit_that_keeps_it_and_who_consumes_the_queue() -> None:
    recent = {"queue:emails": Line(recent=(EndedTask(NOW - 5, 1.0, 10.0),))}
    found = explained(FULL, search=in_queue(), candidates=("app", "queue:emails"), lines=recent)
    assert (found.state, found.queue, found.queue_position, found.queue_length) == ("queued", "emails", 2, 9)
    assert (found.limits, found.line, found.expected_wait) == (("queue:emails",), "queue:emails", 25.0)
    assert "it is message 2 of 9 in queue emails; queue:emails is full (2 of" in found.answer
    assert found.answer.endswith(". It should start in about 25 s.")


def test_a_queue_that_nobody_consumes_is_named_with_who_is_silent() -> None:
    found = explained(search=in_queue(position=1), told=Told(queues={"w2@test": ("other",)}))
    assert found.answer.endswith(
        "it is message 1 of 9 in queue emails; no worker that answers consumes emails (w1@test is alive "
        "according to Redis)."
    )
    found = explained(FULL, search=in_queue(), told=Told(), candidates=("queue:emails",))
    assert ", and no worker answers (w1@test is alive according to Redis)." in found.answer


def test_consumers_without_a_free_slot_are_told_as_busy() -> None:
    status = Status((), (session(room=0),), at=NOW)
    assert explained(search=in_queue(), status=status).answer.endswith(
        "w1@test consumes that queue, and has no free slot."
    )


def test_a_message_s_own_obstacles_are_told() -> None:
    search = in_queue(eta="2027-01-15T11:00:00Z", expires="2020-01-01T00:00:00Z", retries=2)
    found = explained(search=search, told=Told(revoked=frozenset({"w1@test"})))
    assert found.details == (
        "It is revoked: a worker that takes it will discard it.",
        "It expired at 2020-01-01T00:00:00Z: a worker that takes it will discard it.",
        "It must not start before 2027-01-15T11:00:00Z.",
        "It is retry 2 of the task.",
    )


def test_a_message_that_a_silent_worker_took_says_when_it_is_redelivered() -> None:
    search = in_queue(position=None, taken_at=NOW - 30, returns_at=NOW + 3570)
    found = explained(search=search, rate_limit="5/m")
    assert (found.state, found.queue) == ("taken", "emails")
    assert found.answer == (
        "A worker took it from queue emails 30 s ago, and no worker that answers has it. It may be held back there by "
        "its task's rate_limit (5/m). If that worker is gone, the broker redelivers it in about 60 min "
        "(visibility_timeout)."
    )
    assert "redelivers it after its visibility_timeout" in explained(search=in_queue(position=None)).answer


# -- Redis, results, nobody --------------------------------------------------------------------------------


def test_what_a_silent_worker_last_reported_is_told_as_that() -> None:
    silent = Told(queues={"w2@test": ("emails",)})
    found = explained(FULL, told=silent, found=(in_redis(is_waiting=False),))
    assert (found.state, found.node) == ("running", "w1@test")
    assert found.details == ("w1@test did not answer; this is what it last reported to Redis.",)
    waits = in_redis(is_waiting=True, line="queue:emails", position=2, full=("queue:emails",))
    assert explained(FULL, told=silent, found=(waits,)).state == "waiting"


def test_a_record_that_its_worker_knows_nothing_of_any_more_is_about_to_go() -> None:
    found = explained(FULL, told=own(), found=(in_redis(is_waiting=False),))
    assert found.answer == "Its worker w1@test has just finished it; Redis has not heard of that yet."
    assert found.details == ()
    found = explained(FULL, told=own(), found=(in_redis(is_waiting=True),))
    assert found.answer == "Its worker w1@test has just let go of it; Redis has not heard of that yet."


def test_what_counts_for_an_earlier_process_of_a_worker_is_told_with_the_end_of_its_lease() -> None:
    status = Status((FULL,), (session(), session("s2", since=NOW - 5)), at=NOW)
    for is_waiting, has in ((False, "counts as running"), (True, "stands in line")):
        found = explained(
            status=status, told=Told(), found=(in_redis(is_waiting=is_waiting),), search=in_queue(position=None)
        )
        assert found.state == "taken"
        assert (
            f"It still {has} for an earlier process of w1@test until that one's lease ends, in 20 s." in found.details
        )


def test_other_deliveries_of_its_message_are_told() -> None:
    status = Status((FULL,), (session(), session("s2", "w2@test")), at=NOW)
    told = Told(own={"w2@test": PARKED})
    waits = in_redis(
        is_waiting=True, node="w2@test", name="s2", line="queue:emails", position=1, full=("queue:emails",)
    )
    dead = in_redis(is_waiting=False)
    found = explained(status=status, told=told, found=(dead, waits))
    assert (found.state, found.node) == ("waiting", "w2@test")
    assert "It also counts as running on w1@test, by another delivery of its message." in found.details
    running = own(state="running", limits=["queue:emails"])
    found = explained(FULL, told=running, found=(dead, in_redis(is_waiting=True)))
    assert "It also stands in line on w1@test, by another delivery of its message." in found.details
    found = explained(FULL, told=running, found=(dead, dead))
    assert "It is running more than once: its message was delivered again." in found.details


@pytest.mark.parametrize(
    ("result", "state", "answer"),
    [
        (Result("SUCCESS", done="2027-01-15T07:00:00"), "succeeded", "It succeeded at 2027-01-15T07:00:00."),
        (Result("FAILURE", "ValueError: no"), "failed", "It failed: ValueError: no."),
        (Result("REVOKED", "TaskRevokedError('expired')"), "revoked", "It expired before it started."),
        (Result("REVOKED", "TaskRevokedError('terminated')"), "revoked", "It was terminated while it ran."),
        (Result("REVOKED", "TaskRevokedError('revoked')"), "revoked", "It was revoked before it started."),
        (Result("HALFWAY"), "other", "The result backend says that it is HALFWAY; nobody else knows of it."),
        (Result("RETRY"), "retrying", "It failed and will be retried, but no worker that answers has it."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_only_the_result_backend_knows_it_its_word_is_taken(result: Result, state: str, answer: str) -> None:
    found = explained(before=result, after=result)
    assert (found.state, found.result, found.answer) == (state, result.state, answer)


def test_what_has_started_in_a_worker_that_does_not_answer_says_what_happens_if_that_is_gone() -> None:
    found = explained(search=in_queue(position=None, returns_at=NOW + 600), after=Result("STARTED"))
    assert found.state == "other"
    assert found.answer.endswith(" If it is gone, the broker redelivers the task in about 10 min (visibility_timeout).")


def test_what_ends_while_it_is_asked_for_has_ended() -> None:
    told = own(state="running", limits=["queue:emails"])
    assert explained(FULL, told=told, after=Result("SUCCESS")).state == "succeeded"
    assert explained(FULL, told=told, before=Result("SUCCESS"), after=Result("SUCCESS")).state == "running"


def test_what_runs_anew_is_not_taken_for_its_former_end() -> None:
    found = explained(search=in_queue(), before=Result("SUCCESS"), after=Result("SUCCESS"))
    assert found.state == "queued"
    assert "The result backend has SUCCESS, from an earlier run." in found.details


def test_what_ended_after_redis_heard_of_it_has_ended() -> None:
    silent = Told(queues={"w2@test": ("emails",)})
    done = Result("SUCCESS", done="2027-01-15T07:59:58+00:00")
    found = (in_redis(is_waiting=False, seconds=30.0),)
    assert explained(FULL, told=silent, found=found, before=done, after=done).state == "succeeded"
    before = replace(done, done="2027-01-15T07:59:00+00:00")
    assert explained(FULL, told=silent, found=found, before=before, after=before).state == "running"


def test_a_task_that_workers_have_noted_as_revoked_and_nobody_has() -> None:
    found = explained(told=Told(revoked=frozenset({"w1@test", "w2@test"})))
    assert found.state == "revoked"
    assert found.answer == "It is revoked, according to w1@test and w2@test; a worker that takes it will discard it."


def test_a_task_that_nobody_knows_says_who_was_asked() -> None:
    found = explained()
    assert found.state == "unknown"
    assert found.answer == "Not found. Searched: Redis, 1 worker, 1 queue and the result backend."
    found = explained(after=Result(None, trouble="there is no result backend"), told=Told())
    assert found.answer == "Not found. Searched: Redis, workers (none answered) and 1 queue."
    assert "Its result is unknown: there is no result backend." in found.details


def test_with_a_broker_that_does_not_tell_the_queues_that_hold_messages_are_named() -> None:
    found = explained(search=Search(None, {"emails": 1, "other": 2, "none": 0}))
    assert found.answer.endswith(
        " It may be in queue emails, which holds 1 message, or in other, which holds 2 messages."
    )


def test_what_could_not_be_asked_is_told() -> None:
    found = explained(broker_trouble="the broker is away")
    assert found.answer == "Not found. Searched: Redis and the result backend."
    assert found.details[-1] == "Neither the queues nor the workers could be asked: the broker is away."
