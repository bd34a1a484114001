"""Celery's own test suites as the judge: nothing that passes without celery-gconc may fail with it."""
