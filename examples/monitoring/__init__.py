"""Limits in Prometheus and Grafana: an app with a load that comes and goes, a dashboard, and alert rules."""
