"""How a limit looks: as a row with a bar, and in sentences about who set what. Shared by ``status`` and ``top``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from celery_gconc.cli.terminal import Column
from celery_gconc.limits.rules import Rule
from celery_gconc.operations.wording import since, span
from celery_gconc.protocol.status import LimitStatus

if TYPE_CHECKING:
    from rich.text import Text

#: The width of a bar of fullness, in columns.
BAR = 10

#: How narrow, in columns, a terminal may be before bars are left out.
MIN_FOR_BARS = 80

#: The columns of a limit's row: heading, is it a number. The bar is left out where no terminal shows it.
LIMIT_COLUMNS: tuple[Column, ...] = (
    ("LIMIT", False),
    ("RUN/MAX", True),
    ("WAITING", True),
    ("LONGEST", True),
    ("/MIN", True),
    ("STATE", False),
    ("FROM", False),
)

#: The same with a bar before the numbers.
BAR_COLUMNS: tuple[Column, ...] = (LIMIT_COLUMNS[0], ("", False), *LIMIT_COLUMNS[1:])

_STYLES = {
    "paused": "bold magenta",
    "unlimited": "dim",
    "settling": "bold yellow",
    "draining": "bold red",
    "full": "yellow",
    "open": "green",
}


def limit_row(limit: LimitStatus, *, has_bar: bool, is_ascii: bool = False) -> list[Any]:
    """The cells of :data:`LIMIT_COLUMNS`, or of :data:`BAR_COLUMNS`."""
    from rich.text import Text

    waiting = str(limit.waiting) + (f" +{limit.parked}" if limit.parked else "")
    cells: list[Any] = [
        limit.limit,
        f"{limit.running}/{'-' if limit.max is None else limit.max}",
        waiting,
        "-" if limit.longest_wait is None else span(limit.longest_wait),
        str(limit.per_minute),
        Text(limit.state, style=_STYLES[limit.state]),
        "set" if limit.overridden else "-" if limit.configured is None else "config",
    ]
    return [cells[0], bar(limit, is_ascii=is_ascii), *cells[1:]] if has_bar else cells


def bar(limit: LimitStatus, *, is_ascii: bool = False) -> Text:
    """How full a limit is. An unlimited one has an empty bar; one that drains (more run than its max) a full one."""
    from rich.text import Text

    full, empty = ("#", ".") if is_ascii else ("█", "░")
    filled = 0
    if limit.max is not None and limit.running:
        filled = BAR if limit.running >= limit.max else max(1, limit.running * BAR // limit.max)
    text = Text(full * filled, style=_STYLES[limit.state])
    return text.append(empty * (BAR - filled), style="dim")


def notes_of(limit: LimitStatus, now: float) -> Iterator[str]:
    """Sentences on a limit, each beginning with its name: who set it, when, why, until when; likewise its pause."""
    if limit.overridden:
        value = str(Rule(limit.max))
        configured = "none" if limit.configured is None else str(limit.configured)
        made = _made(limit.set_by, limit.set_at, limit.reason, limit.set_until, now)
        yield f"{limit.limit}: set to {value}{made} (configured: {configured})"
    if limit.paused:
        yield pause_note(limit, now)
    if limit.settling:
        yield (
            f"{limit.limit}: settling: the limit is new, or Redis lost its data; nothing starts under it until every "
            "worker has reported what it is running"
        )


def pause_note(limit: LimitStatus, now: float) -> str:
    """A sentence on a limit's pause: who, when, why, until when."""
    made = _made(limit.paused_by, limit.paused_at, limit.paused_reason, limit.paused_until, now)
    return f"{limit.limit}: paused{made}"


def shortened(name: str, width: int, *, is_ascii: bool = False) -> str:
    """A name in *width* columns at most. What is too long loses its middle: names differ at their ends."""
    from rich.cells import cell_len

    if cell_len(name) <= width:
        return name
    dots = "..." if is_ascii else "…"
    room = max(width - len(dots), 0)
    end = _beginning(name[::-1], room - room // 2)[::-1]
    return _beginning(name, room // 2) + dots + end


def _beginning(text: str, width: int) -> str:
    """As much of a text as *width* columns take."""
    from rich.cells import cell_len

    while cell_len(text) > width:
        text = text[: width if len(text) > width else -1]  # (a character takes two columns at most)
    return text


def moment(at: float, now: float) -> str:
    """A moment in the shell's own time zone, with its date unless that is today's."""
    then, today = (datetime.fromtimestamp(one, tz=timezone.utc).astimezone() for one in (at, now))
    return then.strftime("%H:%M:%S %Z" if then.date() == today.date() else "%Y-%m-%d %H:%M:%S %Z")


def fitting(rows: Sequence[Any], selected: int, count: int) -> tuple[int, Sequence[Any]]:
    """Those *most* rows around the selected one, and the number of the first of them."""
    first = min(max(selected - count // 2, 0), max(len(rows) - count, 0))
    return first, rows[first : first + count]


def _made(by: str | None, at: float | None, reason: str | None, until: float | None, now: float) -> str:
    text = f" by {by}" if by else ""
    text += f" {span(since(at, now))} ago" if at is not None else ""
    if until is not None:
        text += f", until {moment(until, now)} ({span(max(round(until - now), 0))} left)"
    return f'{text}: "{reason}"' if reason else text
