"""Warns of tasks that wait for a permit which the task that sent them holds: a deadlock by design.

    tick -> DeadlockWatch.look -> link -> Store.holders -> one warning

A parent that waits for the result of a child under the same limit keeps its permit meanwhile. Once every place of the
limit is a parent's, none of them ends. Whether a parent does wait can't be seen from outside, so this is a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from celery.utils.log import get_logger

from celery_gconc.clock import now
from celery_gconc.limits.claims import Limits
from celery_gconc.protocol.status import Holding
from celery_gconc.protocol.store import Store
from celery_gconc.worker.run import Run

logger = get_logger(__name__)

#: For how long, in seconds, a request has waited before its ancestors are looked for among the holders.
SUSPECT_SECONDS = 10.0

#: How often, in seconds, some of the requests are looked at.
LOOK_SECONDS = 1.0

#: How many requests are suspected at a time.
MOST_SUSPECTS = 1000

#: How many holders of a limit are looked at: a deadlock needs a parent for each place.
MOST_HOLDERS = 200

Ask = Callable[[Callable[[Store], tuple[Holding, ...]]], "Future[tuple[Holding, ...]]"]


class DeadlockWatch:
    """One worker's. :meth:`look` is for the consumer's thread; answers come on the link's."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._next = self._next_look = 0.0
        #: Who waits for what its ancestor may hold: by limit and by the ancestor's id; and about how many.
        self._suspects: dict[str, dict[str, Run]] = {}
        self._suspected = 0
        #: What was warned of: limit, parent's task, child's task.
        self._told: set[tuple[str, str, str]] = set()

    def look(self, runs: Iterable[Run], covering: Callable[[Limits], Limits]) -> None:
        """Look at requests that are held, some at a time; costs a call to Redis for each limit that has suspects."""
        moment = now()
        if moment < self._next_look:
            return
        self._next_look = moment + LOOK_SECONDS
        for run in runs:
            if moment - run.arrived >= SUSPECT_SECONDS and self._suspected < MOST_SUSPECTS:
                for ancestor in _ancestors(run.request):
                    self._suspected += 1
                    for limit in covering(run.names):
                        self._suspects.setdefault(limit, {})[ancestor] = run
        if moment < self._next:
            return
        self._next = moment + SUSPECT_SECONDS / 2
        suspects, self._suspects, self._suspected = self._suspects, {}, 0
        for limit, children in suspects.items():
            self._look_for(limit, children)

    def _look_for(self, limit: str, children: dict[str, Run]) -> None:
        def tell(future: Future[tuple[Holding, ...]]) -> None:
            if future.exception() is not None:
                return  # Redis is away: there are other worries
            for holding in future.result():
                child = children.get(holding.task_id)
                if child is not None:
                    self._warn(limit, holding, child)

        self._ask(lambda store: store.holders(limit, MOST_HOLDERS)).add_done_callback(tell)

    def _warn(self, limit: str, parent: Holding, child: Run) -> None:
        told = (limit, parent.task, child.task)
        if told in self._told:
            return
        self._told.add(told)
        logger.warning(
            "celery-gconc: possible deadlock: %s[%s] has waited %.0f s for a permit under %s, and %s[%s], which sent "
            "it, holds one: if that one waits for its result, neither ends. Take one of the two out of the limit, or "
            "let the parent not wait (a chain or chord)",
            child.task,
            child.task_id,
            now() - child.arrived,
            limit,
            parent.task,
            parent.task_id,
        )


def _ancestors(request: Any) -> set[str]:
    """The ids of the task that sent this one, and of the first of all."""
    found = {request.parent_id, request.root_id} - {None, request.id}
    return {str(task_id) for task_id in found}
