"""A worker inside a test: ``celery.contrib.testing`` starts it in a thread, and waits until it is ready.

It waits for nothing else, so a worker that may not run would have it wait for ever. (celery 5.4-5.7: for the event
``_on_started``, in ``ensure_started``; other workers have neither.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_gconc.errors import SettingError


def watch_start(controller: Any, refusal: Callable[[], str | None]) -> None:
    """Have who waits for a worker to be ready get a :class:`SettingError` where there is a *refusal*."""
    wait = getattr(controller, "ensure_started", None)
    if wait is None:
        return

    def ensure_started() -> None:
        wait()
        if (why := refusal()) is not None:
            raise SettingError(why)

    controller.ensure_started = ensure_started


def end_wait(controller: Any) -> None:
    """Have who waits go on: the worker never becomes ready."""
    if hasattr(controller, "ensure_started") and hasattr(controller, "_on_started"):
        controller._on_started.set()
