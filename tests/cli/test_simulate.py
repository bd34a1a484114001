"""``celery gconc simulate``, from what real workers recorded."""

from __future__ import annotations

import json
import os
import signal

import pytest

from celery_gconc.brokers import backlog
from celery_gconc.diagnosis.simulation import MIN_SAMPLES, TooFewSamples, forecast, read_history
from tests.cli.case import QUICK, Case, MakeCluster, case_of
from tests.cli.conftest import said
from tests.kit.servers import redis_server, wait_until


def run_some(case: Case) -> None:
    """Run enough tasks for a forecast, and wait until they are recorded."""
    case.cluster.send("nap", 30, 0.02)
    case.cluster.done(30)
    wait_until(lambda: len(case.operations.history("emails")) >= MIN_SAMPLES, what="they are recorded")


def test_what_real_tasks_recorded_is_replayed_with_another_max(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2}, **QUICK)
    with case_of(cluster) as case:
        cluster.start("w1", concurrency=8)
        cluster.send("nap", 90, 0.2)
        cluster.done(40)
        wait_until(lambda: sum(one.weight for one in case.operations.history("emails")) >= 35, what="they are recorded")
        case.operations.pause("emails")  # so that nothing moves on while it is looked at
        wait_until(
            lambda: (
                not case.operations.holders("emails")
                and sum(one.weight for one in case.operations.history("emails"))
                == cluster.oracle.count("e") == cluster.oracle.count("s")
            ),
            what="what runs has ended, and every end is recorded",
        )  # fmt: skip
        known = read_history(case.operations, "emails")
        assert (known.max, known.slots, known.running, known.paused) == (2, 8, (), True)
        assert known.tasks == cluster.oracle.count("e")
        assert known.backlog == 90 - known.tasks
        assert known.mean_hold == pytest.approx(0.2, rel=0.3)
        now, twice, more = forecast(known, 2), forecast(known, 4), forecast(known, 100)
        assert now.backlog_gone == pytest.approx(known.backlog * known.mean_hold / 2, rel=0.2)
        assert twice.backlog_gone == pytest.approx(known.backlog * known.mean_hold / 4, rel=0.2)
        assert more.permits == 8
        assert now.mean_wait > twice.mean_wait > more.mean_wait

        done = cluster.celery("gconc", "simulate", "emails", "--max", "4", "--max", "unlimited")
        assert done.returncode == 0, done.stderr
        first, heading, *rows = done.stdout.splitlines()
        assert first.startswith(f"queue:emails: based on {known.samples} of the ")
        assert heading.split()[:3] == ["MAX", "IN", "USE"]
        assert [row.split()[0] for row in rows] == ["2", "4", "unlimited"]
        assert "2 (now, paused)" in rows[0]
        remark = "queue:emails is paused; this is what happens once it is resumed"
        assert done.stderr == f"{remark}\n"
        told = json.loads(cluster.celery("gconc", "simulate", "emails", "--max", "4", "--json").stdout)
        assert [one["max"] for one in told["forecasts"]] == [2, 4]
        assert told["samples"] == known.samples
        assert (told["paused"], told["remarks"]) == (True, [remark])


def test_only_workers_that_consume_the_queue_have_slots_for_it(make_cluster: MakeCluster):
    limits = {"queue:emails": 1, "app": 50}
    cluster = make_cluster(global_concurrency_limits=limits, global_concurrency_heartbeat_interval=0.5)
    with case_of(cluster) as case:
        _, other = cluster.start("w1", concurrency=2) + cluster.start("w2", concurrency=10, queues="other")
        run_some(case)
        # While a permit is on its way from one task to the next, it and its room may both be counted.
        wait_until(lambda: read_history(case.operations, "emails").slots == 2, what="all is at rest")
        known = read_history(case.operations, "emails")
        assert (known.slots, known.remarks) == (2, ())
        assert forecast(known, 12).permits == 2
        assert read_history(case.operations, "app").slots == 12
        done = cluster.celery("gconc", "simulate", "emails", "--max", "12")
        assert "2 slots on live workers that consume it" in done.stdout
        os.kill(other.process.pid, signal.SIGSTOP)
        case.silent = 1
        known = read_history(case.operations, "emails")
        os.kill(other.process.pid, signal.SIGCONT)
        assert (known.slots, known.remarks) == (12, ("w2@test did not answer; counted as consuming emails",))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_without_the_broker_it_goes_on_and_says_so(
    make_cluster: MakeCluster, redis_url: str, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
):
    monkeypatch.setattr(backlog, "SILENCE_SECONDS", 0.5)
    limits = {"queue:emails": 1}
    with redis_server() as broker:
        cluster = make_cluster(
            broker.url, global_concurrency_redis_url=redis_url, global_concurrency_limits=limits, **QUICK
        )
        with case_of(cluster) as case:
            cluster.start("w1", concurrency=2)
            run_some(case)
            broker.process.send_signal(how)
            done = said(case.app, "simulate", "emails", "--max", "2")
            assert done.exit_code == 0, done.stderr
            assert "queue:emails: based on " in done.stdout
            (line,) = done.stderr.splitlines()
            assert line.startswith("broker unavailable: ")
            assert "; its messages are not counted, and the slots of all workers are, even if" in line


def test_too_few_recorded_tasks_are_refused_in_one_line(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2}, **QUICK)
    with case_of(cluster) as case:
        with pytest.raises(TooFewSamples):
            read_history(case.operations, "emails")
        done = cluster.celery("gconc", "simulate", "emails", "--max", "3")
        assert done.returncode == 1
        assert done.stdout == ""
        assert "queue:emails: only 0 tasks recorded" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("emails",),
        ("emails", "--max", "-1"),
        ("emails", "--max", "2", "--minutes", "16"),
        ("emails", "--max", "2", "--minutes", "nan"),
    ],
)
def test_bad_input_is_refused(make_cluster: MakeCluster, arguments: tuple[str, ...]):
    done = make_cluster(**QUICK).celery("gconc", "simulate", *arguments)
    assert done.returncode == 2
    assert "Error:" in done.stderr
