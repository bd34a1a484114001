"""What the person at the terminal sees: a live view where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from .timeline import Timeline
from .workers import LOCAL, NAMES

#: How often plain output tells who runs, in seconds.
PLAIN_SECONDS = 1.0

#: The workers' colours, as in the picture.
COLOURS = dict(zip(NAMES, ("#4477aa", "#e69f00", "#2a9d8f"), strict=True))

#: How many seconds the live view looks back, and lines of what was done.
_HISTORY, _LINES = 60, 8


class Screen(Protocol):
    """Where the demo tells what it does."""

    def say(self, line: str) -> None:
        """Tell that something is done."""

    def show(self, timeline: Timeline, elapsed: float) -> None:
        """Show who runs now."""

    def close(self) -> None:
        """Give the terminal back."""


def open_screen() -> Screen:
    """A live view if stdout is a terminal and rich is there, else plain lines."""
    if sys.stdout.isatty():
        try:
            return LiveScreen()
        except ImportError:
            pass
    return PlainScreen()


class PlainScreen:
    """Lines without control codes."""

    def __init__(self) -> None:
        self._elapsed = 0.0
        self._next = 0.0
        self._stamp = _stamp()

    def say(self, line: str) -> None:
        print(f"{self._stamp()}  {line}", flush=True)

    def show(self, timeline: Timeline, elapsed: float) -> None:
        if elapsed < self._next:
            return
        self._next = elapsed + PLAIN_SECONDS
        counts = timeline.by_worker()
        workers = "  ".join(f"{name} {_state(timeline, name, counts[name])}" for name in NAMES)
        print(f"{self._stamp()}    {len(timeline.running)} run:  {workers}  (limit {timeline.limit_words})", flush=True)

    def close(self) -> None:
        pass


class LiveScreen:
    """A view that is drawn anew several times a second."""

    def __init__(self) -> None:
        from rich.live import Live

        self._said: list[str] = []
        self._stamp = _stamp()
        self._timeline: Timeline | None = None
        self._history: list[int] = []
        self._live = Live(get_renderable=self._view, refresh_per_second=10, screen=False)
        self._live.start()

    def say(self, line: str) -> None:
        self._said.append(f"{self._stamp()}  {line}")
        self._live.refresh()

    def show(self, timeline: Timeline, elapsed: float) -> None:
        self._timeline = timeline
        self._history.append(len(timeline.running))

    def close(self) -> None:
        self._live.stop()

    def _view(self) -> Any:
        from rich import box
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        said = Text("\n".join(self._said[-_LINES:]), style="dim")
        for line in self._said[-_LINES:]:
            if "$ " in line:
                said.highlight_words([line[line.index("$ ") :]], style="bold not dim")
        parts = [self._slots(self._timeline), Text()] if self._timeline is not None else []
        content = Group(*parts, said)
        return Panel(content, title="global limit of queue:emails", box=box.ROUNDED, width=78, padding=(1, 2))

    def _slots(self, timeline: Timeline) -> Any:
        from rich.text import Text

        counts = timeline.by_worker()
        text = Text()
        for name in NAMES:
            text.append(f"{name:<9}", style=f"bold {COLOURS[name]}")
            if name == timeline.killed:
                text.append("killed\n", style="bold red")
                continue
            text.append("■ " * counts[name], style=COLOURS[name])
            text.append("□ " * (LOCAL - counts[name]), style="bright_black")
            text.append(f"   {counts[name]} of its {LOCAL} processes run a task\n", style="dim")
        running, limit = len(timeline.running), timeline.limit
        text.append(f"\n{'cluster':<9}", style="bold")
        for name in NAMES:
            text.append("■ " * counts[name], style=COLOURS[name])
        text.append("□ " * max(0, limit - running), style="bright_black")
        text.append(f"   {running} run, ", style="dim")
        text.append(f"limit {timeline.limit_words}", style="bold")
        if timeline.excesses:
            text.append(f"   EXCEEDED {len(timeline.excesses)} times", style="bold red")
        text.append(f"\n{'':<9}")
        for count in self._history[-_HISTORY:]:
            text.append(" ▁▂▃▄▅▆▇█████"[min(count, 12)], style="bright_black")
        return text


def _state(timeline: Timeline, name: str, count: int) -> str:
    return "dead" if name == timeline.killed else str(count)


def _stamp() -> Any:
    began = time.monotonic()
    return lambda: f"{time.monotonic() - began:5.1f} s"


def summary(timeline: Timeline) -> str:
    """The account of a finished run, as text."""
    rows = [("phase", "seconds", "limit", "peak", "utilisation")]
    for phase in timeline.phases:
        seconds = f"{phase.ended - phase.began:.1f}"
        rows.append((phase.name, seconds, str(phase.limit), str(phase.peak), f"{phase.utilisation:.0%}"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join((row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]))) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    tasks = sum(run.ended is not None and not run.killed for run in timeline.runs)
    lost = sum(run.killed for run in timeline.runs)
    cluster = f"{len(NAMES)} workers of {LOCAL} processes"
    lines += ["", f"{tasks} tasks ended on {cluster}; {lost} died with {timeline.killed or 'none'}"]
    if timeline.recovery is not None:
        lines.append(f"{timeline.limit} ran at once again {timeline.recovery:.2f} s after the kill (the lease is 3 s)")
    return "\n".join(lines)


def verdict(timeline: Timeline) -> str:
    """The outcome in one line."""
    if timeline.excesses:
        count = len(timeline.excesses)
        return f"LIMIT EXCEEDED {count} time{'s' if count > 1 else ''}: at first, {timeline.excesses[0]}"
    if timeline.recovery is None:
        return "NOT RECOVERED: the permits of the killed worker did not come back"
    return "limit never exceeded"
