"""What ``doctor`` finds, from one look alone. (How that is taken, and what else it finds: tests/cli/test_doctor.py.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from celery import Celery
from kombu import Queue

from celery_gconc.diagnosis.doctor import CHECKS
from celery_gconc.diagnosis.finding import Finding
from celery_gconc.diagnosis.look import Look
from celery_gconc.protocol.status import LimitStatus, SessionStatus, Status
from celery_gconc.settings import Settings

NOW = 1_800_000_000.0
EMAILS = LimitStatus("queue:emails", 2, paused=False, running=1, waiting=0)


def findings(
    *limits: LimitStatus, conf: Mapping[str, Any] | None = None, sessions: tuple[SessionStatus, ...] = (), **more: Any
) -> list[Finding]:
    """What is found, but for the advice to start a worker."""
    app = Celery("shop", broker="redis://h/0", set_as_current=False)
    app.conf.update(conf or {})
    look = Look(
        app=app,
        settings=Settings.from_app(app),
        status=Status(limits, sessions, at=NOW),
        **{"begun": NOW, "ended": NOW + 1, **more},
    )
    found = [finding for check in CHECKS for finding in check(look)]
    return [finding for finding in found if finding.what != "no workers are running"]


def worker(**own: Any) -> dict[str, Any]:
    """What one worker answers to ``stats``."""
    return {"w1@test": {"global_concurrency": {"time": NOW + 0.5, **own}}}


@pytest.mark.parametrize(
    ("own", "severity", "what", "todo"),
    [
        ({"lease_losses": 1}, "warning", "w1@test has lost its lease once since it started", "heartbeat_timeout"),
        ({"lease_losses": 3}, "warning", "w1@test has lost its lease 3 times since it started", "heartbeat_timeout"),
        ({"lost_queues": {"mail": 2}}, "warning", "w1@test found queue mail gone, twice, while", "expiry above"),
        ({"runs_without_permit": 1}, "warning", "w1@test ran 1 task without a permit while Redis", "'wait'"),
        (
            {"connected": False, "redis_error": "refused"},
            "error",
            "w1@test can't reach the coordination Redis",
            "refused",
        ),
        (
            {"connected": False, "redis_error": "no such user", "redis_error_is_permanent": True},
            "error",
            "w1@test can't use the coordination Redis until its configuration is fixed",
            "no such user",
        ),
    ],
)
def test_what_a_worker_reports_of_itself_is_found(own: dict[str, Any], severity: str, what: str, todo: str) -> None:
    (finding,) = findings(stats=worker(**own))
    assert finding.severity == severity
    assert what in finding.what
    assert todo in finding.todo


def test_a_worker_s_clock_is_judged_by_when_it_can_have_answered() -> None:
    assert findings(stats=worker(time=NOW + 1.9)) == []
    (finding,) = findings(stats=worker(time=NOW + 20.5))
    assert finding.what == "the clock of w1@test is 20 s ahead of Redis'"
    (finding,) = findings(skew=-5.0)
    assert finding.what == "the clocks of this machine and of Redis differ by 5.0 s"


def test_a_task_that_runs_longer_than_the_visibility_timeout_is_found() -> None:
    (finding,) = findings(longest_runs={"queue:emails": 4000.0})
    assert finding.what.startswith("a task under queue:emails ran for 67 min, longer than visibility_timeout (3600 s)")
    assert findings(longest_runs={"queue:emails": 3000.0}) == []


def test_queues_that_do_not_bear_to_wait_are_found() -> None:
    queues = [
        Queue("emails", queue_arguments={"x-expires": 60000}),
        Queue("quorum", queue_arguments={"x-queue-type": "quorum", "x-delivery-limit": 2}),
    ]
    conf = {"broker_url": "amqp://h//", "task_queues": queues, "global_concurrency_redis_url": "redis://h/0"}
    consumed = {"w1@test": [{"name": "emails"}, {"name": "celery"}]}
    found = findings(EMAILS, conf=conf, queues=consumed)
    assert sorted(finding.severity for finding in found) == ["info", "warning"]
    texts = sorted(finding.what for finding in found)
    assert texts[0].startswith("queue quorum has an x-delivery-limit of 2: ")
    assert texts[1].startswith("workers never stop consuming queue:emails, because its queue is exclusive")
    assert texts[1].endswith("workers that also read celery")
    assert not [one for one in findings(EMAILS, conf=conf) if "never stop" in one.what], "nobody reads it beside others"


def test_a_server_s_policies_are_found() -> None:
    (finding,) = findings(server={"maxmemory_policy": "allkeys-lru"})
    assert finding.severity == "error"
    (finding,) = findings(server={"maxmemory_policy": "noeviction", "connected_slaves": "1"})
    assert finding.what == "Redis has replicas, and accepts writes while it can't reach them"
    assert findings(server={"connected_slaves": "1", "min_slaves_good_slaves": "1"}) == []


def test_rights_that_are_lacking_are_found() -> None:
    found = findings(lacking="run there ACL SETUSER x +time", unseen=("INFO can't be used: a restart isn't noticed",))
    assert [finding.severity for finding in found] == ["error", "info"]
    assert found[0].todo == "run there ACL SETUSER x +time"


def test_a_task_that_nothing_keeps_waiting_is_found() -> None:
    (finding,) = findings(EMAILS, stuck={"queue:emails": "t1"})
    assert finding.severity == "error"
    assert finding.what.startswith("task t1 is waiting for queue:emails, although that has room")
