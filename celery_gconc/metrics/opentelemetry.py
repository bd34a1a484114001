"""OpenTelemetry metrics of this worker, and a span for each wait, where ``opentelemetry`` is installed.

signals (permit_granted, permit_released, lease_lost) -> Instruments -> the app's own meter and tracer providers

Only OpenTelemetry's API is used. Everything happens in the worker's main process, so that is where a provider has to be
set: when the app's module is imported, or at ``worker_init``. Where none is, nothing is connected, and a task costs no
more than without OpenTelemetry.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from celery_gconc import signals
from celery_gconc.limits.claims import Limits
from celery_gconc.protocol.counted import BUCKETS

#: The name of the meter and of the tracer.
SCOPE = "celery_gconc"

#: A task that waited for less, in seconds, has no span: so long takes the decision itself.
MIN_WAIT = 0.001

#: Every instrument: its unit and what it is.
INSTRUMENTS: Mapping[str, tuple[str, str]] = {
    "celery.gconc.wait.duration": ("s", "How long tasks waited in this worker for a permit."),
    "celery.gconc.hold.duration": ("s", "How long tasks of this worker held their permit."),
    "celery.gconc.permits": (
        "{task}",
        "Running tasks of this worker, under the limits that their permit covered when granted.",
    ),
    "celery.gconc.lease_losses": ("{loss}", "Number of times this worker lost its lease while alive."),
}


def install() -> None:
    """Have the signals counted and traced in this process, where ``opentelemetry`` has a provider to tell."""
    try:
        from opentelemetry import metrics, trace
    except ImportError:
        return
    if _records(metrics.get_meter_provider()) or _records(trace.get_tracer_provider()):
        _connect()


def _records(provider: Any) -> bool:
    """Whether somebody has set it: the API's own, which stand in for it until then, record nothing."""
    return not type(provider).__module__.startswith(("opentelemetry.metrics", "opentelemetry.trace"))


@cache
def _connect() -> None:
    from opentelemetry import metrics, propagate, trace

    instruments = _Instruments(metrics.get_meter(SCOPE), trace.get_tracer(SCOPE), propagate.extract)
    signals.permit_granted.connect(instruments.granted, weak=False)
    signals.permit_released.connect(instruments.released, weak=False)
    signals.lease_lost.connect(instruments.lease_lost, weak=False)


class _Instruments:
    """Receivers of the signals; for any thread, as the instruments are."""

    def __init__(self, meter: Any, tracer: Any, extract: Any) -> None:
        def made(make: Any, name: str, **more: Any) -> Any:
            unit, description = INSTRUMENTS[name]
            return make(name, unit=unit, description=description, **more)

        def histogram(name: str) -> Any:
            try:
                # The SDK's own bounds are made for milliseconds.
                return made(meter.create_histogram, name, explicit_bucket_boundaries_advisory=BUCKETS[:-1])
            except TypeError:  # opentelemetry-api before 1.30
                return made(meter.create_histogram, name)

        self._tracer, self._extract = tracer, extract
        self._waits = histogram("celery.gconc.wait.duration")
        self._holds = histogram("celery.gconc.hold.duration")
        self._permits = made(meter.create_up_down_counter, "celery.gconc.permits")
        self._lease_losses = made(meter.create_counter, "celery.gconc.lease_losses")

    def granted(
        self, sender: str, task_id: str, limits: Limits, waited: float, headers: Mapping[str, Any], **kwargs: Any
    ) -> None:
        """A task goes to the pool, after it may have waited."""
        for limit in limits:
            self._waits.record(waited, {"limit": limit})
            self._permits.add(1, {"limit": limit})
        if waited >= MIN_WAIT:
            self._trace(sender, task_id, limits, waited, headers)

    def released(self, sender: str, limits: Limits, held: float, **kwargs: Any) -> None:
        """A task has ended."""
        for limit in limits:
            self._holds.record(held, {"limit": limit})
            self._permits.add(-1, {"limit": limit})

    def lease_lost(self, **kwargs: Any) -> None:
        """The worker's lease was lost."""
        self._lease_losses.add(1)

    def _trace(self, task: str, task_id: str, limits: Limits, waited: float, headers: Mapping[str, Any]) -> None:
        """A span that is over, in the trace of who sent the task, where its message says (as W3C's headers do)."""
        end = time.time_ns()
        span = self._tracer.start_span(
            f"wait/{task}",
            context=self._extract(headers),
            start_time=end - int(waited * 1e9),
            attributes={"celery.task_name": task, "messaging.message.id": task_id, "celery.gconc.limits": limits},
        )
        span.end(end)
