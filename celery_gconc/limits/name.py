"""Limit names: their scopes, and how they are read."""

from __future__ import annotations

import unicodedata

from celery_gconc.errors import LimitError

#: The scopes that take a name, as in ``queue:emails``; ``app`` stands alone.
SCOPES = ("queue", "task", "pool")

#: The limit on every task of the namespace.
APP = "app"

#: Longest limit name accepted, in characters: names become members in Redis.
MAX_NAME = 512

#: How much of a value an error shows, in characters: whoever gave it may have given a megabyte.
MAX_SHOWN = 80


def parse_limit(text: object) -> str:
    """Return the full name of the limit that *text* means: a bare name is a queue.

    Raises:
        LimitError: not a string, empty, too long, with control characters, or with an unknown scope.
    """
    if not isinstance(text, str) or not text.strip():
        raise LimitError(
            f"expected a limit such as queue:emails, task:proj.tasks.sync, pool:db or app; got {shown(text)}"
        )
    name = text.strip()
    if len(name) > MAX_NAME:
        raise LimitError(f"limit name {name[:32]!r}... is too long: {len(name)} characters, the maximum is {MAX_NAME}")
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):  # UTF-8 has no lone surrogates
        raise LimitError(f"limit name {shown(name)} contains control characters")
    if name == APP:
        return name
    scope, colon, rest = name.partition(":")
    if not colon:
        return f"queue:{name}"
    if scope not in SCOPES:
        raise LimitError(
            f"unknown scope {shown(scope)} in {shown(name)}: use queue:, task: or pool: (or app); "
            f"for a queue with that name, write queue:{name[:MAX_SHOWN]}"
        )
    if not rest:
        raise LimitError(f"{name!r} doesn't name a {scope}; write {scope}:<name>")
    return name


def shown(value: object) -> str:
    """A value as an error shows it: not more of it than a line takes."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    text = repr(value[: MAX_SHOWN + 1] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
