"""What workers say of themselves, and how they agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from celery_gconc.brokers.keeper import MIN_EXPIRY
from celery_gconc.diagnosis.finding import ERROR, INFO, WARNING, Finding
from celery_gconc.diagnosis.look import Look
from celery_gconc.operations.declared import escaping_tasks
from celery_gconc.operations.wording import all_of, some_of, span, stall_note
from celery_gconc.protocol.status import SessionStatus, Status

#: By how many seconds clocks may differ.
MAX_SKEW = 1.0


def imports(look: Look) -> Iterator[Finding]:
    """The tasks of this app can be read."""
    if look.imports:
        yield Finding(
            WARNING,
            f"some tasks of this app can't be imported here: {look.imports}",
            "run doctor where the workers run; until then the names of limits are not checked",
        )


def answers(look: Look) -> Iterator[Finding]:
    """Workers answer, and all that consume have this package."""
    if look.trouble:
        yield Finding(ERROR, look.trouble, "check the broker; workers could not be examined")
        return
    for node, stats in sorted(look.stats.items()):
        queues = sorted(queue["name"] for queue in look.queues.get(node) or ())
        if queues and "global_concurrency" not in stats:
            yield Finding(
                ERROR,
                f"{node} runs tasks from {all_of(queues)} without celery-gconc; they count against no limit",
                "add GlobalConcurrency(app) to its app, or set global_concurrency_enabled back to True there, and "
                "restart it; or take those queues from it",
            )
    for session in look.status.sessions:
        if session.node not in look.stats and session.broker in ("", look.broker):
            yield Finding(
                INFO,
                f"{session.node} did not answer in time, though its session is alive",
                "ignore this if it is busy (a solo worker can't answer during a task) or has no remote control",
            )
    if not look.stats and not look.status.sessions:
        yield Finding(INFO, "no workers are running", "start one")


def health(look: Look) -> Iterator[Finding]:
    """What workers report of themselves."""
    for node, stats in sorted(look.stats.items()):
        yield from _health_of(node, stats.get("global_concurrency") or {})


def _health_of(node: str, own: Mapping[str, Any]) -> Iterator[Finding]:
    if own.get("connected") is False:
        yield Finding(ERROR, *trouble_of(node, own))
    if losses := own.get("lease_losses"):
        yield Finding(
            WARNING,
            f"{node} has lost its lease {_times(losses)} since it started; more tasks than the max may have run",
            "raise global_concurrency_heartbeat_timeout above the longest stall that you expect",
        )
    for queue, count in sorted((own.get("lost_queues") or {}).items()):
        yield Finding(
            WARNING,
            f"{node} found queue {queue} gone, {_times(count)}, while its limit was full: it was deleted or it "
            "expired, and the messages waiting in it are lost",
            f"if a RabbitMQ policy makes it expire, set the expiry above {MIN_EXPIRY:g} s",
        )
    if runs := own.get("runs_without_permit"):
        tasks = "1 task" if runs == 1 else f"{runs} tasks"
        yield Finding(
            WARNING,
            f"{node} ran {tasks} without a permit while Redis was unavailable",
            "expected with global_concurrency_on_redis_error = 'run'; set 'wait' to hold them instead",
        )


def versions(look: Look) -> Iterator[Finding]:
    """All workers run the same versions."""
    for version, name, severity in (
        ("version", "celery-gconc", WARNING),
        ("celery", "Celery", INFO),
        ("python", "Python", INFO),
    ):
        found: dict[str, list[str]] = {}
        for session in look.status.sessions:
            if number := getattr(session, version):
                found.setdefault(number, []).append(session.node)
        if len(found) > 1:
            text = "; ".join(f"{number} on {all_of(sorted(nodes))}" for number, nodes in sorted(found.items()))
            what = f"workers run different versions of {name}: {text}"
            yield Finding(severity, what, "finish rolling out the deploy")


def clocks(look: Look) -> Iterator[Finding]:
    """The clocks of workers, of Redis and of this machine agree. Limits don't need that; what people read does."""
    todo = (
        "synchronise the clocks (NTP): limits hold anyway, but displayed times, ETAs and expiries are off by that much"
    )
    if abs(look.skew) > MAX_SKEW:
        yield Finding(WARNING, f"the clocks of this machine and of Redis differ by {span(abs(look.skew))}", todo)
    for node, skew in sorted(_skews(look).items()):
        if abs(skew) > MAX_SKEW:
            word = "ahead of" if skew > 0 else "behind"
            yield Finding(WARNING, f"the clock of {node} is {span(abs(skew))} {word} Redis'", todo)


def _skews(look: Look) -> dict[str, float]:
    """How far, in seconds, each worker's clock is ahead of Redis': now, or when its session opened.

    The skew at its opening counts only for a worker that says nothing now: clocks are set right.
    """
    skews = {session.node: session.skew for session in look.status.sessions}
    for node, stats in look.stats.items():
        at = (stats.get("global_concurrency") or {}).get("time")
        if at is not None:
            is_right = look.begun - MAX_SKEW <= at <= look.ended + MAX_SKEW  # it answered some time between them
            skews[node] = 0.0 if is_right else at - (look.begun + look.ended) / 2
    return skews


def heartbeats(look: Look) -> Iterator[Finding]:
    """All workers have the same heartbeat settings, but in a deploy that changes them."""
    if text := different_heartbeats(look.status):
        yield Finding(
            INFO,
            text,
            "finish rolling out the deploy; until then, each worker's own timeout applies to its permits",
        )


def different_heartbeats(status: Status) -> str:
    """A sentence on who has which heartbeat settings, where live workers have different ones, as in a deploy."""
    found: dict[tuple[float, float], list[str]] = {}
    for session in status.sessions:
        found.setdefault((session.interval, session.timeout), []).append(session.node)
    if len(found) < 2:
        return ""
    text = "; ".join(
        f"{interval:g}/{timeout:g} s on {some_of(sorted(nodes))}"
        for (interval, timeout), nodes in sorted(found.items())
    )
    return f"heartbeat interval and timeout differ: {text}"


def strangers(look: Look) -> Iterator[Finding]:
    """Apps that share no queue have a namespace each."""
    own = {queue for one in look.status.sessions if one not in look.strangers for queue in one.queues}
    own = own or set(look.app.amqp.queues.consume_from)
    groups: dict[tuple[str, str], list[SessionStatus]] = {}
    for session in look.strangers:
        groups.setdefault((session.app, session.broker), []).append(session)
    for (app, broker), sessions in sorted(groups.items()):
        if broker == look.broker and any(own.intersection(session.queues) for session in sessions):
            continue
        nodes = sorted(session.node for session in sessions)
        belong, share, their = ("belong", "share", "their") if len(nodes) > 1 else ("belongs", "shares", "its")
        yield Finding(
            WARNING,
            f"{some_of(nodes)} {belong} to app {app or '(without a name)'} with broker {broker or '?'}, and {share} "
            f"this namespace, but no queue, with app {look.app.main or '(without a name)'}: {their} tasks count "
            "against the same limits",
            "unless that is meant, give one of the apps its own global_concurrency_key_prefix",
        )


def strategies(look: Look) -> Iterator[Finding]:
    """Every task passes the gate."""
    if escaping := escaping_tasks(look.app):
        has = "its custom Strategy submits" if len(escaping) == 1 else "their custom Strategy submits"
        yield Finding(
            WARNING,
            f"limits don't apply to {all_of(escaping)}: {has} to the pool directly, bypassing all limits",
            "give these tasks their own queue and workers, or no limit",
        )


def stalls(look: Look) -> Iterator[Finding]:
    """No worker starts nothing while slots of it are free."""
    for session in look.status.sessions:
        if (note := stall_note(session, look.status.at)) is not None:
            yield Finding(
                ERROR,
                note,
                "check its log, and what its main process is stuck on (py-spy dump); restart it if it does not recover",
            )


def trouble_of(node: str, own: Mapping[str, Any]) -> tuple[str, str]:
    """A sentence on a worker that isn't connected to Redis, by what it reports of itself, and what to do."""
    why = str(own.get("redis_error") or "its log has the error")
    if own.get("redis_error_is_permanent"):
        return f"{node} can't use the coordination Redis until its configuration is fixed", why
    return f"{node} can't reach the coordination Redis", f"check that Redis, and the network between them: {why}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


CHECKS = (imports, answers, health, versions, clocks, heartbeats, strangers, strategies, stalls)
