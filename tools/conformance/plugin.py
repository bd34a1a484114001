"""A pytest plugin for Celery's integration suite: installs celery-gconc on every app that starts a test worker.

The suite is written to run in one process, where the first test that wants the worker leaves it running for all that
follow, some of which don't ask for it. Here it runs in handfuls, so each starts the worker at once; in every mode.
"""

from __future__ import annotations

from typing import Any

import pytest
from celery.contrib.testing.worker import test_worker_starting

from tools.conformance.modes import install

#: The file whose tests make other workers in the same process, which the one for all must not see.
OWN_WORKERS = "test_worker.py"


def _install(sender: Any, **_: Any) -> None:
    install(sender)


def pytest_configure() -> None:
    """Connect to the signal that Celery sends before it builds the worker."""
    test_worker_starting.connect(_install, weak=False)


@pytest.fixture(scope="session", autouse=True)
def worker_for_all(request: pytest.FixtureRequest) -> None:
    """Start the suite's one worker before the first test."""
    if not any(OWN_WORKERS in item.nodeid for item in request.session.items):
        request.getfixturevalue("celery_session_worker")
