"""Serves the metrics of a namespace to Prometheus over HTTP: ``celery gconc exporter``."""

from __future__ import annotations

import signal
from queue import SimpleQueue
from types import TracebackType

from celery import Celery

from celery_gconc.errors import GlobalConcurrencyError
from celery_gconc.operations.operations import Operations

#: How long, in seconds, one call to Redis may take in a scrape (connecting may take two): Prometheus waits for 10 s.
SCRAPE_TIMEOUT = 1.0


class ExporterError(GlobalConcurrencyError):
    """The exporter can't serve; the message says why and what to do."""


class Exporter:
    """An HTTP server on a thread of its own, from when it is made to the end of its ``with`` block.

    Raises:
        ExporterError: prometheus_client isn't installed, or the address can't be listened on.
        SettingError: there is no coordination Redis to read.
    """

    def __init__(self, app: Celery, host: str, port: int) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            raise ExporterError(
                "the exporter needs prometheus_client: pip install 'celery-gconc[prometheus]'"
            ) from None
        from celery_gconc.metrics.prometheus import Collector

        operations = Operations(app, call_timeout=SCRAPE_TIMEOUT)
        operations.settings.check_usable()  # a metric would only say that something is wrong
        registry = CollectorRegistry()
        registry.register(Collector(operations))
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except (OSError, OverflowError) as exc:
            why = getattr(exc, "strerror", None) or str(exc)
            raise ExporterError(f"can't listen on {host} port {port}: {why}; choose another --host or --port") from None
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    def wait(self) -> None:
        """Serve until Ctrl-C or SIGTERM. On the main thread."""
        signals: SimpleQueue[int] = SimpleQueue()  # its put may interrupt its get, unlike an Event's set its wait
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: signals.put(number))
        signals.get()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
