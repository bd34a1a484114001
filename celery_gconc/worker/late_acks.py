"""Messages that are acknowledged after the connection by which they came was lost.

Thread: consumer.
"""

from __future__ import annotations

from functools import partial
from typing import Any


def survive_closed_channel(message: Any) -> None:
    """Have an answer to a message that finds no channel any more be an error that Celery expects, and logs.

    kombu 5.4-5.7, Redis: a channel that was closed while its server was down has lost its connection and its pool, and
    raises AttributeError. A child may have accepted a task before the connection was lost, which the worker reads, and
    acknowledges, only once it has another: Celery 5.4-5.7 takes that error for one it can't recover from, and exits.
    The broker delivers such a message again.
    """
    for name in ("ack", "reject"):
        setattr(message, name, partial(_answer, message.channel, getattr(message, name)))


def _answer(channel: Any, answer: Any, **how: Any) -> None:
    try:
        answer(**how)
    except AttributeError as exc:
        if getattr(channel, "connection", None) is not None:
            raise
        raise ConnectionError("the connection by which it came is closed") from exc
