"""The commands that show: ``status``, ``holders``, ``waiting``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from celery_gconc.cli.arguments import LIMIT
from celery_gconc.cli.rows import BAR_COLUMNS, LIMIT_COLUMNS, MIN_FOR_BARS, limit_row, notes_of
from celery_gconc.cli.terminal import Column, Command, Terminal, pass_terminal
from celery_gconc.operations.wording import since, span, stall_note
from celery_gconc.protocol.status import Holder, LimitStatus, Status, Waiter


@click.command(cls=Command)
@click.argument("limit", type=LIMIT, required=False)
@click.option("--now", "is_now", is_flag=True, help="Have workers report first, instead of with their next heartbeats.")
@pass_terminal
def status(terminal: Terminal, limit: str | None, is_now: bool) -> None:
    """Show all limits, or just LIMIT, and all workers."""
    told = _have_told(terminal) if is_now else set()
    found = terminal.operations.status(limit)
    if is_now and (silent := sorted({session.node for session in found.sessions} - told)):
        terminal.warn(f"no report from {', '.join(silent)}: shown as of the last heartbeat")
    if terminal.is_json:
        terminal.json(found)
        return
    _show_limits(terminal, found)
    terminal.line("")
    _show_sessions(terminal, found)
    settings = terminal.operations.settings
    late = settings.heartbeat_timeout - 2 * settings.heartbeat_interval
    if not found.sessions or any(session.lease < late for session in found.sessions):
        _show_unconnected(terminal)


def _have_told(terminal: Terminal) -> set[str]:
    """Have all workers tell Redis what they run and what waits; the nodes of those that did, within a second."""
    from celery_gconc.brokers.backlog import BrokerUnavailable
    from celery_gconc.operations.worker_query import Question, ask

    try:
        (answers,) = ask(terminal.app, [Question("state_global_concurrency")])
    except BrokerUnavailable as exc:
        raise click.ClickException(f"workers can't be asked to report: {exc}") from None
    return set(answers)


def _show_unconnected(terminal: Terminal) -> None:
    """Live workers that report no connection to Redis, which may have forgotten them by now."""
    from celery_gconc.brokers.backlog import BrokerUnavailable
    from celery_gconc.diagnosis.checks.workers import trouble_of
    from celery_gconc.operations.worker_query import Question, ask

    try:
        (stats,) = ask(terminal.app, [Question("stats")])
    except BrokerUnavailable:
        return
    for node, told in sorted(stats.items()):
        own = told.get("global_concurrency") or {}
        if own.get("connected") is False:
            terminal.line(": ".join(trouble_of(node, own)), "bold red")


def _show_limits(terminal: Terminal, found: Status) -> None:
    from celery_gconc.diagnosis.checks.limits import disagreements

    if not found.limits:
        terminal.line(
            "No limits are set. Set one with: celery -A <app> gconc set <queue> <max>, "
            "or configure global_concurrency_limits."
        )
        return
    has_bar = not terminal.is_plain and terminal.width >= MIN_FOR_BARS
    is_ascii = terminal.console.options.ascii_only
    rows = [limit_row(limit, has_bar=has_bar, is_ascii=is_ascii) for limit in found.limits]
    terminal.table(BAR_COLUMNS if has_bar else LIMIT_COLUMNS, rows)
    notes = [note for limit in found.limits for note in notes_of(limit, found.at)]
    notes += [note for _, note in disagreements(found)]
    if any(limit.parked for limit in found.limits):
        notes.append("WAITING +n: n more tasks wait behind those in line, in workers or at the broker.")
    if notes:
        terminal.line("")
    for note in notes:
        terminal.line(note)


def _show_sessions(terminal: Terminal, found: Status) -> None:
    from celery_gconc.diagnosis.checks.workers import different_heartbeats

    if not found.sessions:
        terminal.line("No workers are running. Limits are stored and apply as soon as one starts.")
        return
    columns = (
        ("WORKER", False), ("PID", True), ("POOL", False), ("PERMITS", True), ("WAITING", True), ("ROOM", True),
        ("LEASE", True), ("UP", True),
    )  # fmt: skip
    rows = [
        (
            session.node,
            str(session.pid),
            session.pool,
            str(session.permits),
            str(session.waiting),
            str(session.room),
            span(max(session.lease, 0.0)),
            span(since(session.since, found.at)),
        )
        for session in sorted(found.sessions, key=lambda session: session.node)
    ]
    terminal.table(columns, rows)
    if text := different_heartbeats(found):
        terminal.line("")
        terminal.line(text)
    for session in found.sessions:
        if (told := stall_note(session, found.at)) is not None:
            terminal.line("")
            terminal.line(told)


def _tasks(function: Callable[..., None]) -> click.Command:
    """A command that lists tasks of a limit."""
    count = click.option(
        "--count", "-n", type=click.IntRange(1, 10000), default=100, show_default=True,
        help="Maximum number of tasks to show.",
    )  # fmt: skip
    return click.command(cls=Command)(click.argument("limit", type=LIMIT)(count(pass_terminal(function))))


@_tasks
def holders(terminal: Terminal, limit: str, count: int) -> None:
    """List the tasks running under LIMIT, longest-running first."""
    found = terminal.operations.holders(limit, count)
    if terminal.is_json:
        terminal.json(found)
        return
    of_all, at = _limit_now(terminal, limit)
    rows = [((span(since(one.since, at)),), one) for one in found]
    _show_tasks(terminal, of_all.limit, (("FOR", True),), rows)
    if not found:
        terminal.note(f"{of_all.limit}: no tasks are running")
    elif len(found) == count < of_all.running:
        terminal.note(f"{of_all.limit}: showing {count} of {of_all.running}; use --count to see more")


@_tasks
def waiting(terminal: Terminal, limit: str, count: int) -> None:
    """List the tasks in line for LIMIT, next first."""
    found = terminal.operations.waiting(limit, count)
    if terminal.is_json:
        terminal.json(found)
        return
    of_all, _ = _limit_now(terminal, limit)
    rows = [((str(one.position), span(one.waited)), one) for one in found]
    _show_tasks(terminal, of_all.limit, (("POSITION", True), ("FOR", True)), rows)
    if not found:
        terminal.note(f"{of_all.limit}: no tasks are in line")
    elif len(found) == count < of_all.waiting:
        terminal.note(f"{of_all.limit}: showing {count} of {of_all.waiting}; use --count to see more")
    if of_all.parked:
        terminal.note(f"{of_all.limit}: {of_all.parked} more wait behind those in line, in workers or at the broker")


def _limit_now(terminal: Terminal, limit: str) -> tuple[LimitStatus, float]:
    """The limit, and the time by Redis' clock."""
    name = terminal.operations.full_name(limit)
    found = terminal.operations.status(limit, workers=False)
    return found[name], found.at


def _show_tasks(
    terminal: Terminal,
    limit: str,
    first: tuple[Column, ...],
    rows: Sequence[tuple[tuple[str, ...], Holder | Waiter]],
) -> None:
    """A table of tasks, with their weights and the other limits that they are under, where there are any."""
    others = [", ".join(other for other in task.limits if other != limit) for _, task in rows]
    columns = (*first, ("TASK", False), ("ID", False), ("WORKER", False))
    cells = [(*more, task.task, task.task_id, task.node) for more, task in rows]
    if any(task.weight != 1 for _, task in rows):
        columns = (("WEIGHT", True), *columns)
        cells = [(str(task.weight), *row) for (_, task), row in zip(rows, cells, strict=True)]
    if any(others):
        columns = (*columns, ("ALSO UNDER", False))
        cells = [(*row, other) for row, other in zip(cells, others, strict=True)]
    if cells:
        terminal.table(columns, cells, whole="ID")  # it is copied into explain
