"""The Lua scripts: those of the coordination Redis, and in ``lua/broker`` those over kombu's keys on a Redis broker."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any


@cache
def lua(*names: str) -> str:
    """The text of one script, or of several as one: what comes first is known to what follows."""
    folder = resources.files(__package__)
    return "\n".join(folder.joinpath(f"lua/{name}.lua").read_text(encoding="utf-8") for name in names)


def run_on_broker(channel: Any, text: str, keys: list[str], *arguments: Any) -> Any:
    """Run a script on the Redis of a kombu channel, over keys as kombu names them."""
    # kombu 5.4-5.7 puts global_keyprefix before the keys of the commands that it uses itself; EVAL isn't one.
    prefix = channel.global_keyprefix or ""
    with channel.conn_or_acquire() as client:
        return client.eval(text, len(keys), *[prefix + key for key in keys], *arguments)
