"""The limits as metrics: Prometheus and OpenTelemetry."""
