"""What is wrong, or may go wrong, with the limits of a namespace: each finding says what to do.

settings, app, Redis, workers -> examine -> findings
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from celery_gconc.brokers.amqp import DELIVERY_LIMIT, SPARE_DELIVERIES
from celery_gconc.brokers.backlog import BrokerUnavailable
from celery_gconc.brokers.keeper import LEAST_EXPIRY
from celery_gconc.brokers.queues import goes_by, suffers_from_cancel
from celery_gconc.connection.urls import without_secrets
from celery_gconc.errors import StoreUnusable
from celery_gconc.operations.declared import covers_nothing, escaping_tasks, told_queues
from celery_gconc.operations.operations import Operations
from celery_gconc.operations.survey import ANSWER_SECONDS, Answers, Question, ask
from celery_gconc.operations.wording import all_of, since, some_of, span, stall_note
from celery_gconc.protocol.status import LimitStatus, SessionStatus, Status

#: By how many seconds clocks may differ.
MOST_SKEW = 1.0

#: How long, in seconds, a limit may be paused, or an override stand without a reason, before it is remarked.
LONG_PAUSE, LONG_OVERRIDE = 86400.0, 7 * 86400.0

#: How long, in seconds, a task that waits for nothing is watched at most before that is called wrong.
MOST_PATIENCE = 10.0

#: kombu's own visibility_timeout of a Redis broker, in seconds (kombu 5.4-5.7).
VISIBILITY_TIMEOUT = 3600.0

#: Of how many seconds the longest run of a task is looked for.
RECENT_SECONDS = 900.0

ERROR, WARNING, INFO = "error", "warning", "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found: how bad it is, what it is, and what to do."""

    #: ``error`` (limits don't hold, or tasks are stuck), ``warning`` (they may come to that) or ``info``.
    severity: str
    what: str
    todo: str

    @property
    def is_problem(self) -> bool:
        """Whether somebody has to do something."""
        return self.severity != INFO


def examine(operations: Operations, timeout: float = ANSWER_SECONDS) -> tuple[Finding, ...]:
    """Look at everything once; the worst findings come first. Nothing is changed.

    Workers have *timeout* seconds for their answers.

    Raises:
        StoreUnavailable: the coordination Redis can't be reached.
        SettingError: a setting breaks its rule.
    """
    examination = _Examination(operations, timeout)
    findings = [finding for check in examination.checks for finding in check()]
    order = (ERROR, WARNING, INFO)
    return tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))


def disagreements(status: Status) -> Iterator[tuple[LimitStatus, str]]:
    """The limits that live workers are configured with different values of, and a sentence on each."""
    for limit in status:
        told: dict[int, list[str]] = {}
        for session in status.sessions:
            if limit.limit in session.configured:
                told.setdefault(int(session.configured[limit.limit]), []).append(session.node)
        if len(told) > 1:
            text = "; ".join(f"{value} on {all_of(sorted(nodes))}" for value, nodes in sorted(told.items()))
            holds = "what was set holds" if limit.overridden else "the smallest holds"
            yield limit, f"{limit.limit}: configured differently: {text}; {holds}"


def heartbeats(status: Status) -> str:
    """A sentence on who has which heartbeat settings, where live workers have different ones, as in a deploy."""
    told: dict[tuple[float, float], list[str]] = {}
    for session in status.sessions:
        told.setdefault((session.interval, session.timeout), []).append(session.node)
    if len(told) < 2:
        return ""
    text = "; ".join(
        f"{interval:g}/{timeout:g} s on {some_of(sorted(nodes))}" for (interval, timeout), nodes in sorted(told.items())
    )
    return f"heartbeat interval and timeout differ: {text}"


def trouble_of(node: str, told: Mapping[str, Any]) -> tuple[str, str]:
    """A sentence on a worker that isn't connected to Redis, by what it tells of itself, and what to do."""
    why = str(told.get("redis_error") or "its log has the error")
    if told.get("redis_error_is_permanent"):
        return f"{node} can't use the coordination Redis until somebody changes something", why
    return f"{node} can't reach the coordination Redis", f"see to it, and to the network between them: {why}"


class _Examination:
    """One look at a namespace: what was read at its beginning, and the checks."""

    def __init__(self, operations: Operations, timeout: float) -> None:
        self.operations, self.app = operations, operations.app
        self.settings = operations.settings
        self._imports = _import_tasks(operations)
        before = time.time()
        self.begun = operations.server_time()
        self.skew = (before + time.time()) / 2 - self.begun
        self.status: Status = operations.status()
        self.server = operations.server_info()
        self.stats: Answers = {}
        self.queues: Answers = {}
        self.trouble = ""
        try:
            self.stats, self.queues = ask(self.app, [Question("stats"), Question("active_queues")], timeout)
        except BrokerUnavailable as exc:
            self.trouble = str(exc)
        self.ended = operations.server_time()
        self.checks: tuple[Callable[[], Iterable[Finding]], ...] = (
            self.imports,
            self.workers,
            self.health,
            self.versions,
            self.clocks,
            self.rights,
            self.server_policy,
            self.settings_read,
            self.timeouts,
            self.declarations,
            self.names,
            self.strategies,
            self.records,
            self.configuration,
            self.values,
            self.heartbeats,
            self.strangers,
            self.stalls,
            self.stuck,
        )

    # -- Workers -----------------------------------------------------------------------------------------

    def imports(self) -> Iterator[Finding]:
        """The tasks of this app can be read."""
        if self._imports:
            yield Finding(
                WARNING,
                f"the tasks of this app can't all be imported here: {self._imports}",
                "run doctor where the workers run; until then, the names of limits are not judged",
            )

    def workers(self) -> Iterator[Finding]:
        """Workers answer, and all that consume have this package."""
        if self.trouble:
            yield Finding(ERROR, self.trouble, "see to the broker; workers could not be examined")
            return
        for node, stats in sorted(self.stats.items()):
            queues = sorted(queue["name"] for queue in self.queues.get(node) or ())
            if queues and "global_concurrency" not in stats:
                yield Finding(
                    ERROR,
                    f"{node} consumes {all_of(queues)} without celery-gconc: what it runs counts under no limit",
                    "add GlobalConcurrency(app) to its app, or set global_concurrency_enabled back to True there, and "
                    "restart it; or take those queues from it",
                )
        for session in self.status.sessions:
            if session.node not in self.stats and session.broker in ("", self._broker):
                yield Finding(
                    INFO,
                    f"{session.node} gave no answer in time, though its session lives",
                    "nothing, where it is busy (with the solo pool it is while a task runs) or has no remote control",
                )
        if not self.stats and not self.status.sessions:
            yield Finding(INFO, "no worker is alive", "start one")

    def health(self) -> Iterator[Finding]:
        """What workers tell of themselves."""
        for node, stats in sorted(self.stats.items()):
            own = stats.get("global_concurrency") or {}
            if own.get("connected") is False:
                yield Finding(ERROR, *trouble_of(node, own))
            if own.get("lease_losses"):
                yield Finding(
                    WARNING,
                    f"{node} has lost its lease {own['lease_losses']} times since it started: more tasks than the max "
                    "may have run",
                    "raise global_concurrency_heartbeat_timeout above the longest stall that you expect",
                )
            for queue, count in sorted((own.get("lost_queues") or {}).items()):
                times = "once" if count == 1 else f"{count} times"
                yield Finding(
                    WARNING,
                    f"{node} found the queue {queue} gone, {times}, while its limit was full: it was deleted, or "
                    "expired, and what waited in it is lost",
                    f"if a policy of RabbitMQ expires it, have it do so after more than {LEAST_EXPIRY:g} s",
                )
            if own.get("runs_without_permit"):
                yield Finding(
                    WARNING,
                    f"{node} has run {own['runs_without_permit']} tasks without a permit while Redis was away",
                    "that is what global_concurrency_on_redis_error = 'run' says; 'wait' lets them wait",
                )

    def versions(self) -> Iterator[Finding]:
        """All workers run the same versions."""
        for what, severity in (("version", WARNING), ("celery", INFO), ("python", INFO)):
            found: dict[str, list[str]] = {}
            for session in self.status.sessions:
                if number := getattr(session, what):
                    found.setdefault(number, []).append(session.node)
            if len(found) > 1:
                name = {"version": "celery-gconc", "celery": "Celery", "python": "Python"}[what]
                text = "; ".join(f"{number} on {all_of(sorted(nodes))}" for number, nodes in sorted(found.items()))
                yield Finding(severity, f"workers run different versions of {name}: {text}", "end the deploy")

    def clocks(self) -> Iterator[Finding]:
        """The clocks of workers, of Redis and of this machine agree. Limits don't need that; what people read does."""
        todo = (
            "set the clocks by NTP: limits hold all the same, but times that are shown, ETA and expiry are off by that"
        )
        if abs(self.skew) > MOST_SKEW:
            yield Finding(WARNING, f"this machine's clock and Redis' differ by {span(abs(self.skew))}", todo)
        for node, skew in sorted(self._skews().items()):
            if abs(skew) > MOST_SKEW:
                word = "ahead of" if skew > 0 else "behind"
                yield Finding(WARNING, f"the clock of {node} is {span(abs(skew))} {word} Redis'", todo)

    def _skews(self) -> dict[str, float]:
        """How far, in seconds, each worker's clock is ahead of Redis': now, or when its session opened.

        What a session told at its opening counts only for a worker that tells nothing now: clocks are set right.
        """
        told = {session.node: session.skew for session in self.status.sessions}
        for node, stats in self.stats.items():
            at = (stats.get("global_concurrency") or {}).get("time")
            if at is None:
                continue
            is_right = self.begun - MOST_SKEW <= at <= self.ended + MOST_SKEW  # it answered some time between them
            told[node] = 0.0 if is_right else at - (self.begun + self.ended) / 2
        return told

    # -- Redis and time-outs -----------------------------------------------------------------------------

    def rights(self) -> Iterator[Finding]:
        """The user that this app names may do what workers need."""
        try:
            unseen = self.operations.check_rights()
        except StoreUnusable as exc:
            yield Finding(ERROR, "what this app names as the coordination Redis can't be used by workers", str(exc))
            return
        for text in unseen:
            yield Finding(INFO, text, "allow it to the user of this app where you can; workers go on without it")

    def server_policy(self) -> Iterator[Finding]:
        """The server keeps what it is given."""
        policy = self.server.get("maxmemory_policy", "")
        if policy.startswith("allkeys"):
            yield Finding(
                ERROR,
                f"Redis may evict our keys: its maxmemory-policy is {policy}",
                "set it to noeviction or a volatile- policy, or use another server (global_concurrency_redis_url)",
            )
        if int(self.server.get("connected_slaves") or 0) and "min_slaves_good_slaves" not in self.server:
            yield Finding(
                INFO,
                "Redis has replicas, and takes writes while it can't reach them",
                "set min-replicas-to-write 1, so that a split brain can't grant twice",
            )

    def settings_read(self) -> Iterator[Finding]:
        """All settings that are likely meant to be ours are read."""
        for key, meant in self.settings.misspelt:
            yield Finding(WARNING, f"this app reads no setting {key}", f"write {meant}, if that is meant")

    def timeouts(self) -> Iterator[Finding]:
        """Lease, visibility timeout and consumer timeout go together."""
        for text in self.settings.warnings:
            yield Finding(WARNING, text, "see 'tune heartbeats' in the documentation")
        lease, driver = self.settings.heartbeat_timeout, self._driver
        if driver == "redis":
            options = self.app.conf.broker_transport_options or {}
            visibility = float(options.get("visibility_timeout") or VISIBILITY_TIMEOUT)
            if visibility < lease:
                yield Finding(
                    WARNING,
                    f"visibility_timeout ({visibility:g} s) is shorter than the lease ({lease:g} s): what a stalled "
                    "worker holds is delivered again while its permits still count",
                    f"set visibility_timeout in broker_transport_options above {lease:g} s, and above the longest task",
                )
            yield from self._long_tasks(visibility)
        if driver in ("amqp", "py-amqp") and self.settings.consumer_timeout / 2 < lease:
            yield Finding(
                WARNING,
                f"global_concurrency_consumer_timeout ({self.settings.consumer_timeout:g} s) is less than twice the "
                f"lease ({lease:g} s): parked messages go back to their queues before a dead worker's permits are free",
                "raise RabbitMQ's consumer_timeout, and this setting with it",
            )

    def _long_tasks(self, visibility: float) -> Iterator[Finding]:
        late = sorted(name for name, task in self.app.tasks.items() if task.acks_late)
        if not late:
            return
        for limit in self.status:
            holds = [sample.held for sample in self.operations.history(limit.limit, RECENT_SECONDS)]
            longest = max(holds, default=0.0)
            if longest > visibility:
                yield Finding(
                    WARNING,
                    f"a task under {limit.limit} ran for {span(longest)}, longer than visibility_timeout "
                    f"({visibility:g} s): with acks_late it is delivered again while it runs",
                    "raise visibility_timeout in broker_transport_options above the longest task",
                )

    def declarations(self) -> Iterator[Finding]:
        """Queues with a limit are declared so that waiting there hurts nobody."""
        if self._driver not in ("amqp", "py-amqp"):
            return
        limited = {limit.limit for limit in self._in_use}
        for queue in self.app.amqp.queues.values():
            delivery_limit = (queue.queue_arguments or {}).get("x-delivery-limit")
            if delivery_limit is not None and 0 <= int(delivery_limit) <= SPARE_DELIVERIES:
                yield Finding(
                    WARNING,
                    f"the queue {queue.name} has an x-delivery-limit of {delivery_limit}: a message that goes back "
                    "while it waits, as at a worker's end, is replaced by a copy at the end of the queue",
                    f"raise it above {SPARE_DELIVERIES}, better to {DELIVERY_LIMIT}, which is RabbitMQ's own",
                )
            name = f"queue:{goes_by(queue)}"
            if name in limited and suffers_from_cancel(queue) and (others := self._read_beside(queue.name)):
                yield Finding(
                    INFO,
                    f"{name} is never stopped, for its queue is exclusive, auto-delete, expires or has a single active "
                    "consumer: what waits there may use up the prefetch count of workers that read "
                    f"{all_of(others)}, too",
                    "give that queue workers of its own",
                )

    def _read_beside(self, queue: str) -> list[str]:
        """The other queues of workers that consume a queue."""
        told = [{name for name, _ in told_queues([queues])} for queues in self.queues.values()]
        return sorted({name for names in told if queue in names for name in names - {queue}})

    # -- Limits ------------------------------------------------------------------------------------------

    def names(self) -> Iterator[Finding]:
        """Limits name queues and tasks that there are."""
        if self._imports:
            return
        queues = {name for names in told_queues(self.queues.values()) for name in names}
        elsewhere = {name for session in self._strangers for name in session.configured}
        for limit in self._in_use:
            is_used = limit.running or limit.waiting or limit.parked or limit.per_minute or limit.limit in elsewhere
            if is_used or (limit.limit.startswith("queue:") and not self._knows_queues):
                continue
            if what := covers_nothing(self.app, limit.limit, queues):
                todo = "name what there is, join it by @app.task(global_concurrency=...), or reset or remove the limit"
                yield Finding(WARNING, f"{limit.limit} limits nothing: {what}", todo)

    def strategies(self) -> Iterator[Finding]:
        """Every task passes the gate."""
        if escaping := escaping_tasks(self.app):
            yield Finding(
                WARNING,
                f"no limit holds for {all_of(escaping)}: a Strategy of its own hands it to the pool",
                "give these tasks a queue and workers of their own, or no limit",
            )

    def records(self) -> Iterator[Finding]:
        """Redis' records fit together."""
        for text in self.operations.audit():
            yield Finding(ERROR, text, "celery -A <app> gconc repair")

    def configuration(self) -> Iterator[Finding]:
        """All live workers, and this app, configure the same."""
        for limit, what in disagreements(self.status):
            todo = "end the deploy"
            if not limit.overridden:
                todo += "; or celery -A <app> gconc set, which holds for all"
            yield Finding(WARNING, what, todo)
        if not self.status.sessions:
            return
        for name, value in sorted(self.operations.configured().items()):
            if not any(session.configured.get(name) == value for session in self.status.sessions):
                yield Finding(
                    WARNING,
                    f"this app configures {name} = {value}, and no live worker does",
                    "restart the workers with this configuration, or run doctor with theirs",
                )

    def values(self) -> Iterator[Finding]:
        """Nobody has forgotten what was changed at run time."""
        for limit in self.status:
            paused = since(limit.paused_at, self.begun)
            if limit.paused and paused > LONG_PAUSE:
                by = f" by {limit.paused_by}" if limit.paused_by else ""
                yield Finding(
                    WARNING,
                    f"{limit.limit} has been paused{by} for {span(paused)}",
                    f"celery -A <app> gconc resume {limit.limit}, if nobody needs that any more",
                )
            elif limit.max == 0:
                origin = f"set by {limit.set_by}" if limit.overridden else "as configured"
                yield Finding(
                    WARNING,
                    f"{limit.limit} has a max of 0, {origin}: it starts nothing",
                    f"celery -A <app> gconc set {limit.limit} with a max above 0; to stop it for a while, pause it",
                )
            age = since(limit.set_at, self.begun)
            if limit.overridden and not limit.reason and limit.set_until is None and age > LONG_OVERRIDE:
                yield Finding(
                    INFO,
                    f"{limit.limit} was set to {limit.max} by {limit.set_by} {span(age)} ago, and nobody wrote why",
                    f"configure it so, and celery -A <app> gconc reset {limit.limit}; or set it with --reason",
                )

    def heartbeats(self) -> Iterator[Finding]:
        """All workers have the same heartbeat settings, but in a deploy that changes them."""
        if text := heartbeats(self.status):
            yield Finding(INFO, text, "finish the deploy; meanwhile each worker's permits come back by its own timeout")

    def strangers(self) -> Iterator[Finding]:
        """Apps that share no queue have a namespace each."""
        own = {queue for one in self.status.sessions if one not in self._strangers for queue in one.queues}
        own = own or set(self.app.amqp.queues.consume_from)
        groups: dict[tuple[str, str], list[SessionStatus]] = {}
        for session in self._strangers:
            groups.setdefault((session.app, session.broker), []).append(session)
        for (app, broker), sessions in sorted(groups.items()):
            if broker == self._broker and any(own.intersection(session.queues) for session in sessions):
                continue
            nodes = sorted(session.node for session in sessions)
            yield Finding(
                WARNING,
                f"{some_of(nodes)} {'is' if len(nodes) == 1 else 'are'} of app {app or '(without a name)'} with broker "
                f"{broker or '?'}, and shares this namespace, but no queue, with app "
                f"{self.app.main or '(without a name)'}: its tasks count under the same limits",
                "give one of them a global_concurrency_key_prefix of its own, unless that is meant",
            )

    def stuck(self) -> Iterator[Finding]:
        """A task whose limits have a place, in a worker that has room, is granted at once."""
        suspects = {limit.limit: task for limit in self.status if (task := self._waits_for_nothing(limit.limit))}
        if not suspects:
            return
        # A lost notice is made good within an interval.
        time.sleep(min(self.settings.heartbeat_interval + 0.5, MOST_PATIENCE))
        for name, task in suspects.items():
            if self._waits_for_nothing(name) == task:
                yield Finding(
                    ERROR,
                    f"task {task} waits for {name}, which has a place for it, in a worker that has room",
                    "restart that worker; this should never be, so please report it",
                )

    def stalls(self) -> Iterator[Finding]:
        """No worker starts nothing while slots of it are free."""
        for session in self.status.sessions:
            if (told := stall_note(session, self.status.at)) is not None:
                yield Finding(
                    ERROR,
                    told,
                    "see its log, and what its main process waits for (py-spy dump); restart it if it does not go on",
                )

    # -- Parts -------------------------------------------------------------------------------------------

    @property
    def _in_use(self) -> list[LimitStatus]:
        return [limit for limit in self.status if limit.max is not None or limit.paused]

    @property
    def _knows_queues(self) -> bool:
        """Whether every live worker has told what it consumes: a silent one may be the only one to know a queue."""
        return not self.trouble and all(session.node in self.queues for session in self.status.sessions)

    @property
    def _driver(self) -> str:
        with suppress(Exception):
            return str(self.app.connection_for_write().get_transport_cls().driver_type)
        return ""

    @property
    def _strangers(self) -> list[SessionStatus]:
        """Live sessions of another app or broker."""
        own = (self.app.main or "", self._broker)
        return [one for one in self.status.sessions if (one.app or one.broker) and (one.app, one.broker) != own]

    @property
    def _broker(self) -> str:
        return without_secrets(self.app.conf.broker_url or "")[:500]  # as sessions tell it

    def _waits_for_nothing(self, limit: str) -> str | None:
        """The task that is first in a limit's line though nothing keeps it there."""
        for waiting in self.operations.waiting(limit, 1):
            for found in self.operations.find(waiting.task_id):
                if found.is_waiting and found.session == waiting.session and not found.full and found.room > 0:
                    return found.task_id
        return None


def _import_tasks(operations: Operations) -> str:
    """Import the tasks of the app; what hinders that, or nothing."""
    try:
        operations.app.loader.import_default_modules()
    except Exception as exc:  # noqa: BLE001 - whatever a module of the user's raises
        return f"{type(exc).__name__}: {exc}".splitlines()[0][:200]
    return ""
