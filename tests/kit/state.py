"""What stands in Redis of units and of those who wait, read from the keys themselves (docs/reference/keyspace.md)."""

from __future__ import annotations

import json
from typing import Any

import redis

from tests.kit.keys import key

#: Between the parts of a member.
US = "\x1f"


def units(client: redis.Redis) -> dict[str, int]:
    """How many units of each limit are held, idle ones too."""
    return {_text(limit): int(count) for limit, count in client.hgetall(key("held")).items()}


def holding(client: redis.Redis) -> set[str]:
    """The sessions that hold units of some limit."""
    return {_text(member).split(US)[1] for member in client.hkeys(key("units"))}


def waiting(client: redis.Redis, limit: str | None = None) -> list[str]:
    """The ids of the tasks that stand in a limit's line, first come first; or of all that wait."""
    return [request[1] for request in sorted(_requests(client, limit))]


def waiting_sessions(client: redis.Redis) -> set[str]:
    """The sessions that wait for something."""
    return {_text(id).partition(":")[0] for id in client.hkeys(key("wants"))}


def shown(client: redis.Redis, limit: str) -> list[str]:
    """The ids of the tasks that people are told to run under a limit."""
    with client.pipeline() as pipe:
        pipe.hgetall(key("running"))
        pipe.zrange(key("grants"), 0, -1)
        pipe.hgetall(key("session"))
        running, grants, sessions = pipe.execute()
    found = []
    for session, text in running.items():
        over = _text(sessions.get(session + b":over", b"")).split(US)
        rows = json.loads(_text(text).partition(" ")[2])
        found += [id for claims, id, *_ in rows if id not in over and _is_on(claims, limit)]
    for member in grants:
        _grant, _set, claims, _fence, _at, id, _task = json.loads(_text(member).split(":", 2)[2])
        found += [id] if _is_on(claims, limit) else []
    return found


def idle(client: redis.Redis, limit: str) -> int:
    """How many units of a limit no task uses, as was last stated."""
    fields = client.hgetall(key("idle"))
    return sum(int(count) for field, count in fields.items() if _text(field).partition(US)[0] == limit)


def _requests(client: redis.Redis, limit: str | None) -> list[Any]:
    wants = [json.loads(_text(text)) for text in client.hvals(key("wants"))]
    return [request for want in wants if limit in (None, want.get("at")) for request in want["r"]]


def _is_on(claims: Any, limit: str) -> bool:
    return any(name == limit for name, _weight in claims)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
