"""Warns of tasks that wait for a permit which the task that sent them holds: a deadlock by design.

    tick -> DeadlockWatch.suspect -> link -> Store.holders -> one warning

Thread: the one that may start requests; answers come on the link's.

A parent that waits for the result of a child under the same limit keeps its permit meanwhile. Once every permit of the
limit is a parent's, none of them ends. Whether a parent does wait can't be seen from outside, so this is a warning.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from celery.utils.log import get_logger

from celery_gconc.clock import now
from celery_gconc.protocol.status import Holder
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.run import Run
from celery_gconc.worker.session.link import Link

logger = get_logger(__name__)

#: For how long, in seconds, a request has waited before its ancestors are looked for among the holders.
SUSPECT_SECONDS = 10.0

#: How often, in seconds, suspects are collected from some of the requests.
COLLECT_SECONDS = 1.0

#: How many requests are suspected at a time.
MAX_SUSPECTS = 1000

#: How many holders of a limit are looked at: a deadlock needs a parent for each permit.
MAX_HOLDERS = 200


class DeadlockWatch:
    """One worker's. All fields belong to the thread that may start requests, but :attr:`_warned` to the link's."""

    def __init__(self, link: Link, ledger: Ledger[Run]) -> None:
        self._link, self._ledger = link, ledger
        #: When suspects are collected again, and when the holders of their limits are read, by :func:`now`.
        self._next_collect = self._next_read = 0.0
        #: Those that went back to a full queue, and have somebody who sent them, by task id.
        self._sent_back: dict[str, Run] = {}
        #: Who waits for what its ancestor may hold: by limit and by the ancestor's id; and about how many.
        self._suspects: dict[str, dict[str, Run]] = {}
        self._suspected = 0
        #: Warnings that were given: limit, parent's task, child's task.
        self._warned: set[tuple[str, str, str]] = set()

    def suspect(self, runs: Iterable[Run]) -> None:
        """Look at requests that are held, some at a time; costs a call to Redis for each limit that has suspects."""
        moment = now()
        if moment < self._next_collect:
            return
        self._next_collect = moment + COLLECT_SECONDS
        for run in (*runs, *self._still_away(moment)):
            if moment - run.arrived >= SUSPECT_SECONDS and self._suspected < MAX_SUSPECTS:
                for ancestor in _ancestors(run.request):
                    self._suspected += 1
                    for limit, _ in self._ledger.covering(run.candidates):
                        self._suspects.setdefault(limit, {})[ancestor] = run
        if moment < self._next_read:
            return
        self._next_read = moment + SUSPECT_SECONDS / 2
        suspects, self._suspects, self._suspected = self._suspects, {}, 0
        for limit, children in suspects.items():
            self._compare(limit, children)

    def sent_back(self, runs: Iterable[Run]) -> None:
        """These wait at the broker from now on, where their limit is full too, and may not be seen again."""
        for run in runs:
            if len(self._sent_back) < MAX_SUSPECTS and _ancestors(run.request):
                self._sent_back[run.task_id] = run

    def _still_away(self, moment: float) -> list[Run]:
        """Those that went back so long ago, each once."""
        found = [run for run in self._sent_back.values() if moment - run.arrived >= SUSPECT_SECONDS]
        for run in found:
            del self._sent_back[run.task_id]
        return found

    def _compare(self, limit: str, children: dict[str, Run]) -> None:
        """Warn where the holders of a limit are ancestors of those that wait for it."""

        def answered(future: Future[tuple[Holder, ...]]) -> None:
            if future.exception() is not None:
                return  # Redis is unreachable: there are other worries
            for holding in future.result():
                child = children.get(holding.task_id)
                if child is not None:
                    self._warn(limit, holding, child)

        self._link.call(lambda store: store.holders(limit, MAX_HOLDERS)).add_done_callback(answered)

    def _warn(self, limit: str, parent: Holder, child: Run) -> None:
        warning = (limit, parent.task, child.task)
        if warning in self._warned:
            return
        self._warned.add(warning)
        logger.warning(
            "celery-gconc: possible deadlock: %s[%s] has waited %.0f s for a permit under %s, and %s[%s], which sent "
            "it, holds one. If the parent waits for the result, neither can finish: take one of them out of the limit, "
            "or use a chain or chord instead of waiting",
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
