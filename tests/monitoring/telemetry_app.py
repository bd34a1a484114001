"""The cluster tests' app, whose workers tell OpenTelemetry's own SDK, which writes to files."""

from __future__ import annotations

import os

from celery.signals import worker_init
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from tests.cluster.app import app

__all__ = ["app"]


@worker_init.connect
def telemetry(**kwargs: object) -> None:
    """As docs/how-to/monitor.md has it: in the worker's main process."""
    folder = os.environ["TEST_TELEMETRY"]
    exporter = ConsoleMetricExporter(
        out=open(f"{folder}/metrics", "w", buffering=1), formatter=lambda told: told.to_json(indent=None) + "\n"
    )
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=200)
    metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
    traces = TracerProvider()
    spans = open(f"{folder}/spans", "w", buffering=1)
    traces.add_span_processor(
        SimpleSpanProcessor(ConsoleSpanExporter(out=spans, formatter=lambda span: span.to_json(indent=None) + "\n"))
    )
    trace.set_tracer_provider(traces)
