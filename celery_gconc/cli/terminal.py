"""How every ``gconc`` command speaks: text or JSON on stdout, one line on stderr when it can't, an exit code.

command -> Terminal -> rich (only when something is shown) -> stdout
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import cached_property, update_wrapper
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

import click
from celery import Celery
from celery.exceptions import CeleryCommandException
from celery.platforms import EX_FAILURE, EX_UNAVAILABLE

from celery_gconc.errors import GlobalConcurrencyError, StoreUnavailable
from celery_gconc.operations.operations import Operations
from celery_gconc.protocol.status import as_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Invalid or refused request, or the answer is no: scripts can test for it.
EXIT_NO = EX_FAILURE

#: The coordination Redis can't be reached: as Celery's own commands say that the broker can't, or that nobody answers.
EXIT_UNAVAILABLE = EX_UNAVAILABLE

#: The width of what no terminal shows: nothing is wrapped, so that it can be searched line by line.
UNWRAPPED = 10_000

#: To how many columns, with the blank after it, any column of a table may be folded for the sake of another.
MIN_COLUMN = 4

#: A column: its heading, and whether it holds numbers (shown to the right).
Column = tuple[str, bool]


class Command(click.Command):
    """A command of ours: has ``--json``, and ends with one line on stderr and an exit code instead of a traceback."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(click.Option(["--json", "as_json"], is_flag=True, help="Print JSON."))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except GlobalConcurrencyError as exc:
            code = EXIT_UNAVAILABLE if isinstance(exc, StoreUnavailable) else EXIT_NO
            raise CeleryCommandException(message=printable(_with_advice(ctx, exc)), exit_code=code) from exc


def _with_advice(ctx: click.Context, exc: GlobalConcurrencyError) -> str:
    if isinstance(exc, StoreUnavailable):
        return f"{exc} ({Operations(ctx.obj.app).settings.safe_url})"
    if ctx.find_root().params.get("app", ctx) is None:
        return f"{exc} (no app given; use celery -A <app> gconc ...)"
    return str(exc)


def pass_terminal(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its :class:`Terminal` as the first argument; ``--json`` is taken by it."""

    def call(*args: Any, as_json: bool = False, **kwargs: Any) -> Any:
        ctx = click.get_current_context()
        terminal = Terminal(ctx.obj.app, is_json=as_json, no_color=ctx.obj.no_color)
        ctx.call_on_close(terminal.close)
        return function(terminal, *args, **kwargs)

    return update_wrapper(call, function)


class Terminal:
    """Where one command reads and speaks: the app's limits, stdout, stderr."""

    def __init__(self, app: Celery, *, is_json: bool = False, no_color: bool = False) -> None:
        self.app = app
        self.is_json = is_json
        self._no_color = no_color or bool(os.environ.get("NO_COLOR"))
        self._opened: Operations | None = None

    @cached_property
    def operations(self) -> Operations:
        """The app's limits. Its task modules are imported, so that what tasks configure is known."""
        try:
            self.app.loader.import_default_modules()
        except Exception as exc:  # noqa: BLE001 - whatever a module of the user's raises
            what = f"{type(exc).__name__}: {exc}"
            self.warn(f"some tasks of the app could not be imported, so their limits are unknown here: {what}")
        self._opened = Operations(self.app)
        return self._opened

    def close(self) -> None:
        """Close the connections that were opened."""
        if self._opened is not None:
            self._opened.close()

    @property
    def is_plain(self) -> bool:
        """Whether stdout is no terminal: no bars, no colours, one line a row."""
        return not sys.stdout.isatty()

    @cached_property
    def console(self) -> Console:
        """Rich's console on stdout. What the locale has no character for is shown as a question mark."""
        from rich.console import Console

        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        settings: dict[str, Any] = {}
        if self.is_plain:
            columns = os.environ.get("COLUMNS", "")
            settings["width"] = int(columns) if columns.isdigit() and int(columns) else UNWRAPPED
            settings["force_terminal"] = False
        if self._no_color or self.is_plain:
            settings["color_system"] = None
        return Console(**settings)

    @property
    def width(self) -> int:
        """How many columns a line may take."""
        return int(self.console.width)

    def line(self, text: str, style: str = "") -> None:
        """One line on stdout (wrapped on a terminal that is narrower)."""
        from rich.text import Text

        self.show(Text(printable(text), style=style))

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Any]], whole: str = "") -> None:
        """A table on stdout; a cell is a text, or something of rich's. What is too long for a line is folded.

        The texts of the column *whole* are not, unless the terminal is too narrow for that: so they can be copied.
        """
        self.show(table_of(columns, rows, whole, self.width))

    def show(self, what: RenderableType) -> None:
        """Anything of rich's on stdout; where that is no terminal, no line ends in blanks."""
        if not self.is_plain:
            self.console.print(what)
            return
        with self.console.capture() as captured:
            self.console.print(what)
        click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))

    def json(self, value: Any) -> None:
        """A value of this package as JSON on stdout, whatever the locale."""
        click.echo(json.dumps(as_json(value), indent=2))

    def note(self, text: str) -> None:
        """One line on stderr, for people: what a script reads from stdout stays as it is."""
        click.echo(printable(text), err=True)

    def warn(self, text: str) -> None:
        """One line on stderr."""
        self.note(f"Warning: {text}")


def table_of(
    columns: Sequence[Column], rows: Sequence[Sequence[Any]], whole: str = "", width: int = UNWRAPPED
) -> RenderableType:
    """A table without lines for *width* columns; its headings are in capitals."""
    from rich.table import Table
    from rich.text import Text

    cells = [[Text(printable(cell)) if isinstance(cell, str) else cell for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for number, (heading, is_number) in enumerate(columns):
        longest = max((row[number].cell_len for row in cells), default=0) if heading == whole else 0
        is_whole = 0 < longest <= width - (len(columns) - 1) * MIN_COLUMN
        table.add_column(
            heading,
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_whole,
            min_width=longest if is_whole else None,
        )
    for row in cells:
        table.add_row(*row)
    return table


def printable(text: str) -> str:
    """A text that others gave (a reason, a task's name) on one line, without a character that moves the cursor."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
