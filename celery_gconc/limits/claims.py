"""Which limits cover a task: what it claims by its name, its queue and its option."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from celery_gconc.errors import LimitError
from celery_gconc.limits.name import APP, MAX_SHOWN, parse_limit, shown
from celery_gconc.limits.rules import parse_max

#: Celery's own tasks (``celery.chord_unlock``, ``celery.backend_cleanup``...) are exempt from ``app`` and
#: ``queue:`` limits: they carry other tasks' progress, and holding them back can stop what would free the limit.
BUILT_IN = "celery."

#: The names of the limits that cover one task, sorted: its permit is all of them at once.
Limits = tuple[str, ...]


class Claim(NamedTuple):
    """What one task needs of one limit."""

    limit: str
    weight: int = 1


@lru_cache(maxsize=4096)
def claims_on(limits: Limits) -> tuple[Claim, ...]:
    """A task's claims, one for each limit that covers it. Made once for the same limits."""
    return tuple(Claim(limit) for limit in limits)


@dataclass(frozen=True, slots=True)
class TaskOption:
    """What a task's ``global_concurrency=`` option says: a max of its own, or limits to join by name."""

    own_max: int | None = None
    names: Limits = ()

    @classmethod
    def parse(cls, task: str, value: object) -> TaskOption:
        """Read the option of the task named *task*: None, an int, a limit name, or a list of names.

        Raises:
            LimitError: anything else; the message names the task.
        """
        if value is None:
            return cls()
        rule = "global_concurrency= takes a whole number >= 0, a limit name such as 'pool:db', or a list of names"
        if isinstance(value, int) and not isinstance(value, bool):
            try:
                if parse_limit(f"task:{task}") == f"task:{task}":
                    return cls(own_max=parse_max(value))
            except LimitError as exc:
                raise LimitError(f"task {task[:MAX_SHOWN]}: {exc} ({rule})") from None
            raise LimitError(f"task {task[:MAX_SHOWN]}: a task name with spaces around it can't have a limit")
        if isinstance(value, str) or (isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping))):
            names = (value,) if isinstance(value, str) else tuple(value)
            try:
                return cls(names=tuple(sorted({parse_limit(name) for name in names})))
            except LimitError as exc:
                raise LimitError(f"task {task[:MAX_SHOWN]}: {exc} ({rule})") from None
        raise LimitError(f"task {task[:MAX_SHOWN]}: {rule}; got {shown(value)}")


def candidates(task: str, queue: str | None, option: TaskOption) -> Limits:
    """The limits that would cover a task if each had a max: by its registered name, its queue and its option."""
    names = {f"task:{task}", *option.names}
    if not task.startswith(BUILT_IN):
        names.add(APP)
        if queue is not None:
            names.add(f"queue:{queue}")
    return tuple(sorted(names))
