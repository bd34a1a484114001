"""Our metrics in Flower's ``/metrics``, which is served on the loop that serves everybody else too.

Flower's loop -> Scrape, which waits for a moment at most -> its thread -> Collector -> Redis
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from celery import Celery
from prometheus_client import Metric
from prometheus_client.registry import Collector as AnyCollector

from celery_gconc.metrics.prometheus import Collector, down
from celery_gconc.operations.operations import Operations

#: How long Flower's loop may wait, in seconds; and how long one call to Redis may take (connecting may take two).
PATIENCE, CALL_TIMEOUT = 0.3, 0.3


class Scrape(AnyCollector):
    """What Flower's registry collects. Never raises, and never waits for longer than :data:`PATIENCE`."""

    def __init__(self, app: Celery) -> None:
        self._collector = Collector(Operations(app, call_timeout=CALL_TIMEOUT))
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="gconc-metrics")
        self._pending: Future[list[Metric]] | None = None

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that the registry doesn't collect when this is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """What the collector tells; that it is down where Redis doesn't answer in time."""
        if self._pending is not None and not self._pending.done():
            return [down()]  # still no answer to what an earlier scrape asked
        self._pending = self._executor.submit(lambda: list(self._collector.collect()))
        try:
            return self._pending.result(PATIENCE)
        except Exception:  # noqa: BLE001 - an error here would be the whole page's, with all of Flower's own metrics
            return [down()]
