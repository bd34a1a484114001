"""The keys of the tests' namespace in Redis, by docs/reference/keyspace.md: typed here, and nowhere else in tests."""

from __future__ import annotations

#: What each of them begins with: the namespace of the tests, and the number of the schema.
PREFIX = "{gconc}:v2:"


def key(name: str) -> str:
    """A key, or what begins with it, like a channel."""
    return PREFIX + name
