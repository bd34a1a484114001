"""Promise 2: no task waits while, all the time, its limits have a place and a slot is free where it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .plan import STUCK
from .records import Task
from .schedule import BROKER

if TYPE_CHECKING:
    from .checker import Checker


class Waiting:
    """Looks, between events, for tasks that could have started for :data:`~tools.chaos.plan.STUCK` seconds.

    Only while no fault is under way or may still show; ``watched`` tells for how many seconds that was.
    """

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._ticked = 0.0
        self.watched = 0.0

    def tick(self, now: float) -> None:
        """Look at this instant."""
        checker = self._checker
        for limit in checker.maxima:
            checker.note_full(limit, now)
        for life in checker.lives.values():
            if len(life.runs) >= life.slots:
                life.busy = now
        ready = (life.ready + 1.0 for life in checker.lives.values() if life.ready < math.inf)
        quiet = max([checker.quiet, *ready])
        before, self._ticked = self._ticked, now
        if checker.active or now < quiet or not checker.extended:
            return
        self.watched += now - before if before > quiet else 0.0
        for name in list(checker.waiting):
            task = checker.tasks[name]
            if task.excuse:
                continue
            since = self._startable_since(task, quiet)
            if now - since > STUCK:
                checker.waiting.discard(name)
                text = f"{task.name} {name} in {task.queue} sent {task.sent:.3f} got {task.got}"
                checker.violate(2, "stuck", now, f"{text} could have started since {since:.3f}")

    def _startable_since(self, task: Task, quiet: float) -> float:
        checker = self._checker
        limits = max(checker.full[limit] for limit in task.limits)
        if task.got:
            life = checker.lives[task.got[-1][1]]
            if life.dead < math.inf or self._failed_since(task.got[-1][0], BROKER):
                return math.inf  # the broker has still to deliver it again: at the end it must have
            where = life.busy
        else:
            if self._failed_since(task.sent, (*BROKER, "kill", "warm")):
                return math.inf  # it may have been on its way then: plain Celery loses it too, or delivers it again
            alive = [life for life in checker.lives.values() if life.ready < math.inf]
            where = min((max(life.busy, life.ready) for life in alive), default=math.inf)
        return max(limits, where, task.ready, quiet)

    def _failed_since(self, time: float, names: tuple[str, ...] | dict[str, tuple[float, float]]) -> bool:
        return any(end >= time for _, end, name, _ in self._checker.history.values() if name in names)
