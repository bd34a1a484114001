"""The workers' app with celery-gconc installed, as a template: pytest-celery replaces the lines that say ``= None``
and the app's, and writes the result as ``app.py`` into each worker's directory."""

from __future__ import annotations

from celery import Celery

from celery_gconc import GlobalConcurrency

imports = None

app = Celery("celery_test_app")
config = None

if config:
    app.config_from_object(config)

gconc = GlobalConcurrency(app)
