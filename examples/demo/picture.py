"""The timeline as an SVG: each block is a task, as wide as it ran and in its worker's colour, under the limit."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from .screen import COLOURS
from .timeline import Phase, Run, Timeline
from .workers import LOCAL, NAMES

WIDTH, HEIGHT = 800, 430
LEFT, RIGHT, TOP, BOTTOM = 62, 22, 112, 62

_INK, _MUTED, _GRID, _PAPER = "#1f2933", "#5f6c7b", "#e4e7eb", "#ffffff"
_LIMIT, _KILL, _DEAD = "#c2185b", "#b00020", "#fbe4e8"
_STYLE = f"""
  text {{ font-family: 'Helvetica Neue', Helvetica, Arial, sans-serif; font-size: 12.5px; fill: {_INK}; }}
  .title {{ font-size: 18px; font-weight: 600; }}
  .muted {{ fill: {_MUTED}; }}
  .facts {{ font-size: 11.5px; }}
  .kill {{ fill: {_KILL}; font-weight: 600; }}
  .dead {{ fill: {_KILL}; font-size: 11px; }}
  .limit {{ fill: {_LIMIT}; font-weight: 600; }}
"""


def draw(timeline: Timeline) -> str:
    """The picture of a finished timeline, as the text of an SVG file."""
    return "\n".join(_Picture(timeline).parts()) + "\n"


class _Picture:
    """Maps seconds and tasks to pixels."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._phases = timeline.phases
        self._seconds = max(timeline.now, 0.001)
        rows = [run.row + 1 for run in timeline.runs]
        self._tasks = max([phase.limit for phase in self._phases] + rows) + 0.6

    def parts(self) -> Iterator[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            'role="img" aria-labelledby="title desc">'
        )
        yield f'<title id="title">{escape(self._title())}</title>'
        yield f'<desc id="desc">{escape(self._description())}</desc>'
        yield f"<style>{_STYLE}</style>"
        yield f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{_PAPER}"/>'
        yield from self._heading()
        yield from self._axes()
        yield from self._dead_permits()
        yield from self._blocks()
        yield from self._limit()
        yield from self._labels()
        yield from self._kill()
        yield "</svg>"

    def _x(self, seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * seconds / self._seconds

    def _y(self, tasks: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * tasks / self._tasks

    def _title(self) -> str:
        return "One global limit over three workers"

    def _description(self) -> str:
        phases = "; ".join(f"{p.name}: limit {p.limit}, peak {p.peak}" for p in self._phases)
        return f"Running tasks over time, from a real run. {phases}."

    def _heading(self) -> Iterator[str]:
        count, over = len(self._timeline.runs), len(self._timeline.excesses)
        yield f'<text class="title" x="{LEFT}" y="34">{escape(self._title())}</text>'
        cluster = f"{len(NAMES)} workers of {LOCAL} processes"
        facts = f"One real run: {count} tasks, {cluster}. Limit exceeded: {over or 'never'}."
        yield f'<text class="muted" x="{LEFT}" y="55">{facts}</text>'
        x = WIDTH - RIGHT - 62 * len(NAMES) - 52
        for name in NAMES:
            yield f'<rect x="{x}" y="24" width="12" height="12" rx="2" fill="{COLOURS[name]}"/>'
            yield f'<text x="{x + 18}" y="34">{name}</text>'
            x += 56
        yield f'<line x1="{x}" x2="{x + 22}" y1="30" y2="30" stroke="{_LIMIT}" stroke-width="2.5"/>'
        yield f'<text x="{x + 28}" y="34">limit</text>'

    def _axes(self) -> Iterator[str]:
        right, bottom = WIDTH - RIGHT, self._y(0)
        for tasks in range(0, int(self._tasks) + 1, 2):
            y = self._y(tasks)
            yield f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>'
            yield f'<text class="muted" x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{tasks}</text>'
        for seconds in range(0, int(self._seconds) + 1, 5):
            x = self._x(seconds)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}" stroke="{_MUTED}"/>'
            yield f'<text class="muted" x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{seconds}</text>'
        yield f'<line x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="{_MUTED}"/>'
        yield f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 16}" text-anchor="middle">seconds</text>'
        middle = (TOP + bottom) / 2
        yield f'<text x="22" y="{middle}" text-anchor="middle" transform="rotate(-90 22 {middle})">running tasks</text>'

    def _dead_permits(self) -> Iterator[str]:
        """What shows through where tasks are missing, from the kill until the dead worker's lease has run out."""
        timeline = self._timeline
        if timeline.killed_at is None:
            return
        x, end = self._x(timeline.killed_at), self._x(timeline.recovered_at or self._seconds)
        top, bottom = self._y(timeline.limit), self._y(0)
        yield f'<rect x="{x:.1f}" y="{top:.1f}" width="{end - x:.1f}" height="{bottom - top:.1f}" fill="{_DEAD}"/>'
        if end - x < 64:
            return
        middle = f'x="{(x + end) / 2:.1f}" text-anchor="middle"'
        for line, text in enumerate(("permits of", f"dead {timeline.killed}")):
            yield f'<text class="dead" {middle} y="{top + 18 + 14 * line:.1f}">{escape(text)}</text>'

    def _blocks(self) -> Iterator[str]:
        for name in NAMES:
            path = "".join(self._block(run) for run in self._timeline.runs if run.worker == name)
            yield f'<path fill="{COLOURS[name]}" d="{path}"/>'

    def _block(self, run: Run) -> str:
        x, y = self._x(run.began), self._y(run.row + 1)
        width = max(self._x(run.ended or self._seconds) - x - 0.7, 0.5)
        height = self._y(run.row) - y - 0.7
        return f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z"

    def _limit(self) -> Iterator[str]:
        points = []
        for phase in self._phases:
            y = self._y(phase.limit) - 1
            points += [f"{self._x(phase.began):.1f},{y:.1f}", f"{self._x(phase.ended):.1f},{y:.1f}"]
        line = f'<polyline points="{" ".join(points)}" fill="none" stroke-linejoin="round"'
        yield f'{line} stroke="{_PAPER}" stroke-width="5.5" stroke-opacity="0.85"/>'
        yield f'{line} stroke="{_LIMIT}" stroke-width="2.5"/>'

    def _labels(self) -> Iterator[str]:
        for phase in self._phases:
            if phase.began != self._timeline.killed_at:
                yield from self._label(phase)

    def _label(self, phase: Phase) -> Iterator[str]:
        x = self._x(phase.began)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="76" y2="{self._y(phase.limit):.1f}" stroke="{_GRID}"/>'
        yield f'<text class="limit" x="{x + 6:.1f}" y="86">{escape(phase.name)}</text>'
        facts = f"peak {phase.peak} · {phase.utilisation:.0%} used"
        yield f'<text class="muted facts" x="{x + 6:.1f}" y="102">{facts}</text>'

    def _kill(self) -> Iterator[str]:
        timeline = self._timeline
        if timeline.killed_at is None:
            return
        x, bottom = self._x(timeline.killed_at), self._y(0)
        stroke = f'stroke="{_KILL}" stroke-width="1.5" stroke-dasharray="5 3"'
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="76" y2="{bottom}" {stroke}/>'
        yield f'<text class="kill" x="{x + 6:.1f}" y="86">kill -9 {timeline.killed}</text>'
        if timeline.recovery is None:
            return
        yield f'<text class="muted facts" x="{x + 6:.1f}" y="102">recovered in {timeline.recovery:.1f} s</text>'
