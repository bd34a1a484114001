from .celery import app, billing

__all__ = ["app", "billing"]
