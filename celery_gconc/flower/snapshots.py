"""Where requests to Flower meet Redis: on threads of its own, never on Flower's loop, and once however many look.

handler, on Flower's loop -> SnapshotCache -> its threads -> Operations -> Redis
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from celery import Celery

from celery_gconc.clock import now
from celery_gconc.operations.operations import Operations
from celery_gconc.protocol.status import Change, as_json

#: How long one call to Redis may take, in seconds (connecting may take two).
CALL_TIMEOUT = 1.0

#: How old, in seconds, what is shown may be.
FRESH_SECONDS = 1.0

#: How many threads talk to Redis; while it is silent each may be stuck for a while.
THREADS = 4

#: How many holders and waiters of a limit are shown, and of how many limits in one go.
MAX_SHOWN, MAX_OPEN = 100, 20

T = TypeVar("T")


class SnapshotCache:
    """One for each Flower. Opens no connection before it is asked. Everything here runs on Flower's loop."""

    def __init__(self, app: Celery) -> None:
        self._operations = Operations(app, call_timeout=CALL_TIMEOUT)
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="gconc")
        #: What was asked, when, and its answer or the wait for it.
        self._asked: dict[Hashable, tuple[float, asyncio.Future[Any]]] = {}

    async def snapshot(self, opened: list[str]) -> dict[str, Any]:
        """All limits and workers as JSON has them, and of the *opened* limits who holds and who waits.

        Raises:
            GlobalConcurrencyError: Redis can't be reached, a limit's name can't be understood, a setting is wrong.
        """
        ask = self._operations
        names = [ask.full_name(limit) for limit in opened[:MAX_OPEN]]
        shown: dict[str, Any] = as_json(await self._fresh("status", ask.status))
        for what, function in (("holders", ask.holders), ("waiting", ask.waiting)):
            told = [self._fresh((what, name), partial(function, name, MAX_SHOWN)) for name in names]
            shown[what] = dict(zip(names, map(as_json, await asyncio.gather(*told)), strict=True))
        return shown

    async def change(self, function: Callable[[Operations], Change]) -> Change:
        """Change something; who looks next sees what holds then.

        Raises:
            GlobalConcurrencyError: as above; nothing was changed, except where Redis didn't answer in time: then it
                isn't known.
        """
        try:
            return await self._run(lambda: function(self._operations))
        finally:
            self._asked.clear()

    async def _fresh(self, key: Hashable, ask: Callable[[], T]) -> T:
        """The answer, or error, of a moment ago; else a new one, which all wait for who ask meanwhile."""
        oldest = now() - FRESH_SECONDS
        self._asked = {
            key: (at, answer) for key, (at, answer) in self._asked.items() if at > oldest or not answer.done()
        }
        if key not in self._asked:
            self._asked[key] = (now(), self._run(ask))
        answer: T = await asyncio.shield(self._asked[key][1])
        return answer

    def _run(self, function: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, function)
