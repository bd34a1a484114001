"""What becomes of a worker that must not run: Celery stops it, and whoever waits for it to be ready hears why.

Thread: consumer; a test's own waits.

``celery.contrib.testing`` starts a worker in a thread, and waits until it is ready, and for nothing else: so one that
must not run would have it wait for ever. (celery 5.4-5.7: for the event ``_on_started``, in ``ensure_started``; other
workers have neither.)
"""

from __future__ import annotations

from typing import Any

from celery.worker import state

from celery_gconc.errors import SettingError
from celery_gconc.worker.session.health import Health

#: Exit code of a worker that must not run (EX_CONFIG of sysexits.h).
EX_CONFIG = 78


def heed_refusal(health: Health) -> bool:
    """Have Celery stop this worker where it must not run; return whether that is so."""
    if health.refusal is None:
        return False
    state.should_stop = EX_CONFIG  # type: ignore[assignment]
    return True


def forget_refusal(health: Health) -> None:
    """The worker has stopped: the next one in this process has nothing to do with why."""
    if health.refusal is not None:
        state.should_stop = None


def watch_start(controller: Any, health: Health) -> None:
    """Have whoever waits for a worker to be ready get a :class:`SettingError` where it must not run."""
    wait = getattr(controller, "ensure_started", None)
    if wait is None:
        return

    def ensure_started() -> None:
        wait()
        if health.refusal is not None:
            raise SettingError(health.refusal)

    controller.ensure_started = ensure_started


def end_wait(controller: Any) -> None:
    """Have whoever waits go on: the worker never becomes ready."""
    if hasattr(controller, "ensure_started") and hasattr(controller, "_on_started"):
        controller._on_started.set()
