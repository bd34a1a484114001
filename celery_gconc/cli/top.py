"""The command ``top``: all limits live, with keys to pause, raise, lower and reset them.

keys -> View -> Poller -> Redis -> Poller -> View -> rich -> terminal
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from celery_gconc.cli.arguments import NumberRange
from celery_gconc.cli.poller import Action, Poller, Told
from celery_gconc.cli.rows import (
    BAR,
    BAR_COLUMNS,
    LIMIT_COLUMNS,
    MIN_FOR_BARS,
    fitting,
    limit_row,
    notes_of,
    shortened,
)
from celery_gconc.cli.terminal import Command, Terminal, pass_terminal, printable
from celery_gconc.errors import GlobalConcurrencyError, StoreUnavailable
from celery_gconc.operations.operations import Operations
from celery_gconc.operations.wording import count_of, span
from celery_gconc.protocol.status import LimitStatus, Status, as_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from celery_gconc.cli.keyboard import Keyboard

#: The lines that are left to everything but the rows, so that these stay where they are while notes and messages come
#: and go: title, headings, a blank, three for notes, one for the message, keys, and one for trouble.
OTHER_LINES = 9

#: How many lines a message takes at most, and the trouble with Redis: what is longer ends in dots.
MAX_LINES = 3

KEYS = "j/k select   p pause/resume   + raise   - lower   r reset   ? help   q quit"

HELP = (
    ("j, k, arrows", "move the selection down, up; g, G: first, last"),
    ("p", "pause or resume the selected limit"),
    ("+, -", "raise or lower its max by one, keeping its expiry and reason"),
    ("r", "reset it to the configured max"),
    ("?, h", "show this help; any key closes it"),
    ("q, Ctrl-C", "quit; changes stay in force"),
    ("", ""),
    ("RUN/MAX", "running tasks, and the max (-: unlimited)"),
    ("WAITING", "tasks in line; +n: n more behind them, in workers or at the broker"),
    ("LONGEST", "how long the first in line has waited"),
    ("/MIN", "tasks that ended in the last minute"),
    ("STATE", "open, full, draining (above its max), paused, settling, unlimited"),
    ("FROM", "set (at run time), config, or - (no max)"),
)


@click.command(cls=Command)
@click.option(
    "--interval", "-i", type=NumberRange(0.1, 3600.0), default=1.0, show_default=True,
    help="Seconds between updates.",
)  # fmt: skip
@pass_terminal
def top(terminal: Terminal, interval: float) -> None:
    """Show all limits live, with keys to change them.

    With --json, print one line of JSON for each update until interrupted.
    """
    _ = terminal.operations.settings  # wrong ones are told before the screen is taken
    try:
        if terminal.is_json:
            _stream(terminal.operations, interval)
        else:
            _need_a_terminal(terminal)
            _watch(terminal, interval)
    except (KeyboardInterrupt, EOFError):
        return


def _stream(operations: Operations, interval: float) -> None:
    while True:
        click.echo(json.dumps(as_json(operations.status())))
        sys.stdout.flush()
        time.sleep(interval)


def _need_a_terminal(terminal: Terminal) -> None:
    if terminal.is_plain or not sys.stdin.isatty() or terminal.console.is_dumb_terminal:
        raise click.UsageError("top needs a terminal; use status, or top --json for a line per update")


def _watch(terminal: Terminal, interval: float) -> None:
    from rich.live import Live

    from celery_gconc.cli.keyboard import keyboard

    settings = terminal.operations.settings
    settings.check_usable()
    with keyboard() as keys:
        poller = Poller(terminal.app, interval, keys.wake)
        view = View(poller.do, settings.safe_url, terminal.console)
        live = Live(
            console=terminal.console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        poller.start()
        try:
            with live:
                while view.is_open:
                    size = terminal.console.size
                    live.update(view.render(size.width, size.height), refresh=True)
                    _step(view, poller, keys)
        finally:
            poller.stop()


def _step(view: View, poller: Poller, keys: Keyboard) -> None:
    """Wait for a key, for something that the poller tells, or for a second (so that ages grow)."""
    for key in keys.read(1.0):
        view.press(key)
    for told in poller.told():
        view.take(told)


class View:
    """What is seen: the last status, which limit is selected, what was said last. One thread uses it."""

    def __init__(self, do: Callable[[Action], None], url: str, console: Console) -> None:
        self._do, self._url, self._console = do, url, console
        self._is_ascii = console.options.ascii_only
        self._status: Status | None = None
        self._selected: str | None = None
        self._trouble = ""
        self._message = ""
        self._taken = time.monotonic()
        self._is_help = False
        self.is_open = True

    def take(self, told: Told) -> None:
        """Take what the poller tells."""
        if isinstance(told, Status):
            self._status, self._taken, self._trouble = told, time.monotonic(), ""
            names = [limit.limit for limit in told]
            if self._selected not in names:
                self._selected = names[0] if names else None
        elif isinstance(told, StoreUnavailable):
            self._trouble = str(told)
        elif isinstance(told, GlobalConcurrencyError):
            self._message = str(told)
        elif isinstance(told, str):
            self._message = told
        else:
            raise told

    def press(self, key: str) -> None:
        """Do what a key is for; others are ignored."""
        self._message = ""
        if self._is_help:
            self._is_help = False
        elif key in ("q", "Q"):
            self.is_open = False
        elif key in ("?", "h"):
            self._is_help = True
        elif key in _MOVES:
            self._move(_MOVES[key])
        elif key in _CHANGES and self._selected is not None:
            limit, change = self._selected, _CHANGES[key]
            self._do(lambda operations: change(operations, limit))

    def _move(self, to: Callable[[int, int], int]) -> None:
        names = [limit.limit for limit in self._limits]
        if self._selected in names:
            last = len(names) - 1
            self._selected = names[min(max(to(names.index(self._selected), last), 0), last)]

    @property
    def _limits(self) -> tuple[LimitStatus, ...]:
        return self._status.limits if self._status is not None else ()

    # -- On the screen -----------------------------------------------------------------------------------

    def render(self, width: int, height: int) -> RenderableType:
        """The whole screen, *width* columns by *height* lines: the last of them names the keys, whatever there is."""
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [Text(self._title(), style="bold", no_wrap=True, overflow="ellipsis")]
        if self._trouble:
            trouble = f"NO UPDATE for {span(time.monotonic() - self._taken)}: {self._trouble}"
            parts += self._wrapped(trouble, width, MAX_LINES, "bold red")
        if self._is_help:
            return Group(*parts, Text(""), _help())
        room = height - len(parts) - 1
        below = self._below(width, room - 2, height // 3)  # headings and a row are seen at least
        parts += self._above(width, min(room - len(below), max(height - OTHER_LINES, 1) + 2))
        return Group(*parts, *below, Text(KEYS, style="dim", no_wrap=True, overflow="ellipsis"))

    def _above(self, width: int, count: int) -> list[RenderableType]:
        """The limits, in *most* lines, and a blank one if it has room."""
        from rich.text import Text

        if self._status is None or count < 2:
            return []
        if self._limits:
            table = self._table(width, max(count - 2, 1))
            return [table, Text("")] if count > 2 else [table]
        nothing = "No limits are set. Set one with: celery -A <app> gconc set <queue> <max>"
        return [*self._wrapped(nothing, width, count)]

    def _below(self, width: int, count: int, max_notes: int) -> list[Text]:
        """Notes on the selected limit, and the message: *most* lines, of which notes take *most_notes*.

        The message comes first where there is no room for all, then each note in equal parts.
        """
        message = self._wrapped(self._message, width, min(MAX_LINES, count), "bold") if self._message else []
        notes, room = self._notes(), min(max_notes, count - len(message))
        lines = [line for note in notes for line in self._wrapped(note, width, max(room // len(notes), 1))]
        return [*lines[: max(room, 0)], *message]

    def _wrapped(self, text: str, width: int, count: int, style: str = "") -> list[Text]:
        """A text in lines of *width* columns, *most* of them: what is longer ends in dots."""
        from rich.text import Text

        if count < 1:
            return []
        some = printable(text[: width * (count + 1)])  # a reason may be a megabyte
        lines = [*Text(some, style=style).wrap(self._console, width)]
        if len(lines) > count:
            dots = "..." if self._is_ascii else "…"
            lines[count - 1].truncate(max(width - len(dots), 0))
            lines[count - 1].append(dots)
        return lines[:count]

    def _title(self) -> str:
        if self._status is None:
            return f"gconc top   {self._url}"
        workers = count_of(len(self._status.sessions), "worker") if self._status.sessions else "no workers"
        return f"gconc top   {self._url}   {workers}   {time.strftime('%H:%M:%S', time.localtime(self._status.at))}"

    def _table(self, width: int, count: int) -> RenderableType:
        """One line a limit. The bars go before a name is shortened (it is whole in the notes when it is selected)."""
        from rich.cells import cell_len
        from rich.table import Table
        from rich.text import Text

        names = [printable(limit.limit) for limit in self._limits]
        selected = [limit.limit for limit in self._limits].index(self._selected) if self._selected else 0
        first, shown = fitting(self._limits, selected, count)
        room = width - _taken([limit_row(limit, has_bar=False) for limit in shown])
        has_bar = width >= MIN_FOR_BARS and max(map(cell_len, names)) <= room - (BAR + 1)
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        table.add_column("", width=1)
        for heading, is_number in BAR_COLUMNS if has_bar else LIMIT_COLUMNS:
            table.add_column(heading, justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis")
        for number, limit in enumerate(shown, first):
            is_selected = number == selected
            name = shortened(names[number], max(room, 8), is_ascii=self._is_ascii)
            cells = limit_row(limit, has_bar=has_bar, is_ascii=self._is_ascii)[1:]
            table.add_row(">" if is_selected else " ", Text(name, style="bold" if is_selected else ""), *cells)
        return table

    def _notes(self) -> list[str]:
        """What there is to say of the selected limit, three lines at most."""
        for limit in self._limits:
            if limit.limit == self._selected and self._status is not None:
                configured = "" if limit.configured is None else f": {limit.configured}, as configured"
                return list(notes_of(limit, self._status.at))[:3] or [f"{limit.limit}{configured}"]
        return []


def _taken(rows: list[list[Any]]) -> int:
    """How many columns rows without bars take beside the limits' names: the mark, the other cells, blanks between."""
    from rich.cells import cell_len

    cells = [[heading for heading, _ in LIMIT_COLUMNS], *rows]
    return 2 + sum(1 + max(cell_len(str(row[number])) for row in cells) for number in range(1, len(LIMIT_COLUMNS)))


def _help() -> RenderableType:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for key, meaning in HELP:
        table.add_row(key, meaning)
    return table


_MOVES: dict[str, Callable[[int, int], int]] = {
    "j": lambda at, last: at + 1,
    "down": lambda at, last: at + 1,
    "k": lambda at, last: at - 1,
    "up": lambda at, last: at - 1,
    "g": lambda at, last: 0,
    "home": lambda at, last: 0,
    "G": lambda at, last: last,
    "end": lambda at, last: last,
}


def _toggle(operations: Operations, limit: str) -> str:
    is_paused = operations.status(limit, workers=False)[limit].paused
    return str(operations.resume(limit) if is_paused else operations.pause(limit))


def _raise_by(operations: Operations, limit: str, more: int) -> str:
    """Change the max by *more*; an end and a reason that were given with it stay."""
    status = operations.status(limit, workers=False)
    found = status[limit]
    if found.max is None:
        return f"{limit} is unlimited; set a max with: celery -A <app> gconc set {limit} <max>"
    if found.max + more < 0:
        return f"{limit} is already 0"
    duration = None if found.set_until is None else max(found.set_until - status.at, 0.001)
    return str(operations.set(limit, found.max + more, reason=found.reason, duration=duration))


_CHANGES: dict[str, Callable[[Operations, str], str]] = {
    "p": _toggle,
    "+": lambda operations, limit: _raise_by(operations, limit, 1),
    "=": lambda operations, limit: _raise_by(operations, limit, 1),
    "-": lambda operations, limit: _raise_by(operations, limit, -1),
    "r": lambda operations, limit: str(operations.reset(limit)),
}
