"""Pools that aren't Celery's, for ``-P custom`` (``CELERY_CUSTOM_WORKER_POOL``)."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery.concurrency.base import BasePool, apply_target
from celery.concurrency.prefork import TaskPool as Prefork

from tests.cluster.app import app, tell


class OwnPool(BasePool):
    """Made from scratch: threads, and nothing is given back but the calls that BasePool asks for."""

    signal_safe = False

    def on_start(self) -> None:
        self.executor = ThreadPoolExecutor(self.limit)

    def on_stop(self) -> None:
        self.executor.shutdown()

    def on_apply(self, target: Any, args: Any = None, kwargs: Any = None, callback: Any = None,
                 accept_callback: Any = None, **_: Any) -> None:  # fmt: skip
        self.executor.submit(apply_target, target, args, kwargs, callback, accept_callback)


class OwnPrefork(Prefork):
    """Celery's own with something added."""


class Sizeless(OwnPool):
    """Doesn't say how many tasks it runs at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limit = None


class Stranger:
    """Has all the names of a BasePool, and isn't one."""

    Timer = BasePool.Timer
    is_green = signal_safe = uses_semaphore = task_join_will_block = body_can_be_buffer = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.limit = self.num_processes = 1

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


@app.task(name="tests.cluster.app.awaiting")
async def awaiting(number: int, seconds: float) -> int:
    """Sleep as asyncio has it (celery-aio-pool)."""
    tell("s", number, "awaiting")
    await asyncio.sleep(seconds)
    tell("e", number, "awaiting")
    return number
