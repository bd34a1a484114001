"""The limits themselves: what they name, who configures them, what was forgotten, what is stuck."""

from __future__ import annotations

from collections.abc import Iterator

from celery_gconc.diagnosis.finding import ERROR, INFO, WARNING, Finding
from celery_gconc.diagnosis.look import Look
from celery_gconc.limits.name import LimitName
from celery_gconc.operations.declared import configured_limits, covers_nothing, told_queues
from celery_gconc.operations.wording import all_of, since, span
from celery_gconc.protocol.status import LimitStatus, Status

#: For how many seconds a limit may be paused, or an override stand without a reason, before it is remarked on.
LONG_PAUSE, LONG_OVERRIDE = 86400.0, 7 * 86400.0


def names(look: Look) -> Iterator[Finding]:
    """Limits name queues and tasks that there are."""
    if look.imports:
        return
    queues = {name for names in told_queues(look.queues.values()) for name in names}
    elsewhere = {name for session in look.strangers for name in session.configured}
    for limit in look.limits_in_use:
        is_used = limit.running or limit.waiting or limit.parked or limit.per_minute or limit.limit in elsewhere
        if is_used or (LimitName.of(limit.limit).scope == "queue" and not look.knows_queues):
            continue
        if why := covers_nothing(look.app, limit.limit, queues):
            todo = (
                "correct the name, add the limit to a task (@app.task(global_concurrency=...)), or reset or remove it"
            )
            yield Finding(WARNING, f"{limit.limit} covers no tasks: {why}", todo)


def records(look: Look) -> Iterator[Finding]:
    """Redis' records fit together."""
    for text in look.records:
        yield Finding(ERROR, text, "celery -A <app> gconc repair")


def configuration(look: Look) -> Iterator[Finding]:
    """All live workers, and this app, configure the same."""
    for limit, text in disagreements(look.status):
        todo = "finish rolling out the deploy"
        if not limit.overridden:
            todo += "; or celery -A <app> gconc set, which overrides them all"
        yield Finding(WARNING, text, todo)
    if not look.status.sessions:
        return
    for name, value in sorted(configured_limits(look.app, look.settings).items()):
        if not any(session.configured.get(name) == value for session in look.status.sessions):
            yield Finding(
                WARNING,
                f"this app configures {name} = {value}, but no live worker does",
                "restart the workers with this configuration, or run doctor with theirs",
            )


def disagreements(status: Status) -> Iterator[tuple[LimitStatus, str]]:
    """The limits that live workers are configured with different values of, and a sentence on each."""
    for limit in status:
        found: dict[int, list[str]] = {}
        for session in status.sessions:
            if limit.limit in session.configured:
                found.setdefault(int(session.configured[limit.limit]), []).append(session.node)
        if len(found) > 1:
            text = "; ".join(f"{value} on {all_of(sorted(nodes))}" for value, nodes in sorted(found.items()))
            holds = "the value set at run time applies" if limit.overridden else "the smallest applies"
            yield limit, f"{limit.limit}: configured differently: {text}; {holds}"


def values(look: Look) -> Iterator[Finding]:
    """Nobody has forgotten a change made at run time."""
    for limit in look.status:
        paused = since(limit.paused_at, look.begun)
        if limit.paused and paused > LONG_PAUSE:
            by = f" by {limit.paused_by}" if limit.paused_by else ""
            yield Finding(
                WARNING,
                f"{limit.limit} has been paused{by} for {span(paused)}",
                f"celery -A <app> gconc resume {limit.limit}, if it should not be paused any longer",
            )
        elif limit.max == 0:
            origin = f"set by {limit.set_by}" if limit.overridden else "as configured"
            yield Finding(
                WARNING,
                f"{limit.limit} has a max of 0, {origin}: no tasks start under it",
                f"celery -A <app> gconc set {limit.limit} <max>; to stop its tasks only for a while, use pause",
            )
        age = since(limit.set_at, look.begun)
        if limit.overridden and not limit.reason and limit.set_until is None and age > LONG_OVERRIDE:
            yield Finding(
                INFO,
                f"{limit.limit} was set to {limit.max} by {limit.set_by} {span(age)} ago, without a reason",
                f"configure that value and run celery -A <app> gconc reset {limit.limit}, or set it again with a "
                "--reason",
            )


def stuck(look: Look) -> Iterator[Finding]:
    """A task whose limits have room, in a worker that has room, is granted at once."""
    for name, task in look.stuck.items():
        yield Finding(
            ERROR,
            f"task {task} is waiting for {name}, although that has room and its worker has a free slot",
            "restart that worker; this should never happen, so please report it",
        )


CHECKS = (names, records, configuration, values, stuck)
