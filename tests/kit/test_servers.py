"""Ports that tests are given."""

from __future__ import annotations

import pytest

from tests.kit.servers import free_port


def test_no_port_is_given_twice_in_any_of_the_processes_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    given = []
    for process in range(3):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{process}")
        ports = [free_port() for _ in range(200)]
        assert len({port % 3 for port in ports}) == 1, "of others none is given"
        given += ports
    assert len(set(given)) == 600
