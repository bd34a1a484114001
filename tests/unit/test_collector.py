"""What Prometheus is told of a status and of totals, as the store gives them."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace

from celery_gconc.metrics.prometheus import Collector
from celery_gconc.protocol.status import Histogram, LimitStatus, LimitTotals, Overview, Status, Totals

EMAILS = LimitStatus("queue:emails", 2, paused=False, running=2, waiting=3, parked=4, longest_wait=1.5)


def exposed(status: Status, totals: Totals) -> dict[tuple[str, str], float]:
    """Each sample of a collection, by its name and its ``le`` or ``limit``."""
    collector = Collector(
        SimpleNamespace(overview=lambda count: Overview(status, len(status.limits), 0), totals=lambda: totals)
    )
    return {
        (sample.name, sample.labels.get("le") or sample.labels.get("limit", "")): sample.value
        for metric in collector.collect()
        for sample in metric.samples
    }


def test_those_that_workers_hold_behind_the_line_wait_too():
    found = exposed(Status(limits=(EMAILS,)), Totals())
    assert found["celery_gconc_waiters", "queue:emails"] == 7
    assert found["celery_gconc_permits", "queue:emails"] == 2
    assert found["celery_gconc_longest_wait_seconds", "queue:emails"] == 1.5


def test_the_buckets_of_a_histogram_add_up():
    holds, waits = Histogram(((0.1, 5), (1.0, 2), (inf, 1)), sum=12.5), Histogram(((0.1, 8), (inf, 0)))
    limit = LimitTotals("queue:emails", grants=8, wait=waits, hold=holds)
    found = exposed(Status(), Totals(limits=(limit,), reclaims=3))
    buckets = {bound: value for (name, bound), value in found.items() if name == "celery_gconc_hold_seconds_bucket"}
    assert buckets == {"0.1": 5, "1.0": 7, "+Inf": 8}
    assert found["celery_gconc_hold_seconds_count", "queue:emails"] == 8
    assert found["celery_gconc_hold_seconds_sum", "queue:emails"] == 12.5
    assert found["celery_gconc_grants_total", "queue:emails"] == 8
    assert found["celery_gconc_reclaims_total", ""] == 3
