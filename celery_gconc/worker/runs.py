"""The requests of this worker that were handed to the pool, and how each of them comes to its end.

    Hooks (accepted), Dispatcher (stopped_running), link (child_exited, result_written) -> Runs -> Ledger, Events

Thread: any. What runs is written down in the ledger, under its lock; nothing else here changes but a run's own fields.
"""

from __future__ import annotations

from celery_gconc.clock import now
from celery_gconc.worker.children import Children
from celery_gconc.worker.events import Events
from celery_gconc.worker.late_acks import survive_closed_channel
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.pool import Pool
from celery_gconc.worker.run import ENDED, GRANTED, STARTED, Run
from celery_gconc.worker.turns import Turns


class Runs:
    """One worker's."""

    def __init__(self, ledger: Ledger[Run], pool: Pool, children: Children, events: Events, turns: Turns) -> None:
        self._ledger, self._pool, self._children = ledger, pool, children
        self._events, self._turns = events, turns

    @property
    def session(self) -> str:
        """The session whose permits they run with."""
        return self._ledger.session

    def accepted(self, run: Run, pid: int) -> None:
        """A task starts in the process *pid*: where that is a child, its exit is to be noticed at once."""
        if run.state is GRANTED:
            run.state = STARTED
        if run.permit is not None and self._pool.is_child(pid):
            self._children.watch(pid)

    # -- Their end ---------------------------------------------------------------------------------------

    def ended(self, run: Run) -> bool:
        """A task runs no more: its permit and its slot are free. Return false where that was known before."""
        moment = now() if run.started_at else 0.0  # else nobody asks
        if run.state is ENDED or not self._ledger.ended(run, moment):
            return False
        run.state = ENDED
        if moment:
            self._events.released(run, moment)
        return True

    def may_still_run(self, run: Run) -> bool:
        """Whether the child that had the task may still be alive: then its exit ends the run, and nothing before."""
        pid = run.request.worker_pid
        if not self._pool.is_child(pid):
            return False
        self._children.watch(pid)
        return True

    def child_exited(self, pid: int) -> None:
        """A child is gone, and whatever it ran with it. On the link's thread."""
        lost = [run for run in self._ledger.running() if run.request.worker_pid == pid]
        for run in lost:
            self.ended(run)
            run.let_go()
        if lost:
            self._turns.wake()

    def result_written(self, job: int) -> None:
        """A job's task has ended, though its result is not read yet: its permit is free. On the link's thread."""
        for run in self._ledger.covered():
            if (of := run.job) is not None and of._job == job:
                self.ended(run)

    def pool_stopped(self) -> None:
        """The pool has been joined or killed: a job that it took and never wrote to a child ends without a call."""
        if self._pool.is_stopped:
            for run in self._ledger.running():
                self.ended(run)
                run.let_go()

    # -- While nobody reads results ----------------------------------------------------------------------

    def connection_lost(self) -> None:
        """The broker's connection is gone, by which their messages came. On the consumer's thread."""
        for run in self._ledger.running():
            survive_closed_channel(run.request.message)

    def watch_pipes(self) -> None:
        """The consumer's thread reads no results for now: see by their pipes which tasks with a permit have ended.

        By the job, not the child: that may have another one by the time at which something is seen to be written.
        """
        busy = {run.request.worker_pid: run.job for run in self._ledger.covered() if run.state is STARTED}
        pipes = self._pool.result_pipes().items()
        self._children.watch_pipes({fd: job._job for fd, pid in pipes if (job := busy.get(pid)) is not None})

    def watch_no_pipes(self) -> None:
        """It reads them again."""
        self._children.watch_pipes({})

    def thrown_away(self) -> list[Run]:
        """Those whose job the pool has thrown away, without a call, before any child had read it."""
        return [
            run
            for run in self._ledger.running()
            if self._pool.take_thrown_away(run.job, is_accepted=run.state is STARTED)
        ]
