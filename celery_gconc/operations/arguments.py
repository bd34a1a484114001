"""What people type for a limit, a max and a pool size, as click calls it: bad input is refused at the shell."""

from __future__ import annotations

import getpass
import socket
from typing import Any

import click

from celery_gconc.errors import LimitError, SettingError, StoreUnavailable
from celery_gconc.limits.name import parse_limit, shown
from celery_gconc.limits.rules import parse_max
from celery_gconc.protocol.store import Store
from celery_gconc.settings import Settings

#: How long, in seconds, the CLI waits for Redis when it takes a ticket.
TICKET_TIMEOUT = 2.0

TAKES_TWO = "set_global_concurrency takes a limit and a max: emails 4, task:proj.tasks.sync 2, emails unlimited"


def limit_argument(text: str) -> str:
    """The name of a limit."""
    try:
        return parse_limit(text)
    except LimitError as exc:
        raise click.UsageError(str(exc)) from None


def ticketed_limit(text: str) -> dict[str, Any]:
    """The name of a limit to change, with the ticket of this change and who makes it."""
    limit = limit_argument(text)
    context = click.get_current_context(silent=True)
    if context is not None and context.params.get("command") == "set_global_concurrency" and len(context.args) < 2:
        raise click.UsageError(TAKES_TWO)
    command: dict[str, Any] = {"name": limit, "by": caller()}
    if context is None or context.obj is None:
        return command
    try:
        settings = Settings.from_app(context.obj.app)
        store = Store.from_settings(settings, call_timeout=TICKET_TIMEOUT)
    except SettingError as exc:
        raise click.UsageError(str(exc)) from None
    try:
        command["ticket"] = store.ticket()
    except StoreUnavailable as exc:
        raise click.UsageError(f"{exc} ({settings.safe_url}); nothing was changed") from None
    finally:
        store.close()
    return command


def max_argument(text: str) -> int | str:
    """A max, or ``unlimited``."""
    try:
        value = parse_max(text)
    except LimitError as exc:
        raise click.UsageError(str(exc)) from None
    return "unlimited" if value is None else value


def size_argument(text: str) -> int:
    """A pool size."""
    try:
        size = int(text)
    except ValueError:
        size = 0
    if size < 1:
        raise click.UsageError(f"a pool size must be a whole number >= 1; got {shown(text)}")
    return size


def caller() -> str:
    """Who gives a command: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # no such user, as in some containers; Windows has no module pwd
        user = "?"
    return f"{user}@{socket.gethostname()}"
