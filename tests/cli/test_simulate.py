"""``celery gconc simulate``, from what real workers recorded."""

from __future__ import annotations

import json

import pytest

from celery_gconc.simulation import TooFewSamples, forecast, record
from tests.cli.case import QUICK, MakeCluster, case_of
from tests.servers import wait_until


def test_what_real_tasks_recorded_is_replayed_with_another_max(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2}, **QUICK)
    with case_of(cluster) as case:
        cluster.start("w1", concurrency=8)
        cluster.send("nap", 90, 0.2)
        cluster.done(40)
        wait_until(lambda: sum(one.weight for one in case.operations.history("emails")) >= 35, what="they are recorded")
        case.operations.pause("emails")  # so that nothing moves on while it is looked at
        wait_until(lambda: not case.operations.holders("emails"), what="what runs has ended")
        wait_until(
            lambda: sum(one.weight for one in case.operations.history("emails")) == cluster.oracle.count("e"),
            what="every end is recorded",
        )
        known = record(case.operations, "emails")
        assert (known.max, known.slots, known.running) == (2, 8, ())
        assert known.tasks == cluster.oracle.count("e")
        assert known.backlog == 90 - known.tasks
        assert known.mean_hold == pytest.approx(0.2, rel=0.3)
        now, twice, more = forecast(known, 2), forecast(known, 4), forecast(known, 100)
        assert now.backlog_gone == pytest.approx(known.backlog * known.mean_hold / 2, rel=0.2)
        assert twice.backlog_gone == pytest.approx(known.backlog * known.mean_hold / 4, rel=0.2)
        assert more.places == 8
        assert now.mean_wait > twice.mean_wait > more.mean_wait

        done = cluster.celery("gconc", "simulate", "emails", "--max", "4", "--max", "unlimited")
        assert done.returncode == 0, done.stderr
        first, heading, *rows = done.stdout.splitlines()
        assert first.startswith(f"queue:emails: from {known.samples} recorded tasks")
        assert heading.split()[:3] == ["MAX", "IN", "USE"]
        assert [row.split()[0] for row in rows] == ["2", "4", "unlimited"]
        told = json.loads(cluster.celery("gconc", "simulate", "emails", "--max", "4", "--json").stdout)
        assert [one["max"] for one in told["forecasts"]] == [2, 4]
        assert told["samples"] == known.samples


def test_too_few_recorded_tasks_are_refused_in_one_line(make_cluster: MakeCluster):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2}, **QUICK)
    with case_of(cluster) as case:
        with pytest.raises(TooFewSamples):
            record(case.operations, "emails")
        done = cluster.celery("gconc", "simulate", "emails", "--max", "3")
        assert done.returncode == 1
        assert done.stdout == ""
        assert "queue:emails: 0 tasks are recorded" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [("emails",), ("emails", "--max", "-1"), ("emails", "--max", "2", "--minutes", "16")]
)
def test_bad_input_is_refused(make_cluster: MakeCluster, arguments: tuple[str, ...]):
    done = make_cluster(**QUICK).celery("gconc", "simulate", *arguments)
    assert done.returncode == 2
    assert "Error:" in done.stderr
