"""The rights that a worker needs in the coordination Redis, each tried once, harmlessly: what is missing shows at once.

What is tried changes nothing, also where it is allowed: it reads a key that is never there, or asks what can't be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from .client import Client
from .failures import ALLOW, Failure, Names, is_about_rights, is_command_unknown
from .keys import Keys
from .nodes import CONNECT_TIMEOUT

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
    "hgetall": (),
    "hkeys": (),
    "hlen": (),
    "hexists": ("x",),
    "hscan": (0,),
    "hincrby": ("x", "no number"),
    "xadd": ("NOMKSTREAM", "*", "x", "1"),
    "xrange": ("-", "+"),
    "zadd": ("XX", 0, "x"),
    "zrem": ("x",),
    "zcard": (),
    "zscore": ("x",),
    "zrange": (0, -1),
    "zrangebylex": ("-", "+"),
    "zrangebyscore": (0, 0),
    "zlexcount": ("-", "+"),
}

#: What a worker does without, to what it can't see then.
OPTIONAL: Mapping[str, str] = {
    "info": "a restart of Redis is noticed only where it forgot what it had answered, and its eviction policy isn't "
    "looked at",
    "pubsub|channels": "a worker that comes first to an empty Redis can't see whether others live",
}

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

    def failure(self, names: Names) -> Failure | None:
        """What that means; None where nothing that is needed is missing."""
        what, todo = [], []
        if self.patterns or self.commands:
            words = " ".join([*self.patterns, *(f"+{command}" for command in self.commands)])
            what.append(f"doesn't give its user {self.user!r} every right that is needed")
            todo.append(f"run there ACL SETUSER {self.user} {words}, or name another user in {names.url}")
        if self.patterns:
            todo.append(f"or global_keyprefix in {names.options} has our names begin with what it may use")
        if self.unknown:
            what.append(f"doesn't know {', '.join(name.upper() for name in self.unknown)}")
            todo.append(f"{ALLOW}, or name another Redis in global_concurrency_redis_url")
        return Failure("; it ".join(what), "; ".join(todo)) if what else None


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
    found["subscribe"] = _error(lambda: client.subscribe(channel, CONNECT_TIMEOUT).close())
    refused = {name: _what_is_refused(reply) for name, reply in found.items() if isinstance(reply, Exception)}
    unusable = {name for name, what in refused.items() if what in ("command", "unknown")}
    patterns = (("key", f"~{keys.prefix}*"), ("channel", f"&{keys.channels()}*"))
    needed = [name for name in NEEDED if name in unusable]
    is_lacking = any(refused.values())
    return Missing(
        patterns=tuple(pattern for kind, pattern in patterns if kind in refused.values()),
        commands=tuple(name for name in needed if refused[name] == "command"),
        unknown=tuple(name for name in needed if refused[name] == "unknown"),
        optional=tuple(name for name in OPTIONAL if name in unusable),
        user=_user(client) if is_lacking else "default",
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


def _user(client: Client) -> str:
    """The name of our user, as Redis knows it; where we may not ask, as we gave it."""
    try:
        found = client.execute("ACL", "WHOAMI")
    except RedisError:
        return client.user
    return found.decode() if isinstance(found, bytes) else str(found)
