"""Limit names: their scopes, and how they are read."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from celery_gconc.errors import LimitError

#: The scopes that take a name, as in ``queue:emails``; ``app`` stands alone.
SCOPES = ("queue", "task", "pool")

#: The limit on every task of the namespace.
APP = "app"

#: Longest limit name accepted, in characters: names become members in Redis.
MAX_NAME = 512

#: How much of a value an error shows, in characters: whoever gave it may have given a megabyte.
MAX_SHOWN = 80


@dataclass(frozen=True, slots=True, order=True)
class LimitName:
    """A limit's name, taken apart; its ``str()`` is the full name."""

    #: One of :data:`SCOPES`, or :data:`APP`, which has no name.
    scope: str
    name: str = ""
    #: The value by which the limit is divided; no limit is, yet.
    key: str | None = None

    @classmethod
    def of(cls, full: str) -> LimitName:
        """Take apart a full name, as settings and Redis have it."""
        scope, _, name = full.partition(":")
        return cls(scope, name)

    @classmethod
    def parse(cls, text: object) -> LimitName:
        """Read a name as people write it: a bare one is a queue.

        Raises:
            LimitError: not a string, empty, too long, with control characters, or with an unknown scope.
        """
        if not isinstance(text, str) or not text.strip():
            raise LimitError(
                f"expected a limit such as queue:emails, task:proj.tasks.sync, pool:db or app; got {shown(text)}"
            )
        name = text.strip()
        if len(name) > MAX_NAME:
            raise LimitError(
                f"limit name {name[:32]!r}... is too long: {len(name)} characters, the maximum is {MAX_NAME}"
            )
        if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):  # UTF-8 has no lone surrogates
            raise LimitError(f"limit name {shown(name)} contains control characters")
        if name == APP:
            return cls(APP)
        scope, colon, rest = name.partition(":")
        if not colon:
            return cls("queue", name)
        if scope not in SCOPES:
            raise LimitError(
                f"unknown scope {shown(scope)} in {shown(name)}: use queue:, task: or pool: (or app); "
                f"for a queue with that name, write queue:{name[:MAX_SHOWN]}"
            )
        if not rest:
            raise LimitError(f"{name!r} doesn't name a {scope}; write {scope}:<name>")
        return cls(scope, rest)

    def __str__(self) -> str:
        return f"{self.scope}:{self.name}" if self.name else self.scope


def parse_limit(text: object) -> str:
    """The full name of the limit that *text* means; see :meth:`LimitName.parse`."""
    return str(LimitName.parse(text))


def shown(value: object) -> str:
    """A value as an error shows it: not more of it than a line takes."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    text = repr(value[: MAX_SHOWN + 1] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
