"""An account of what happened that owes nothing to celery-gconc: one Redis list, in the order in which Redis heard it.

Each entry carries Redis' own time, taken in the same step that appends it, so all share one clock and one order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import redis

# KEYS: the list. ARGV: the entry, a JSON object. Appends "<microseconds> <entry>".
_TELL = """
local now = redis.call('TIME')
return redis.call('RPUSH', KEYS[1], string.format('%s%06d %s', now[1], now[2], ARGV[1]))
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. ``at`` is Unix time in seconds, by Redis' clock."""

    at: float
    #: ``begin``, ``start``, ``end``, ``announce`` and ``change`` (of the limit), ``kill`` (of a worker), ``stop``
    kind: str
    task: str = ""
    worker: str = ""
    pid: int = 0
    limit: int = 0
    #: When a change took effect in Redis.
    effective: float = 0.0


class Witness:
    """The list, to write to and to read from."""

    def __init__(self, url: str, namespace: str) -> None:
        self._client: redis.Redis = redis.Redis.from_url(url)
        self._key = f"{namespace}:witness"
        self._read = 0

    def tell(self, kind: str, **about: Any) -> None:
        """Append an event; returns once Redis has it."""
        self._client.eval(_TELL, 1, self._key, json.dumps({"kind": kind, **about}))

    def hear(self) -> list[Event]:
        """The events since the last call."""
        entries: Any = self._client.lrange(self._key, self._read, -1)
        self._read += len(entries)
        return [parse(entry) for entry in entries]


def parse(entry: bytes) -> Event:
    """Read one entry of the list."""
    microseconds, about = entry.split(b" ", 1)
    return Event(at=int(microseconds) / 1e6, **json.loads(about))
