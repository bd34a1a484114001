"""The rights that a worker needs in Redis, each tried once, harmlessly: what is missing shows at once.

Those of the coordination Redis; and, where the broker is a Redis, what we need of it beside what kombu needs.

What is tried changes nothing, also where it is allowed: it reads a key that is never there, or asks what can't be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from celery_gconc.connection.client import Client
from celery_gconc.connection.failures import ALLOW, Failure, Names, is_about_rights, is_command_unknown
from celery_gconc.connection.nodes import CONNECT_TIMEOUT
from celery_gconc.protocol.keys import NOTICES, Keys

#: The last part of the key and of the channel that are tried; nobody else uses them.
TRIED = "tried"

#: What needs no key: the arguments of each, in which nothing stands for a channel.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "evalsha": ("0" * 40, 0),
    "eval": ("return 1", 0),
    "time": (),
}

#: The commands on keys, by their arguments behind the key. Those that would write ask for what is refused or finds
#: nothing: Redis looks at rights before it looks at that.
_KEYED: Mapping[str, tuple[Any, ...]] = {
    "exists": (),
    "expire": (1,),
    "hget": ("x",),
    "hset": ("x", "1", "a name without a value"),
    "hdel": ("x",),
    "hmget": ("x",),
    "hlen": (),
    "hexists": ("x",),
    "hscan": (0,),
    "hincrby": ("x", "no number"),
    "xadd": ("NOMKSTREAM", "*", "x", "1"),
    "xrange": ("-", "+"),
    "zadd": ("XX", 0, "x"),
    "zrem": ("x",),
    "zcard": (),
    "zlexcount": ("-", "+"),
    "zscore": ("x",),
    "zrange": (0, -1),
    "zrangebylex": ("-", "+"),
    "zrangebyscore": (0, 0),
    "zremrangebylex": ("-", "+"),
    "zscan": (0,),
}

#: What a worker does without, to what it can't see then.
OPTIONAL: Mapping[str, str] = {
    "info": "a Redis restart is noticed only if data was lost, and its eviction policy isn't checked",
    "pubsub|channels": "the first worker at an empty Redis can't see whether others are alive",
}

#: The commands on kombu's keys that scripts of ours run in a Redis that is the broker, as those above. (RPUSH can't be
#: tried without pushing something; kombu needs it, too.)
_AT_BROKER: Mapping[str, tuple[Any, ...]] = {
    "lrange": (0, 0),
    "lrem": (0, "x"),
    "llen": (),
    "zscore": ("x",),
    **{name: _KEYED[name] for name in ("hset", "hdel", "hscan", "zadd", "zrem")},
}

#: As :data:`OPTIONAL`, of the broker.
OPTIONAL_AT_BROKER: Mapping[str, str] = dict.fromkeys(
    ("client|id", "client|unblock"), "a stopped queue may be read for up to a second longer"
)

#: All of them, as an ACL names them.
NEEDED: tuple[str, ...] = ("ping", *_PLAIN, "subscribe", "publish", *_KEYED)


@dataclass(frozen=True, slots=True)
class Missing:
    """What a user may not do, or a server doesn't know."""

    #: The patterns of keys and channels that it may not use, as an ACL writes them.
    patterns: tuple[str, ...] = ()
    #: The commands that it may not run.
    commands: tuple[str, ...] = ()
    #: The commands that the server doesn't know: renamed, taken away, or newer than it.
    unknown: tuple[str, ...] = ()
    #: Those of :data:`OPTIONAL` that can't be used, for either reason.
    optional: tuple[str, ...] = ()
    #: The name of the user.
    user: str = "default"

    def unseen(self, why: Mapping[str, str]) -> tuple[str, ...]:
        """What is not seen for the lack of optional ones, in sentences."""
        return tuple(f"without {name.upper().replace('|', ' ')}, {why[name]}" for name in self.optional)

    def failure(self, names: Names, subject: str = "the coordination Redis") -> Failure | None:
        """What that means; None where nothing that is needed is missing."""
        what, todo = [], []
        if self.patterns or self.commands:
            words = " ".join([*self.patterns, *(f"+{command}" for command in self.commands)])
            what.append(f"denies its user {self.user!r} rights that celery-gconc needs")
            todo.append(f"run ACL SETUSER {self.user} {words} there, or name another user in {names.url}")
        if self.patterns:
            todo.append(f"or set global_keyprefix in {names.options} to a prefix that it may use")
        if self.unknown:
            what.append(f"lacks {', '.join(name.upper() for name in self.unknown)}")
            todo.append(f"{ALLOW}, or name another Redis in {names.other}")
        return Failure("; it ".join(what), "; ".join(todo), subject=subject) if what else None


def missing_rights(client: Client, keys: Keys) -> Missing:
    """What is missing, by one round trip and a subscription.

    Raises:
        RedisError, OSError: Redis can't be reached, or answers with an error of another kind.
    """
    key, channel = keys.prefix + TRIED, keys.channel(TRIED)
    tried: dict[str, tuple[Any, ...]] = {
        "ping": (),
        "info": ("server",),
        "pubsub|channels": ("CHANNELS", channel),
        "publish": (channel, ""),
        **_PLAIN,
        **{name: (key, *arguments) for name, arguments in _KEYED.items()},
    }
    replies = client.try_all([(name.partition("|")[0].upper(), *arguments) for name, arguments in tried.items()])
    found = dict(zip(tried, replies, strict=True))
    if isinstance(found["ping"], Exception) and not is_about_rights(found["ping"]):
        raise found["ping"]
    found["subscribe"] = _error(lambda: client.subscribe(channel, timeout=CONNECT_TIMEOUT).close())
    patterns = {"key": f"~{keys.prefix}*", "channel": f"&{keys.prefix}{NOTICES}:*"}
    return _missing(found, NEEDED, OPTIONAL, patterns, lambda: client.execute("ACL", "WHOAMI"), client.user)


def missing_at_broker(client: Any, key: str) -> Missing:
    """What is missing on a Redis that is the broker, by one round trip on kombu's client; *key* is one of kombu's.

    Raises:
        RedisError, OSError: it can't be reached.
    """
    tried: dict[str, tuple[Any, ...]] = {
        "eval": _PLAIN["eval"],
        "client|id": ("ID",),
        "client|unblock": ("UNBLOCK", 0),
        **{name: (key, *arguments) for name, arguments in _AT_BROKER.items()},
    }
    with client.pipeline(transaction=False) as pipeline:
        for name, arguments in tried.items():
            pipeline.execute_command(name.partition("|")[0].upper(), *arguments)
        found = dict(zip(tried, pipeline.execute(raise_on_error=False), strict=True))
    given = client.connection_pool.connection_kwargs.get("username") or "default"
    needed = [name for name in tried if name not in OPTIONAL_AT_BROKER]
    whoami = lambda: client.execute_command("ACL", "WHOAMI")  # noqa: E731
    return _missing(found, needed, OPTIONAL_AT_BROKER, {}, whoami, str(given))


def _missing(
    found: Mapping[str, Any],
    needed: Sequence[str],
    optional: Iterable[str],
    patterns: Mapping[str, str],
    whoami: Callable[[], Any],
    given: str,
) -> Missing:
    """What the answers to all that was tried mean. *given* is the user's name as we gave it."""
    refused = {name: _what_is_refused(reply) for name, reply in found.items() if isinstance(reply, Exception)}
    unusable = {name for name, what in refused.items() if what in ("command", "unknown")}
    lacking = [name for name in needed if name in unusable]
    return Missing(
        patterns=tuple(pattern for kind, pattern in patterns.items() if kind in refused.values()),
        commands=tuple(name for name in lacking if refused[name] == "command"),
        unknown=tuple(name for name in lacking if refused[name] == "unknown"),
        optional=tuple(name for name in optional if name in unusable),
        user=_user(whoami, given) if any(refused.values()) else given,
    )


def _what_is_refused(error: Exception) -> str:
    """``key``, ``channel`` or ``command`` where a right is missing; ``unknown``: the server has no such command."""
    if is_command_unknown(error):
        return "unknown"
    if not is_about_rights(error):
        return ""
    # "...to run the 'x' command", "...to access one of the keys used as arguments"; Redis >= 7.2: "...to access a key".
    found = re.search(r"run the '|channel|key", str(error))
    return {"channel": "channel", "key": "key"}.get(found[0] if found else "", "command")


def _error(function: Callable[[], object]) -> Exception | None:
    try:
        function()
    except RedisError as exc:
        return exc
    return None


def _user(whoami: Callable[[], Any], given: str) -> str:
    """The name of our user, as Redis knows it; where we may not ask, as we gave it."""
    try:
        found = whoami()
    except RedisError:
        return given
    return found.decode() if isinstance(found, bytes) else str(found)
