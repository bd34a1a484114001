"""A Django project with Celery's settings in its own namespace, and nothing that limits are about but the limits."""

from __future__ import annotations

import json
import os

SECRET_KEY = "for this test only"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["TEST_DATABASE"],
        "TEST": {"NAME": os.environ["TEST_DATABASE"] + ".test"},
    }
}
USE_TZ = True

CELERY_BROKER_URL = "memory://"
CELERY_RESULT_BACKEND = "cache+memory://"
globals().update(json.loads(os.environ["TEST_CONF"]))
