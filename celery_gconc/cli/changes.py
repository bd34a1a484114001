"""The commands that change a limit, and ``get``: each says what was, what is, for how long, and what it means now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import click
from celery import Celery

from celery_gconc.cli.arguments import LIMIT, MAX, SPAN, NumberRange
from celery_gconc.cli.rows import moment, pause_note
from celery_gconc.cli.terminal import EXIT_NO, Command, Terminal, pass_terminal
from celery_gconc.errors import StoreUnavailable
from celery_gconc.operations.declared import covers_nothing
from celery_gconc.operations.wording import all_of, count_of, span
from celery_gconc.operations.worker_query import ANSWER_SECONDS
from celery_gconc.protocol.status import Change, LimitStatus

#: How often, in seconds, it is looked whether enough tasks have finished.
LOOK_SECONDS = 0.25

_for = click.option(
    "--for", "duration", type=SPAN, metavar="SPAN",
    help="Expire after this time, for example 2h, 30m or 1d12h.",
)  # fmt: skip
_reason = click.option("--reason", metavar="TEXT", help="Reason to show in status.")
_limit = click.argument("limit", type=LIMIT)


# (so that `set emails -1` is a bad max, not an unknown option)
@click.command("set", cls=Command, context_settings={"ignore_unknown_options": True})
@_limit
@click.argument("max", type=MAX)
@_for
@_reason
@click.option("--wait", is_flag=True, help="Wait until no more tasks than MAX are running.")
@pass_terminal
def set_(
    terminal: Terminal, limit: str, max: int | str, duration: float | None, reason: str | None, wait: bool
) -> None:
    """Set how many tasks may run at once under LIMIT.

    MAX is a number, or 'unlimited'. It applies to all workers until it is set again or reset. Raise it and waiting
    tasks start at once; lower it and running tasks finish undisturbed, and none start until enough have finished.
    """
    change = _make(terminal, limit, lambda: terminal.operations.set(limit, max, duration=duration, reason=reason))
    if wait:
        _wait_for_surplus(terminal, change.limit)


@click.command(cls=Command)
@_limit
@pass_terminal
def reset(terminal: Terminal, limit: str) -> None:
    """Go back to the configured max of LIMIT.

    A pause stays in force.
    """
    _make(terminal, limit, lambda: terminal.operations.reset(limit))


@click.command(cls=Command)
@_limit
@_for
@_reason
@click.option("--wait", is_flag=True, help="Wait until no tasks are running.")
@pass_terminal
def pause(terminal: Terminal, limit: str, duration: float | None, reason: str | None, wait: bool) -> None:
    """Stop starting tasks under LIMIT; running tasks continue."""
    change = _make(terminal, limit, lambda: terminal.operations.pause(limit, duration=duration, reason=reason))
    if wait:
        _wait_for_surplus(terminal, change.limit)


@click.command(cls=Command)
@_limit
@pass_terminal
def resume(terminal: Terminal, limit: str) -> None:
    """Resume LIMIT after a pause. Its max is the one from before the pause, or the one set since."""
    _make(terminal, limit, lambda: terminal.operations.resume(limit))


@click.command(cls=Command)
@_limit
@pass_terminal
def get(terminal: Terminal, limit: str) -> None:
    """Print just the max of LIMIT: a number, or 'unlimited'.

    A pause doesn't change it, but is mentioned on stderr.
    """
    name = terminal.operations.full_name(limit)
    status = terminal.operations.status(limit, workers=False)
    found = status[name]
    if terminal.is_json:
        terminal.json(found)
        return
    click.echo("unlimited" if found.max is None else found.max)
    if found.paused:
        terminal.note(pause_note(found, status.at))


@click.command(cls=Command)
@_limit
@click.option("--force", "-f", is_flag=True, help="Don't ask for confirmation.")
@click.option(
    "--timeout",
    type=NumberRange(min=0.1, max=60.0),
    default=ANSWER_SECONDS,
    show_default=True,
    help="Seconds to wait for each answer from workers.",
)
@pass_terminal
def purge(terminal: Terminal, limit: str, force: bool, timeout: float) -> None:
    """Permanently remove all messages waiting for LIMIT.

    They are removed at the broker and in workers; running tasks continue. For a queue's limit, this removes all
    messages of the queue that have not started. For any other limit, it removes the messages of the tasks it covers:
    those that workers hold and, with a Redis broker, those in the queues.

    Exit code 1 if some may be left: a worker didn't answer, or messages arrived faster than they were removed.
    """
    from celery_gconc.operations.purge import purge as purge_limit

    name = terminal.operations.full_name(limit)
    if not force:
        click.echo(
            f"This removes all messages waiting for {name}, at the broker and in workers. It can't be undone.", err=True
        )
        click.confirm("Are you sure? (-f skips this question)", abort=True, err=True)
    purged = purge_limit(terminal.operations, limit, timeout)
    if terminal.is_json:
        terminal.json(purged)
    elif purged.total:
        nodes = ", ".join(f"{node} {count}" for node, count in sorted(purged.in_workers.items()))
        count = sum(purged.in_workers.values())
        where = f"{purged.at_broker} at the broker, {count} in workers" + (f" ({nodes})" if nodes else "")
        terminal.line(f"{name}: removed {count_of(purged.total, 'message')}: {where}")
    else:
        terminal.line(f"{name}: nothing was waiting")
    if purged.silent:
        terminal.warn(f"no answer in time from {all_of(purged.silent)}; messages waiting there may remain")
    if not purged.is_complete:
        terminal.warn("messages arrived faster than they were removed; run the command again, or pause the limit first")
    if purged.silent or not purged.is_complete:
        click.get_current_context().exit(EXIT_NO)


def _make(terminal: Terminal, limit: str, make: Callable[[], Change]) -> Change:
    """Make a change, and report it."""
    try:
        change = make()
    except StoreUnavailable as exc:
        raise StoreUnavailable(f"{exc}; it is not known whether the change was applied") from exc
    if terminal.is_json:
        terminal.json(change)
    else:
        terminal.line(str(change))
    with suppress(StoreUnavailable):  # the change is made, and that is what was asked for
        status = terminal.operations.status(limit, workers=False)
        found = status[change.limit]
        if not terminal.is_json:
            for text in consequences(change, found, status.at):
                terminal.line(text)
        if (doubt := _doubt(terminal.app, found)) is not None:
            terminal.warn(doubt)
    return change


def _wait_for_surplus(terminal: Terminal, limit: str) -> None:
    """Wait until no more tasks run under a limit than may by what holds then, whoever changed it meanwhile."""
    told = None
    while (text := _surplus(terminal.operations.status(limit, workers=False)[limit])) is not None:
        if text != told:
            terminal.note(f"Waiting: {text}.")
            told = text
        time.sleep(LOOK_SECONDS)


def _surplus(limit: LimitStatus) -> str | None:
    """What has to end, or to be reported, before no more tasks run under a limit than may; None where that is so."""
    if limit.settling and not (limit.max is None and not limit.paused):
        return "not every worker has reported what it is running"
    allowed = 0 if limit.paused else limit.max
    held = limit.running + limit.idle  # what was idle when a worker last told may be in use since
    return None if allowed is None or held <= allowed else f"{held} running, {allowed} allowed"


def consequences(change: Change, limit: LimitStatus, now: float) -> Iterator[str]:
    """Sentences on what a change means from now on: when it expires, and what running and waiting tasks do."""
    if change.now.origin == "override" and limit.set_until is not None:
        yield f"This value expires {_end(limit.set_until, now)}."
    if change.now.paused and limit.paused_until is not None:
        yield f"The pause ends {_end(limit.paused_until, now)}."
    waiting = limit.waiting + limit.parked
    tasks = _tasks(limit.running, waiting)
    if change.now.paused:
        yield f"Paused: {tasks}; no tasks will start until it is resumed."
    elif change.now.max is None:
        yield f"Unlimited: {limit.running} running, {waiting} waiting."
    elif change.now.max == 0:
        yield f"{tasks[0].upper()}{tasks[1:]}; no tasks will start."
    elif limit.running > change.now.max:
        first = limit.running - change.now.max + 1
        yield f"{tasks}; no tasks will start until {first} {'has' if first == 1 else 'have'} finished."
    else:
        yield f"{limit.running} of {change.now.max} running, {waiting} waiting."
    if limit.settling and change.now.max is not None:
        yield "It is settling: nothing starts until every worker has reported what it is running."


def _tasks(running: int, waiting: int) -> str:
    if not running and not waiting:
        return "nothing is running or waiting"
    go_on = f"{count_of(running, 'running task')} {'continues' if running == 1 else 'continue'}"
    return f"{go_on if running else 'nothing is running'}, {waiting} {'is' if waiting == 1 else 'are'} waiting"


def _doubt(app: Celery, limit: LimitStatus) -> str | None:
    """Why a limit may cover nothing (a misspelt name); None where it has tasks, or where there is no doubt."""
    is_lifted = limit.max is None and not limit.paused
    is_used = limit.running or limit.waiting or limit.parked or limit.per_minute or limit.configured is not None
    why = None if is_lifted or is_used else covers_nothing(app, limit.limit)
    return None if why is None else f"{limit.limit} may cover no tasks: {why}"


def _end(until: float, now: float) -> str:
    return f"at {moment(until, now)}, in {span(max(round(until - now), 0))}"
