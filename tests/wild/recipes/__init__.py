"""Small projects with test suites as Celery's documentation has them, each run in a process of its own.

Their files are named so that this project's own tests don't collect them. ``TEST_CONF`` has the app's settings.
"""
