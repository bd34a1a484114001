"""Promise 7: what became of each task, and of each that was lost or run twice, which fault plain Celery has for it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field

from .checker import Checker, Task
from .plan import VISIBILITY
from .schedule import BROKER

#: Faults by which plain Celery may lose a message, or deliver one again.
_OF_BROKER = (*BROKER, "kill", "warm", "kill-child", "stop-long", "stop-short")

#: How long after a task has asked for a retry the message of it may still be on its way to a worker; seconds.
RETRIED = VISIBILITY + 5.0

#: How long after its last stamp the child of such a task may still be sending that message; seconds.
PUBLISHED = 1.0


@dataclass(slots=True)
class Fates:
    """Counts by fault: ``{"kill": 2}``. What no fault explains is in ``unexplained``, in words."""

    sent: int = 0
    done: int = 0
    excused: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    doubled: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)


def fates(checker: Checker) -> Fates:
    """Judge all tasks of a run that has ended."""
    found = Fates()
    allowance, retries = _allowance(checker), _retries(checker)
    for task in checker.tasks.values():
        if task.excuse == "unsent":
            continue
        found.sent += 1
        if task.done < math.inf:
            found.done += 1
        elif task.excuse:
            found.excused += 1
        else:
            cause = _why_lost(task, checker, allowance, retries)
            found.lost[cause or "?"] += 1
            if not cause:
                found.unexplained.append(f"lost: {_story(task)}")
        for attempt in {run.attempt for run in task.runs}:
            runs = [run for run in task.runs if run.attempt == attempt]
            for first, second in itertools.pairwise(runs):
                cause = _why_doubled(task, first.started, second.started, first.killed, checker)
                found.doubled[cause or "?"] += 1
                if not cause:
                    found.unexplained.append(f"doubled: {_story(task)}")
    return found


def _allowance(checker: Checker) -> Counter[str]:
    """How many messages each fault may take on their way: with Redis, what one read of each worker brings."""
    allowed: Counter[str] = Counter()
    for _, _, name, lives in checker.history.values():
        if name in ("kill", "kill-child", "warm"):
            allowed[name] += 1 + sum(checker.lives[life].slots for life in lives)
        elif name in BROKER:
            allowed[name] += len(lives) if checker.is_redis else 0
    return allowed


def _retries(checker: Checker) -> Counter[str]:
    """How many retries each fault may take: a task publishes its own, unconfirmed, so at most one for each slot."""
    allowed: Counter[str] = Counter()
    for _, _, name, lives in checker.history.values():
        allowed[name] += sum(checker.lives[life].slots for life in lives)
    return allowed


def _why_lost(task: Task, checker: Checker, allowance: Counter[str], retries: Counter[str]) -> str:
    if task.runs:
        last = task.runs[-1]
        if last.killed:
            by_child = "/" in last.killed
            if not task.late or (by_child and task.name != "chaos.requeued"):
                return "kill-child" if by_child else "kill"
        elif last.ended < math.inf:  # it asked for a retry, and that was lost
            until = last.ended + RETRIED
            return (
                _fault_between(last.started, until, checker, (*BROKER,), retries)
                or _fault_between(last.started, until, checker, ("kill", "warm"), retries)
                or _fault_between(last.started, last.ended + PUBLISHED, checker, ("kill-child",), retries, last.life)
            )
    elif task.got:
        _, life = task.got[-1]
        ended = checker.lives[life]
        if not task.late and ended.dead < math.inf and ended.dead >= task.got[-1][0]:
            return _take(allowance, "kill") or _take(allowance, "warm")
        if child := _fault_between(task.got[-1][0], math.inf, checker, ("kill-child",), allowance, life):
            return child
    if not checker.is_redis:
        return ""
    return _fault_between(_at_broker(task, checker), math.inf, checker, (*BROKER, "kill", "warm"), allowance)


def _at_broker(task: Task, checker: Checker) -> float:
    """Since when Redis has had the message to give to somebody: as it was sent, or given back by who had it last."""
    if task.runs or not task.got:
        return task.sent
    got, life = task.got[-1]
    given_back = (
        begins for begins, ends, name, lives in checker.history.values()
        if name in (*BROKER, "warm") and ends >= got and life in lives
    )  # fmt: skip
    return min([got + VISIBILITY, *given_back])


def _take(allowance: Counter[str], name: str) -> str:
    if allowance[name] <= 0:
        return ""
    allowance[name] -= 1
    return name


def _fault_between(
    begin: float, end: float, checker: Checker, names: tuple[str, ...], allowance: Counter[str], life: str = ""
) -> str:
    """The first of these faults in that time (that happened to *life*) which may still be blamed for a message."""
    for begins, ends, name, lives in sorted(checker.history.values()):
        is_near = ends >= begin and begins <= end and (not life or life in lives)
        if name in names and is_near and _take(allowance, name):
            return name
    return ""


def _why_doubled(task: Task, first: float, second: float, killed: str, checker: Checker) -> str:
    if killed:
        return "kill-child" if "/" in killed else "kill"
    begins = min([task.sent, *(time for time, _ in task.got)])
    names = [
        name for begin, end, name, _ in sorted(checker.history.values())
        if name in _OF_BROKER and begin <= second and end >= begins
    ]  # fmt: skip
    for name in reversed(names):
        if name in BROKER:
            return name
    if names:
        return names[-1]
    if checker.is_redis and second - begins > VISIBILITY:
        return "visibility"
    return ""


def _story(task: Task) -> str:
    runs = [f"{run.attempt} on {run.life} {run.started:.3f}-{run.ended:.3f} {run.killed}" for run in task.runs]
    return f"{task.name} {task.id} in {task.queue} sent {task.sent:.3f} got {task.got} runs {runs}"
