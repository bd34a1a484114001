"""Celery's pytest fixtures: https://docs.celeryq.dev/en/stable/userguide/testing.html."""

from __future__ import annotations

import json
import os

import pytest

from celery_gconc import GlobalConcurrency


@pytest.fixture(scope="session")
def celery_config():
    return {"broker_url": "memory://", "result_backend": "cache+memory://", **json.loads(os.environ["TEST_CONF"])}


@pytest.fixture(scope="session")
def use_celery_app_trap():
    """Whoever takes the current app for the test's fails."""
    return True


@pytest.fixture
def celery_app(celery_app):
    GlobalConcurrency(celery_app)
    return celery_app


@pytest.fixture(scope="session")
def celery_session_app(celery_session_app):
    GlobalConcurrency(celery_session_app)

    @celery_session_app.task(name="add")
    def add(x, y):
        return x + y

    return celery_session_app


def test_create_task(celery_app, celery_worker):
    @celery_app.task
    def mul(x, y):
        return x * y

    celery_worker.reload()
    assert mul.delay(4, 4).get(timeout=20) == 16


@pytest.mark.usefixtures("celery_session_worker")
class TestTheSession:
    def test_one(self, celery_session_app):
        assert celery_session_app.tasks["add"].delay(1, 2).get(timeout=20) == 3

    def test_another(self, celery_session_app):
        assert celery_session_app.tasks["add"].delay(3, 4).get(timeout=20) == 7
