"""What is known of a worker's pool: its name, of which kind it is, how many tasks it can run at once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from celery.concurrency.base import BasePool

from celery_gconc.errors import SettingError

#: The names by which ``celery worker -P`` knows Celery's pools, by their modules in ``celery.concurrency``.
KINDS = {"prefork": "prefork", "thread": "threads", "gevent": "gevent", "eventlet": "eventlet", "solo": "solo"}

#: The kinds whose tasks can be terminated while they run.
CAN_TERMINATE = ("prefork", "gevent", "eventlet")


def pool_kind(pool: Any) -> str:
    """Which of Celery's pools a pool is, or is derived from; empty for one that is made from scratch.

    By module: importing gevent's here would load gevent, and not every Python has what prefork's needs.
    """
    return _kind_by_class(type(pool))  # type: ignore[arg-type]


def pool_name(pool: Any) -> str:
    """The name by which ``celery worker -P`` knows a pool; of one that isn't Celery's own, its class."""
    return _kind_of(type(pool)) or type(pool).__qualname__


def pool_size(pool: Any) -> int:
    """How many tasks a pool can run at once now. Never kept: autoscale, grow and shrink change it.

    (celery 5.4-5.6: ``num_processes`` of the green pools is the number of tasks that run; ``limit`` is their size.)
    """
    if pool_kind(pool) == "prefork":
        stopped = getattr(pool, "_pool", None) is None  # celery 5.4-5.7
        return 0 if stopped else int(pool.num_processes)
    return int(pool.limit or 0)


def check_pool(pool: Any) -> None:
    """See to it that a pool that isn't Celery's own (``-P custom``) follows Celery's interface.

    Raises:
        SettingError: nobody could know when its tasks end, or how many it can run.
    """
    name = f"{type(pool).__module__}:{type(pool).__qualname__}"
    instead = "use -P prefork, threads, gevent or solo (worker_pool)"
    if not isinstance(pool, BasePool):
        raise SettingError(
            f"the pool {name} is no celery.concurrency.base.BasePool: nobody can know when its tasks end, so no limit "
            f"can hold; {instead}"
        )
    if not isinstance(pool.limit, int):
        raise SettingError(
            f"the pool {name} doesn't say how many tasks it runs at once (its 'limit' is {pool.limit!r}), so no limit "
            f"can hold; {instead}"
        )


@lru_cache
def _kind_by_class(cls: type) -> str:
    return next(filter(None, map(_kind_of, cls.__mro__)), "")


def _kind_of(cls: type) -> str:
    package, _, module = cls.__module__.rpartition(".")
    return KINDS.get(module, "") if package == "celery.concurrency" else ""
