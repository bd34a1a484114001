"""Limit names, limit values, and which limits cover a task. Pure values: nothing here talks to anything."""

from __future__ import annotations

import unicodedata
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

#: How much of a value an error shows, in characters: whoever gave it may have given a megabyte.
MOST_SHOWN = 80

#: The names of the limits that cover one task, sorted: its permit is all of them at once.
Limits = tuple[str, ...]


def parse_limit(text: object) -> str:
    """Return the full name of the limit that *text* means: a bare name is a queue.

    Raises:
        LimitError: not a string, empty, too long, with control characters, or with an unknown scope.
    """
    if not isinstance(text, str) or not text.strip():
        raise LimitError(
            f"a limit is a name such as queue:emails, task:proj.tasks.sync, pool:db or app; got {shown(text)}"
        )
    name = text.strip()
    if len(name) > MAX_NAME:
        raise LimitError(f"the limit name {name[:32]!r}... has {len(name)} characters; {MAX_NAME} is the most")
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):  # lone surrogates have no place in UTF-8
        raise LimitError(f"the limit name {shown(name)} has control characters in it")
    if name == APP:
        return name
    scope, colon, rest = name.partition(":")
    if not colon:
        return f"queue:{name}"
    if scope not in SCOPES:
        raise LimitError(
            f"unknown scope {shown(scope)} in {shown(name)}: use queue:, task: or pool: (or app); "
            f"for a queue of that name write queue:{name[:MOST_SHOWN]}"
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
    rule = f"a max is a whole number >= 0, or 'unlimited'; got {shown(value)}"
    if isinstance(value, str):
        try:
            value = int(value) if len(value) <= MOST_SHOWN else value  # (it takes its time over a megabyte of digits)
        except ValueError:
            raise LimitError(rule) from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise LimitError(rule)
    if not 0 <= value <= 2**31:
        raise LimitError(f"a max is from 0 to {2**31}, or 'unlimited'; got {shown(value)}")
    return value


def shown(value: object) -> str:
    """A value as an error shows it: not more of it than a line takes."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    text = repr(value[: MOST_SHOWN + 1] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


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
                raise LimitError(f"task {task[:MOST_SHOWN]}: {exc} ({rule})") from None
            raise LimitError(f"task {task[:MOST_SHOWN]}: a name with spaces around it can't have a limit")
        if isinstance(value, str) or (isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping))):
            names = (value,) if isinstance(value, str) else tuple(value)
            try:
                return cls(names=tuple(sorted({parse_limit(name) for name in names})))
            except LimitError as exc:
                raise LimitError(f"task {task[:MOST_SHOWN]}: {exc} ({rule})") from None
        raise LimitError(f"task {task[:MOST_SHOWN]}: {rule}; got {shown(value)}")


def candidates(task: str, queue: str | None, option: TaskOption) -> Limits:
    """The limits that would cover a task if each had a max: by its registered name, its queue and its option."""
    names = {f"task:{task}", *option.names}
    if not task.startswith(BUILT_IN):
        names.add(APP)
        if queue is not None:
            names.add(f"queue:{queue}")
    return tuple(sorted(names))
