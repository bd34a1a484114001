"""Limit names, limit values, and which limits cover a task. Pure values: nothing here talks to anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .errors import LimitError

#: The scopes that take a name, as in ``queue:emails``; ``app`` stands alone.
SCOPES = ("queue", "task", "pool")

#: The limit on every task of the namespace.
APP = "app"

#: Celery's own tasks (``celery.chord_unlock``, ``celery.backend_cleanup``...) are exempt from ``app`` and
#: ``queue:`` limits: they carry other tasks' progress, and holding them back can stop what would free the limit.
BUILT_IN = "celery."

#: Longest limit name accepted, in characters: names become members in Redis.
MAX_NAME = 512

#: The names of the limits that cover one task, sorted: its permit is all of them at once.
Limits = tuple[str, ...]


def parse_limit(text: object) -> str:
    """Return the full name of the limit that *text* means: a bare name is a queue.

    Raises:
        LimitError: not a string, empty, too long, with control characters, or with an unknown scope.
    """
    if not isinstance(text, str) or not text.strip():
        raise LimitError(f"a limit is a name such as queue:emails, task:proj.tasks.sync, pool:db or app; got {text!r}")
    name = text.strip()
    if len(name) > MAX_NAME:
        raise LimitError(f"the limit name {name[:32]!r}... has {len(name)} characters; {MAX_NAME} is the most")
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise LimitError(f"the limit name {name!r} has control characters in it")
    if name == APP:
        return name
    scope, colon, rest = name.partition(":")
    if not colon:
        return f"queue:{name}"
    if scope not in SCOPES:
        raise LimitError(
            f"unknown scope {scope!r} in {name!r}: use queue:, task: or pool: (or app); "
            f"for a queue of that name write queue:{name}"
        )
    if not rest:
        raise LimitError(f"{name!r} names no {scope}; write {scope}:<name>")
    return name


def parse_max(value: object) -> int | None:
    """Return *value* as a max (an int >= 0), or None for ``unlimited``.

    Raises:
        LimitError: anything else.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() == "unlimited"):
        return None
    if isinstance(value, str):
        try:
            value = int(value.strip())
        except ValueError:
            raise LimitError(f"a max is a whole number >= 0, or 'unlimited'; got {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise LimitError(f"a max is a whole number >= 0, or 'unlimited'; got {value!r}")
    if not 0 <= value <= 2**31:
        raise LimitError(f"a max is from 0 to {2**31}, or 'unlimited'; got {value}")
    return value


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
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(own_max=value)
        if isinstance(value, str) or (isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping))):
            names = (value,) if isinstance(value, str) else tuple(value)
            try:
                return cls(names=tuple(sorted({parse_limit(name) for name in names})))
            except LimitError as exc:
                raise LimitError(f"task {task}: {exc} ({rule})") from None
        raise LimitError(f"task {task}: {rule}; got {value!r}")


def candidates(task: str, queue: str | None, option: TaskOption) -> Limits:
    """The limits that would cover a task if each had a max: by its registered name, its queue and its option."""
    names = {f"task:{task}", *option.names}
    if not task.startswith(BUILT_IN):
        names.add(APP)
        if queue is not None:
            names.add(f"queue:{queue}")
    return tuple(sorted(names))
