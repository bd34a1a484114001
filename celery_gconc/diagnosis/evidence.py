"""What is known of one task anywhere: in the broker, in the workers, in Redis and in the result backend.

    result backend, broker, workers, Redis, result backend again -> Evidence -> judges

They are asked in the order in which a task passes them, so that one that moves on meanwhile is seen at least once.
All of the I/O for an explanation is here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from celery import Celery
from celery.backends.base import DisabledBackend
from celery.backends.rpc import RPCBackend
from celery.states import PENDING

from celery_gconc.brokers.backlog import BrokerUnavailable, BrokerView, Message, Search
from celery_gconc.limits.claims import Limits, TaskOption, candidates, limits_of
from celery_gconc.limits.name import LimitName
from celery_gconc.operations.declared import known_queues
from celery_gconc.operations.operations import Operations
from celery_gconc.operations.worker_query import ANSWER_SECONDS, Answers, Question, WorkerQuery, ask
from celery_gconc.protocol.status import EndedTask, Holder, Status, Waiter, Whereabouts

#: How long, in seconds, the result backend has for an answer.
RESULT_SECONDS = 2.0

#: How many holders of a limit are named.
MAX_HOLDERS = 5

#: Expected waits come from the tasks that ended in this many seconds.
RECENT_SECONDS = 600.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result:
    """What the result backend has of a task. ``state`` is None where there is no backend, or no answer."""

    state: str | None
    #: What it keeps of a task that has ended or was revoked: its result, or the error's text.
    value: str = ""
    #: When it ended, in ISO 8601, and its name and queue (only with ``result_extended``).
    done: str | None = None
    task: str | None = None
    queue: str | None = None
    #: Why there is no answer.
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """What the workers said."""

    #: What each worker with this package does with the task; workers that don't have it are left out.
    own: Answers = field(default_factory=dict)
    #: Celery's own word for it (``query_task``), and what it tells of the request.
    state: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    #: Until when (ISO 8601) a worker without this package holds it back.
    scheduled: dict[str, str] = field(default_factory=dict)
    #: Workers that have noted that it is revoked.
    revoked: frozenset[str] = frozenset()
    #: The queues that each worker consumes.
    queues: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: Why they could not be asked.
    trouble: str = ""

    @property
    def nodes(self) -> frozenset[str]:
        """The workers that have answered."""
        return frozenset(self.state) | frozenset(self.queues) | frozenset(self.own)


@dataclass(frozen=True, slots=True)
class Line:
    """A limit that may keep the task waiting: who holds it, who stands in its line, what ended under it lately."""

    holders: tuple[Holder, ...] = ()
    waiting: tuple[Waiter, ...] = ()
    recent: tuple[EndedTask, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a task, from one round of asking."""

    task_id: str
    before: Result
    search: Search
    #: Why the broker could not be looked at.
    broker_trouble: str
    told: Told
    found: tuple[Whereabouts, ...]
    status: Status
    after: Result
    #: The limits that its message would come under, and its task's ``rate_limit``, as far as this app knows the task.
    candidates: Limits = ()
    rate_limit: object = None
    #: Of the limits that may keep it waiting.
    lines: Mapping[str, Line] = field(default_factory=dict)


def gather(
    operations: Operations, task_id: str, queues: Iterable[str] = (), timeout: float = ANSWER_SECONDS
) -> Evidence:
    """Ask everyone once. *queues*: more queues to look in than those that the app, its limits and workers name.

    Workers have *timeout* seconds for their answers. What can't be reached is noted, but for the coordination Redis.

    Raises:
        StoreUnavailable: the coordination Redis can't be reached.
    """
    app = operations.app
    before = result_of(app, task_id)
    status = operations.status()
    search, trouble = Search(None), ""
    try:
        with BrokerView(app) as backlog:
            search = backlog.find(task_id, _queues(app, status, [*queues, before.queue or ""]))
    except BrokerUnavailable as exc:
        trouble = str(exc)
    told = Told(trouble=trouble) if trouble else _ask_workers(app, task_id, status, timeout)
    if not trouble and search.message is None:
        search = _search_more(app, task_id, search, told)
    found, status = operations.find(task_id), operations.status()
    message = search.message
    claimed = _candidates(app, message)
    return Evidence(
        task_id,
        before,
        search,
        trouble,
        told,
        found,
        status,
        result_of(app, task_id),
        claimed,
        getattr(app.tasks.get((message and message.task) or ""), "rate_limit", None),
        _lines(operations, status, _may_wait_for(claimed, told, found)),
    )


def _candidates(app: Celery, message: Message | None) -> Limits:
    if message is None or message.task is None:
        return ()
    option = TaskOption.parse(message.task, getattr(app.tasks.get(message.task), "global_concurrency", None))
    return limits_of(candidates(message.task, message.queue, option))


def _may_wait_for(claimed: Limits, told: Told, found: tuple[Whereabouts, ...]) -> set[str]:
    names = set(claimed)
    for answer in told.own.values():
        names.update(answer.get("limits") or ())
    for one in found:
        names.update(one.limits if one.is_waiting else ())
    return names


def _lines(operations: Operations, status: Status, names: Container[str]) -> dict[str, Line]:
    """The lines of those of these limits that could keep a task waiting: some tasks hold them, or wait, or none may."""
    return {
        limit.limit: Line(
            operations.holders(limit.limit, MAX_HOLDERS),
            operations.waiting(limit.limit),
            operations.history(limit.limit, RECENT_SECONDS),
        )
        for limit in status
        if limit.limit in names and (limit.running or limit.waiting or limit.is_closed)
    }


def result_of(app: Celery, task_id: str) -> Result:
    """What the result backend has of a task now."""
    answer: list[Result] = []

    def read() -> None:
        try:
            if (why := _keeps_nothing(app.backend)) is not None:
                answer.append(Result(None, trouble=why))
                return
            meta = app.backend.get_task_meta(task_id, cache=False)
        except Exception as exc:  # noqa: BLE001 - whatever a backend raises
            answer.append(Result(None, trouble=f"the result backend doesn't answer: {type(exc).__name__}"))
        else:
            value = meta.get("result")
            answer.append(
                Result(
                    str(meta.get("status", PENDING)),
                    "" if value is None else _first_line(value),
                    None if meta.get("date_done") is None else str(meta["date_done"]),
                    meta.get("name"),
                    meta.get("queue"),
                )
            )

    return _within(read, answer) or Result(None, trouble=f"no answer within {RESULT_SECONDS:g} s")


def _keeps_nothing(backend: Any) -> str | None:
    """Why a result backend can't be asked for a result by whoever likes; None where it can."""
    if isinstance(backend, DisabledBackend):
        return "there is no result backend"
    if isinstance(backend, RPCBackend):
        return "results of rpc:// go to whoever sent the task, and to nobody else"
    return None


def _within(function: Callable[[], None], answer: list[T]) -> T | None:
    """What a function appends to *answer*, if it does in time. In a daemon thread: a server that hangs keeps nobody."""
    thread = threading.Thread(target=function, daemon=True, name="gconc-result")
    thread.start()
    thread.join(RESULT_SECONDS)
    return answer[0] if answer else None


def _first_line(value: Any) -> str:
    text = f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else repr(value)
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= 200 else f"{line[:200]}..."


def _queues(app: Celery, status: Status, more: Iterable[str]) -> list[str]:
    """The queues that this app knows, those that have a limit, and these."""
    limited = [name.name for limit in status if (name := LimitName.of(limit.limit)).scope == "queue"]
    names = [*more, *sorted(known_queues(app)), *limited]
    return list(dict.fromkeys(str(name) for name in names if name))


def _search_more(app: Celery, task_id: str, search: Search, told: Told) -> Search:
    """Look in those queues, too, that only workers know."""
    more = {name for names in told.queues.values() for name in names} - set(search.counts)
    if not more:
        return search
    with suppress(BrokerUnavailable), BrokerView(app) as backlog:
        found = backlog.find(task_id, sorted(more))
        complete = found.message is not None or (search.is_complete and found.is_complete)
        return Search(found.message, {**search.counts, **found.counts}, found.can_look, complete)
    return search


def _ask_workers(app: Celery, task_id: str, status: Status, timeout: float) -> Told:
    """Ask all at once; those whose sessions are known can be waited for, the others only if none of those has it."""
    ours = tuple(session.node for session in status.sessions)
    everybody = WorkerQuery(app, [Question("query_task", {"ids": [task_id]}), Question("active_queues")], timeout)
    try:
        told = _ask_ours(app, task_id, ours, timeout) if ours else Told()
        is_found = any(answer.get("state") for answer in told.own.values()) or any(told.state.values())
        return told if is_found else _with_others(app, task_id, told, everybody.answers(), timeout)
    except BrokerUnavailable as exc:
        return Told(trouble=str(exc))


def _ask_ours(app: Celery, task_id: str, ours: tuple[str, ...], timeout: float) -> Told:
    questions = [
        Question("query_task", {"ids": [task_id]}, destination=ours),
        Question("active_queues", destination=ours),
        Question("global_concurrency_task", {"task_id": task_id}, destination=ours),
    ]
    queried, queues, own = ask(app, questions, timeout)
    revoked = frozenset(node for node, answer in own.items() if answer.get("revoked"))
    return Told(own=own, state=_states(queried, task_id), revoked=revoked, queues=_names(queues))


def _with_others(app: Celery, task_id: str, told: Told, answers: list[Answers], timeout: float) -> Told:
    """Add what all said: there may be workers without this package. Of those only Celery's own commands tell."""
    queried, queues = answers
    others = tuple(node for node in queried if node not in told.own)
    scheduled: Answers = {}
    revoked: Answers = {}
    if others and not any(queried.values()):
        questions = [Question("scheduled", destination=others), Question("revoked", destination=others)]
        scheduled, revoked = ask(app, questions, timeout)
    return Told(
        own=told.own,
        state=told.state | _states(queried, task_id),
        scheduled={
            node: str(entry.get("eta"))
            for node, entries in scheduled.items()
            for entry in entries or ()
            if (entry.get("request") or {}).get("id") == task_id
        },
        revoked=told.revoked | {node for node, ids in revoked.items() if task_id in (ids or ())},
        queues=told.queues | _names(queues),
    )


def _states(queried: Answers, task_id: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """What ``query_task`` says of a task; workers that don't have it are left out."""
    return {node: tuple(answer[task_id]) for node, answer in queried.items() if answer and task_id in answer}


def _names(queues: Answers) -> dict[str, tuple[str, ...]]:
    return {node: tuple(queue["name"] for queue in told or ()) for node, told in queues.items()}
