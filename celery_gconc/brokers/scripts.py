"""Runs the Lua scripts of this package, which work on kombu's keys, where the broker is a Redis."""

from __future__ import annotations

from typing import Any

from celery_gconc.connection.scripts import assemble


def run_on_broker(channel: Any, name: str, keys: list[str], *arguments: Any) -> Any:
    """Run a script on the Redis of a kombu channel, over keys as kombu names them."""
    # kombu 5.4-5.7 puts global_keyprefix before the keys of the commands that it uses itself; EVAL isn't one.
    prefix = channel.global_keyprefix or ""
    text = assemble(__package__, name)
    with channel.conn_or_acquire() as client:
        return client.eval(text, len(keys), *[prefix + key for key in keys], *arguments)
