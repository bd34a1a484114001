"""The oracle's log: one list in a Redis that celery-gconc doesn't know, each line with the time of that Redis.

One line is one event, written by a task, a worker or the run itself. The order of the list is the order of events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import redis

_TELL = """
local t = redis.call('TIME')
local now = t[1] .. '.' .. string.format('%06d', t[2])
redis.call('RPUSH', 'events', '[' .. now .. ',"' .. ARGV[1] .. '",' .. ARGV[2] .. ']')
return now
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log. ``time`` in seconds by the oracle's clock.

    kinds, with their fields:
    ``sent`` id task queue limits late(bool) excuse('' or why it may not run), ``unsent`` id;
    ``got`` id w: a worker received the message;
    ``start`` run id n(retries) w pid, ``end`` run again(bool: it retries);
    ``worker`` w phase(start ready stopping dead) slots pool;
    ``change`` limit kind(value pause) value phase(begin done failed), ``mark`` name (a snapshot was saved);
    ``fault`` name phase(begin end) number w(list) seconds, ``child`` w pid: SIGKILL to a pool child;
    ``calm`` phase(begin end), ``drain``: load and faults have ended; ``keys`` counts: what Redis holds at the end.
    """

    time: float
    kind: str
    data: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        return f"{self.time:.6f} {self.kind} " + " ".join(f"{key}={value}" for key, value in self.data.items())


class Log:
    """Writes to the oracle, and reads what is new."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._tell = self._client.register_script(_TELL)
        self._read = 0

    def tell(self, kind: str, **data: Any) -> float:
        """Write an event; returns its time."""
        return float(self._tell(args=[kind, json.dumps(data, separators=(",", ":"))]))

    def new(self) -> Iterator[Event]:
        """The events since the last call."""
        lines = self._client.lrange("events", self._read, self._read + 4999)
        self._read += len(lines)
        for line in lines:
            yield Event(*json.loads(line))

    def now(self) -> float:
        """The oracle's time, in seconds."""
        seconds, micros = self._client.time()
        return seconds + micros / 1e6

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
