"""The limits of a namespace as Prometheus metrics: one collector tells of the whole cluster.

scrape (exporter, Flower) -> Collector -> Operations (status, totals) -> Redis

Redis keeps the counters, so it makes no difference which process is scraped, nor how many are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from math import isinf

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector as AnyCollector

from celery_gconc.errors import GlobalConcurrencyError
from celery_gconc.operations.operations import Operations
from celery_gconc.protocol.status import Histogram, LimitStatus, Totals

#: The maximum number of limits that are exported, so that the number of series stays bounded: each has about 45.
MAX_LIMITS = 500

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"


@dataclass(frozen=True, slots=True)
class Description:
    """What a metric is: its type, its help text, and its labels."""

    type: str
    help: str
    labels: tuple[str, ...] = ()


_LIMIT, _STATE = ("limit",), ("limit", "state")

#: Every metric, by the name under which it is exposed.
METRICS: Mapping[str, Description] = {
    "celery_gconc_up": Description(GAUGE, "1 if the coordination Redis answers, 0 if it does not."),
    "celery_gconc_sessions": Description(GAUGE, "Workers with a valid lease."),
    "celery_gconc_limits": Description(GAUGE, "Limits that exist now, whether or not they are exported."),
    "celery_gconc_limit_max": Description(
        GAUGE, "Maximum number of tasks that run at once; no series if unlimited. A pause doesn't change it.", _LIMIT
    ),
    "celery_gconc_limit_state": Description(
        GAUGE, "1 for the state that the limit is in: open, full, draining, paused, settling or unlimited.", _STATE
    ),
    "celery_gconc_limit_paused": Description(GAUGE, "1 if the limit is paused, 0 otherwise.", _LIMIT),
    "celery_gconc_limit_paused_timestamp_seconds": Description(
        GAUGE, "When the limit was paused (Unix time); no series if it is not paused.", _LIMIT
    ),
    "celery_gconc_limit_overridden": Description(
        GAUGE, "1 if a max set at run time replaces the configured one, 0 otherwise.", _LIMIT
    ),
    "celery_gconc_limit_overridden_timestamp_seconds": Description(
        GAUGE,
        "When the current max was set at run time (Unix time); no series if the configured one applies.",
        _LIMIT,
    ),
    "celery_gconc_permits": Description(GAUGE, "Tasks running under the limit.", _LIMIT),
    "celery_gconc_waiters": Description(
        GAUGE, "Waiting tasks that workers hold, in the limit's line or behind it.", _LIMIT
    ),
    "celery_gconc_longest_wait_seconds": Description(
        GAUGE, "How long the first task in line has waited; 0 if none is waiting.", _LIMIT
    ),
    "celery_gconc_grants_total": Description(COUNTER, "Tasks that got a permit under the limit.", _LIMIT),
    "celery_gconc_wait_seconds": Description(HISTOGRAM, "How long tasks waited in their worker for a permit.", _LIMIT),
    "celery_gconc_hold_seconds": Description(HISTOGRAM, "How long tasks held their permit.", _LIMIT),
    "celery_gconc_reclaims_total": Description(COUNTER, "Permits reclaimed from workers whose lease ran out."),
    "celery_gconc_lease_losses_total": Description(COUNTER, "Number of times a live worker lost its lease."),
    "celery_gconc_redis_errors_total": Description(COUNTER, "Number of times a worker failed to reach Redis."),
    "celery_gconc_runs_without_permit_total": Description(
        COUNTER,
        "Tasks started without a permit while Redis was down (global_concurrency_on_redis_error = 'run').",
    ),
}


class Collector(AnyCollector):
    """What a ``prometheus_client`` registry collects: each collection reads Redis.

    Never raises where Redis can't be reached or a setting is wrong: then ``celery_gconc_up`` is 0, and is all there
    is. Each of its calls takes as long as its *operations* may: there is one for 25 of the limits that are told, and
    one for 125 others. May be used by several threads.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that the registry doesn't collect when this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        try:
            overview, totals = self._operations.overview(MAX_LIMITS), self._operations.totals()
        except GlobalConcurrencyError:
            yield down()
            return
        chosen = sorted(overview.status, key=lambda limit: (limit.max is None, limit.limit))
        yield _gauge("celery_gconc_up", 1)
        yield _gauge("celery_gconc_sessions", overview.workers)
        yield _gauge("celery_gconc_limits", overview.limits)
        yield from _of_now(chosen)
        yield from _since_the_beginning(totals, {limit.limit for limit in chosen})


def down() -> Metric:
    """That the coordination Redis doesn't answer."""
    return _gauge("celery_gconc_up", 0)


def _of_now(limits: Sequence[LimitStatus]) -> Iterator[Metric]:
    """The gauges of each limit."""
    values: Mapping[str, Callable[[LimitStatus], float | None]] = {
        "celery_gconc_limit_max": lambda limit: limit.max,
        "celery_gconc_limit_paused": lambda limit: limit.paused,
        "celery_gconc_limit_paused_timestamp_seconds": lambda limit: limit.paused_at if limit.paused else None,
        "celery_gconc_limit_overridden": lambda limit: limit.overridden,
        "celery_gconc_limit_overridden_timestamp_seconds": lambda limit: limit.set_at if limit.overridden else None,
        "celery_gconc_permits": lambda limit: limit.running,
        "celery_gconc_waiters": waiters,
        "celery_gconc_longest_wait_seconds": lambda limit: limit.longest_wait or 0.0,
    }
    states = GaugeMetricFamily("celery_gconc_limit_state", METRICS["celery_gconc_limit_state"].help, labels=_STATE)
    for limit in limits:
        states.add_metric([limit.limit, limit.state], 1)
    yield states
    for name, value_of in values.items():
        family = GaugeMetricFamily(name, METRICS[name].help, labels=_LIMIT)
        for limit in limits:
            if (value := value_of(limit)) is not None:
                family.add_metric([limit.limit], value)
        yield family


def waiters(limit: LimitStatus) -> int:
    """How many tasks wait for a limit, in its line or behind it."""
    return limit.waiting + limit.parked


def _since_the_beginning(totals: Totals, chosen: Set[str]) -> Iterator[Metric]:
    """Counters and histograms, of the *chosen* limits and, where there is room, of those that are no more."""
    grants = CounterMetricFamily("celery_gconc_grants", METRICS["celery_gconc_grants_total"].help, labels=_LIMIT)
    waits, holds = _histogram("celery_gconc_wait_seconds"), _histogram("celery_gconc_hold_seconds")
    for limit in sorted(totals.limits, key=lambda limit: limit.limit not in chosen)[:MAX_LIMITS]:
        grants.add_metric([limit.limit], limit.grants)
        for family, histogram in ((waits, limit.wait), (holds, limit.hold)):
            family.add_metric([limit.limit], _buckets(histogram), histogram.sum)
    yield from (grants, waits, holds)
    for name, value in (
        ("celery_gconc_reclaims", totals.reclaims),
        ("celery_gconc_lease_losses", totals.lease_losses),
        ("celery_gconc_redis_errors", totals.redis_errors),
        ("celery_gconc_runs_without_permit", totals.without_redis),
    ):
        yield CounterMetricFamily(name, METRICS[f"{name}_total"].help, value=value)


def _gauge(name: str, value: float) -> Metric:
    return GaugeMetricFamily(name, METRICS[name].help, value=value)


def _histogram(name: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, METRICS[name].help, labels=_LIMIT)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus has them: how many values were at most so large."""
    total, cumulative = 0, []
    for bound, count in histogram.buckets:
        total += count
        cumulative.append(("+Inf" if isinf(bound) else str(bound), float(total)))
    return cumulative
