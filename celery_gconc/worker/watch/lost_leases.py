"""Ends tasks whose lease is over, where ``global_concurrency_on_lease_lost`` is ``"terminate"``.

    the lease's end by this worker's own clock, Health (Redis has ended the session) -> LeaseGuard -> the pool

Thread: its own.

Another session may be given the permits of a lease as soon as it has ended, whether this worker can reach Redis or
not, and a reply that tells of it comes when that has happened. So the worker's own clock decides, and a moment ahead.
A prefork child is sent its signal from the thread that has noticed: the event loop may wait for the broker just then.
"""

from __future__ import annotations

import threading
from typing import Any

from billiard.common import TERM_SIGNAL
from celery.utils.log import get_logger

from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.run import ENDED, STARTED, Run
from celery_gconc.worker.session.health import Health, LostLeases

logger = get_logger(__name__)

#: How long before a lease's end, in seconds, its tasks are terminated; no more than half a heartbeat interval.
AHEAD = 0.5

#: How often, in seconds, the guard looks while the lease is over; and else at least (waiting doesn't count a suspended
#: machine's time, the lease does).
LOOK_SECONDS, LOOK_AT_LEAST = 0.1, 1.0


class LeaseGuard:
    """One worker's. A thread of its own watches the lease, and takes note of those that were lost all the same."""

    def __init__(self, consumer: Any, pool: Pool, ledger: Ledger[Run], health: Health, *, interval: float) -> None:
        self._consumer, self._pool, self._ledger = consumer, pool, ledger
        self._health = health
        self._lost = LostLeases()
        self._ahead = min(AHEAD, interval / 2)
        #: How many tasks were terminated. Its thread writes.
        self.terminated = 0
        #: Those of them that have not ended. Its thread's.
        self._doomed: set[Run] = set()
        #: Set by :meth:`close`, on the consumer's thread.
        self._is_closed = False
        self._thread = threading.Thread(target=self._watch, name="celery-gconc-lease-guard", daemon=True)

    def start(self) -> None:
        """Begin to watch the lease."""
        self._health.listen(self._lost)
        self._thread.start()

    def close(self) -> None:
        """The worker has ended its tasks."""
        self._is_closed = True
        self._lost.wake()

    def _watch(self) -> None:
        while not self._is_closed:
            self._lost.wait(self._next_look())
            while (lost := self._lost.take()) is not None:
                self._terminate([run for run in self._ledger.covered() if run in lost.holders])
            self._terminate(self._ledger.covered(ends_within=self._ahead))

    def _next_look(self) -> float:
        return min(max(self._ledger.lease_left() - self._ahead, LOOK_SECONDS), LOOK_AT_LEAST)

    def _terminate(self, runs: list[Run]) -> None:
        self._doomed = {run for run in self._doomed if run.state is not ENDED}
        doomed = [run for run in runs if not run.is_unlimited and run not in self._doomed]
        self._doomed.update(doomed)
        if not doomed:
            return
        self.terminated += len(doomed)
        logger.warning(
            "celery-gconc: this worker's lease has ended, so its permits may go to others; terminating %s",
            ", ".join(f"{run.task}[{run.task_id}]" for run in doomed),
        )
        for run in doomed:
            self._end(run)

    def _end(self, run: Run) -> None:
        try:
            self._signal(run)
        except Exception:
            logger.exception("celery-gconc: could not terminate task %s[%s]", run.task, run.task_id)

    def _signal(self, run: Run) -> None:
        request = run.request
        pool: Any = self._pool.pool
        if not self._pool.has_children:
            # A greenlet each: killing one waits until it is dead.
            threading.Thread(target=request.terminate, args=(pool,), daemon=True).start()
        elif run.state is STARTED:
            # One signal, for a second would cut the task's clean-up short; Celery (5.4-5.7) announces the revoke when
            # it hears of the child's exit, on the consumer's thread.
            pool.terminate_job(request.worker_pid, TERM_SIGNAL)
        else:
            self._consumer.call_soon(request.terminate, pool)  # as soon as the child is known
