"""How a start that may not be ends: with one line at a shell, and with an exception everywhere else.

A worker inside a test stands in a thread, or in a fixture: there ``SystemExit`` ends nothing, or more than it should.
"""

from __future__ import annotations

import sys
import threading
from typing import NoReturn

import click

from celery_gconc.errors import GlobalConcurrencyError, SettingError


def refuse_start(why: GlobalConcurrencyError | str) -> NoReturn:
    """End the start of a worker, or of any ``celery`` command.

    Raises:
        SystemExit: at a shell, with the line that the person there is to read. (The command would print a traceback
            for anything else.)
        SettingError: elsewhere, with the same text.
    """
    if is_celery_command():
        raise SystemExit(f"Error: celery-gconc: {why}") from None
    if isinstance(why, SettingError):
        raise why
    raise SettingError(str(why)) from None


def is_celery_command() -> bool:
    """Whether this is the ``celery`` command, on the thread that it runs on, and not another program's (a test's)."""
    context = click.get_current_context(silent=True)
    command = sys.modules.get("celery.bin.celery")  # it imports much, and is imported where it runs
    return (
        context is not None
        and command is not None
        and context.find_root().command is command.celery
        and threading.current_thread() is threading.main_thread()
    )
