"""What users touch: ``GlobalConcurrency(app)``, which adds the consumer step and the commands, and the Python API."""

from __future__ import annotations

from typing import Any

from celery import Celery, states

from celery_gconc.connection.hidden import hide_url
from celery_gconc.errors import SettingError
from celery_gconc.flower import install_when_flower_starts
from celery_gconc.operations.operations import Operations
from celery_gconc.protocol.status import Purged
from celery_gconc.settings import check_pending
from celery_gconc.shell import refuse_start
from celery_gconc.worker import control  # noqa: F401 - its commands: the shell that gives them checks them, too

#: The consumer step, which Celery imports where it makes a worker, and nowhere else (5.4-5.7: ``Blueprint.load_step``).
STEP = "celery_gconc.worker.step:GlobalConcurrencyStep"


class GlobalConcurrency(Operations):
    """Global concurrency limits for a Celery app.

    ``GlobalConcurrency(app)`` makes every worker of *app* follow the limits in ``app.conf`` and in its tasks'
    ``global_concurrency=`` options, across all workers that share the coordination Redis. It may be called more than
    once, and opens no connection. Its methods, those of :class:`~celery_gconc.Operations`, read and change limits from
    any process, even when no worker is running.

    Raises:
        SettingError: a ``global_concurrency_*`` setting known by now breaks its rule. In a ``celery`` command, that is
            one line on stderr, and exit code 1.
    """

    def __init__(self, app: Celery) -> None:
        super().__init__(app)
        # For what shows the configuration with no worker, as `celery report` does.
        app.on_after_configure.connect(_hide_url, weak=False)
        try:
            check_pending(app)
        except SettingError as exc:
            refuse_start(exc)
        app.steps["consumer"].add(STEP)
        _place_state_waiting()
        install_when_flower_starts(app)

    def purge(self, limit: str, timeout: float = 1.0) -> Purged:
        """Permanently remove the messages that wait for a limit, at the broker and in workers."""
        from celery_gconc.operations.purge import purge  # it brings what asks workers, which others don't need

        return purge(self, limit, timeout)


def _hide_url(source: Any, **kwargs: Any) -> None:
    hide_url(source)


def _place_state_waiting() -> None:
    """Have the state of a parked task, by its event ``task-waiting``, give way to STARTED and what comes after it.

    (celery 5.4-5.7: a state that isn't in this table outranks STARTED and REVOKED, in Flower too, for ever.)
    """
    lookup: dict[str | None, float] = states.PRECEDENCE_LOOKUP  # type: ignore[assignment]
    lookup.setdefault("WAITING", states.precedence("STARTED") + 0.5)
