"""What a worker looks at before it starts: whether limits are on, whether it may run, and what is amiss.

Thread: consumer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from celery import Celery
from celery.utils.log import get_logger

from celery_gconc.errors import LimitError, SessionRefused, SettingError
from celery_gconc.operations.declared import escaping_tasks
from celery_gconc.settings import NO_REDIS, SWITCHED_OFF, Settings
from celery_gconc.shell import refuse_start
from celery_gconc.worker.intake.intake import Intake
from celery_gconc.worker.session.health import Health

logger = get_logger(__name__)

T = TypeVar("T")


def is_on(settings: Settings, config: Mapping[str, int], consumer: Any) -> bool:
    """Whether this worker has anything to do with limits, until it is restarted; it says once that it hasn't."""
    if not settings.enabled:
        consumer.global_concurrency_off = SWITCHED_OFF
        return False
    if settings.location is None and not config:
        consumer.global_concurrency_off = f"celery-gconc is off in this worker: it has no limit, and {NO_REDIS}"
        logger.info(
            "celery-gconc: off until this worker is restarted: no limit is configured, and there is no Redis "
            "that could hold any (global_concurrency_redis_url)"
        )
        return False
    if settings.location is None:
        refuse_start(
            f"a limit is configured ({next(iter(config))}), but there is no Redis to keep it in: {NO_REDIS}; "
            "or set global_concurrency_enabled to False where limits aren't needed (as in tests)"
        )
    return True


def or_refuse(function: Callable[[], T]) -> T:
    """Call *function*; an error in settings or limits ends the command with one line."""
    try:
        return function()
    except (SettingError, LimitError) as exc:
        refuse_start(exc)


def say_what_is_amiss(app: Celery, settings: Settings) -> None:
    """Log what is not as it should be, though the worker may run."""
    for text in settings.warnings:
        logger.warning("celery-gconc: %s", text)
    for key, meant in settings.misspelt:
        logger.warning("celery-gconc: this app ignores the setting %s; did you mean %s?", key, meant)
    # Tasks with a strategy of their own (celery-batches) call the pool themselves: they pass no gate.
    if escaping := escaping_tasks(app):
        logger.warning(
            "celery-gconc: limits don't apply to %s: its custom Strategy submits to the pool directly, bypassing all "
            "limits (celery-batches does)",
            ", ".join(escaping),
        )


def check_broker(app: Celery, intake: Intake, health: Health, *, has_limits: bool) -> None:
    """See that we have the rights that we need where the broker is a Redis, which may be another one."""
    conf: Any = app.conf
    setting = "broker_url" if conf.broker_read_url == conf.broker_url else "broker_read_url"
    unseen: tuple[str, ...] = ()
    why = ""
    try:
        unseen = intake.check_rights(setting)
    except SessionRefused as exc:
        why = str(exc)
    if why and has_limits:
        logger.critical("celery-gconc: refusing to run: %s", why)
        health.refused(why)
    elif why:
        logger.error("celery-gconc: %s; limits set at run time will not be enforced", why)
    for text in unseen:
        logger.warning("celery-gconc: the broker: %s", text)
