"""The commands that say why, what is wrong and what would be: explain, doctor, repair, simulate, exporter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from celery_gconc.cli.arguments import LIMIT, MAX, NumberRange
from celery_gconc.cli.terminal import EXIT_NO, Command, Terminal, pass_terminal
from celery_gconc.limits.name import LimitName
from celery_gconc.operations.wording import count_of, span
from celery_gconc.operations.worker_query import ANSWER_SECONDS
from celery_gconc.protocol.status import as_json

if TYPE_CHECKING:
    from celery_gconc.diagnosis.simulation import Forecast, History

#: The styles of a finding's severity.
_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def _timeout_option(function: Any) -> Any:
    return click.option(
        "--timeout",
        type=NumberRange(min=0.1, max=60.0),
        default=ANSWER_SECONDS,
        show_default=True,
        help="Seconds to wait for workers to answer.",
    )(function)


@click.command(cls=Command)
@click.argument("task_id")
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME",
    help="Also search this queue (queues known to the app, its limits and its workers are searched anyway).",
)
@_timeout_option
@pass_terminal
def explain(terminal: Terminal, task_id: str, queues: tuple[str, ...], timeout: float) -> None:
    """Explain why a task isn't running, or where it is running.

    Asks the broker, all workers, Redis and the result backend. Exit code 1 if none of them knows the task.
    """
    from celery_gconc.diagnosis.explain import explain as explain_task

    found = explain_task(terminal.operations, task_id, queues=queues, timeout=timeout)
    if terminal.is_json:
        terminal.json(found)
    else:
        terminal.line(f"{found.task or 'task'}[{found.task_id}]: {found.state}", "bold")
        terminal.line(found.answer)
        for detail in found.details:
            terminal.line(f"  {detail}")
    if found.state == "unknown":
        click.get_current_context().exit(EXIT_NO)


@click.command(cls=Command)
@_timeout_option
@pass_terminal
def doctor(terminal: Terminal, timeout: float) -> None:
    """Report what is wrong or may go wrong, and what to do about it.

    Exit code 1 if there are errors or warnings, 0 otherwise. Changes nothing.
    """
    from celery_gconc.diagnosis.doctor import examine

    findings = examine(terminal.operations, timeout)
    if terminal.is_json:
        terminal.json({"findings": as_json(findings)})
    else:
        for finding in findings:
            terminal.line(f"{finding.severity}: {finding.what}", _STYLES[finding.severity])
            terminal.line(f"  {finding.todo}")
        if not findings:
            terminal.line("no findings", "green")
    if any(finding.is_problem for finding in findings):
        click.get_current_context().exit(EXIT_NO)


@click.command(cls=Command)
@pass_terminal
def repair(terminal: Terminal) -> None:
    """Remove inconsistent records from Redis.

    Tasks that they kept waiting can then proceed. Prints what it repaired. If all is well, it changes and prints
    nothing; consistent records are never touched.
    """
    done = terminal.operations.audit(repair=True)
    if terminal.is_json:
        terminal.json({"repaired": list(done)})
        return
    for text in done:
        terminal.line(f"repaired: {text}")


@click.command(cls=Command)
@click.argument("limit", type=LIMIT)
@click.option(
    "--max",
    "maxima",
    type=MAX,
    multiple=True,
    required=True,
    metavar="N",
    help="A max to try; may be repeated.",
)
@click.option(
    "--minutes",
    type=NumberRange(min=0.1, max=15.0),
    default=10.0,
    show_default=True,
    help="How many minutes of recorded tasks to replay (up to 15 are kept, fewer if many workers are busy).",
)
@pass_terminal
def simulate(terminal: Terminal, limit: str, maxima: tuple[int | str, ...], minutes: float) -> None:
    """Predict what would happen if LIMIT had a max of N.

    Replays the tasks recorded over the last few minutes behind those waiting now, with their recorded durations: first
    come, first served, with the current max and with each N. No more run at once than live workers have slots; for a
    queue's limit, only workers that consume the queue count.

    It doesn't know when messages still in the broker arrived (they count as waiting now), whether tasks will
    keep arriving at that rate, which other limits they have, whether other tasks take up slots on the same workers, or
    whether tasks slow down when more of them run at once. For a paused limit, it predicts what happens once it is
    resumed. If the broker can't be asked, it says so and continues without it.

    Exit code 1 if fewer than 20 tasks were recorded.
    """
    from celery_gconc.diagnosis.simulation import forecast, read_history

    known = read_history(terminal.operations, limit, minutes * 60)
    tried = [known.max, *(None if value == "unlimited" else int(value) for value in maxima)]
    forecasts = [forecast(known, maximum) for maximum in dict.fromkeys(tried)]
    if terminal.is_json:
        terminal.json({**_facts(known), "forecasts": as_json(forecasts)})
    else:
        _show_forecasts(terminal, known, forecasts)
    for remark in known.remarks:
        terminal.note(remark)


def _facts(known: History) -> dict[str, Any]:
    """What forecasts rest on, as JSON has it."""
    return {
        "limit": known.limit,
        "max": known.max,
        "paused": known.paused,
        "settling": known.settling,
        "seconds": known.seconds,
        "samples": known.samples,
        "tasks": known.tasks,
        "mean_hold": known.mean_hold,
        "running": len(known.running),
        "backlog": known.backlog,
        "slots": known.slots,
        "remarks": list(known.remarks),
    }


def _show_forecasts(terminal: Terminal, known: History, forecasts: Sequence[Forecast]) -> None:
    """What they rest on in a sentence, and a table whose first row is the present max."""
    slots = "no live worker" if known.slots is None else f"{count_of(known.slots, 'slot')} on live workers"
    slots += " that consume it" if LimitName.of(known.limit).scope == "queue" else ""
    terminal.line(
        f"{known.limit}: based on {known.samples} of the {known.tasks:g} tasks of the last {span(known.seconds)}, "
        f"which took {span(known.mean_hold)} on average; now {len(known.running)} running and {known.backlog} waiting; "
        f"{slots}"
    )
    columns = [("MAX", True), ("IN USE", True), ("MEAN WAIT", True), ("95 % WAIT", True), ("STARTED/MIN", True)]
    columns += [("BACKLOG GONE", True), ("IN LINE AT THE END", True)]
    now = " (now, paused)" if known.paused else " (now, settling)" if known.settling else " (now)"
    terminal.table(columns, [_row(one, "" if number else now) for number, one in enumerate(forecasts)])


def _row(one: Forecast, remark: str) -> tuple[str, ...]:
    return (
        ("unlimited" if one.max is None else str(one.max)) + remark,
        "-" if one.in_use is None else f"{one.in_use:.0%}",
        _span(one.mean_wait),
        _span(one.p95_wait),
        f"{one.started_per_minute:.1f}",
        "never" if one.backlog_gone is None else _span(one.backlog_gone),
        str(one.left),
    )


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else span(seconds)


@click.command(cls=Command)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9808,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
@pass_terminal
def exporter(terminal: Terminal, host: str, port: int) -> None:
    """Serve the metrics of all limits to Prometheus.

    Runs until Ctrl-C or SIGTERM. Each scrape reads Redis once, so a single exporter covers the whole cluster and
    needs no worker.
    """
    from celery_gconc.metrics.exporter import Exporter

    with Exporter(terminal.app, host, port) as served:
        if terminal.is_json:
            terminal.json({"url": served.url})
        else:
            terminal.line(f"serving {served.url} until Ctrl-C")
        sys.stdout.flush()
        served.wait()
