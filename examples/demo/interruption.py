"""Ctrl-C, SIGTERM and SIGHUP: they are noted when they come, and obeyed between two steps of the demo."""

from __future__ import annotations

import signal
from typing import Any

#: What ends the demo early, with all that it started.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# An exception that is raised by a signal's handler is lost where Python ignores exceptions: in a finalizer, for one.
_noted: list[int] = []


def note_signals() -> None:
    """From now on a signal has the next :func:`check` raise."""
    for number in SIGNALS:
        signal.signal(number, _note)


def check() -> None:
    """Raise KeyboardInterrupt if a signal has come. What ends the demo then is not interrupted again."""
    if _noted:
        raise KeyboardInterrupt


def _note(number: int, _frame: Any) -> None:
    _noted.append(number)
