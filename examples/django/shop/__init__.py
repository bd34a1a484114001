"""The project: imports its Celery app, so that tasks find it in every process of Django's, too."""

from .celery import app as celery_app

__all__ = ["celery_app"]
