"""The Celery app, with the two lines of celery-gconc after its settings are named."""

from __future__ import annotations

import os

from celery import Celery

from celery_gconc import GlobalConcurrency

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
gconc = GlobalConcurrency(app)
app.autodiscover_tasks()
