"""Holds a worker's signals back while something is written that must not be cut in two.

    Returns -> uninterrupted (around what is written to the broker)

Thread: the main one, on which alone Python calls the handlers of signals; on another it does nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: The signals by which a worker is told to end; not all platforms have each.
_NAMES = ("SIGINT", "SIGTERM", "SIGQUIT")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Have the handlers of those signals called after what is done within, in the order in which they came.

    Celery's handler of a cold shutdown (celery 5.5-5.7, ``on_cold_shutdown``) writes to the broker itself, in the
    middle of whatever the thread does. If that is a frame to RabbitMQ, the thread then waits for a lock that it has
    itself (py-amqp 5.4, ``frame_writer``), and the worker never ends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    former: dict[int, Any] = {}
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and callable(signal.getsignal(number)):
            former[number] = signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)
