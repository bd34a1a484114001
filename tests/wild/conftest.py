"""Fixtures: those of the cluster tests."""

from __future__ import annotations

from tests.cluster.conftest import make_cluster, oracle_url, rabbitmq_url

__all__ = ["make_cluster", "oracle_url", "rabbitmq_url"]
