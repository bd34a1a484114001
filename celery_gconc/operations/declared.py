"""What an app knows by name: its queues and tasks, the limits that its tasks join, and which limits name none of them.

evidence, doctor, cli -> known_queues, covers_nothing -> the app's declarations (nobody is asked)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from celery import Celery, Task
from kombu import Queue

from celery_gconc.brokers.queues import goes_by, name_of
from celery_gconc.errors import LimitError
from celery_gconc.limits.claims import TaskOption
from celery_gconc.limits.name import LimitName
from celery_gconc.settings import Settings


def known_queues(app: Celery) -> set[str]:
    """The names of all queues that an app knows: declared, a task's own, or named in ``task_routes``.

    The app's task modules have to be imported. What a router that is a function decides isn't known.
    """
    own = [getattr(task, "queue", None) for task in app.tasks.values()]
    named = {name for target in (*own, *_routed(app.conf.task_routes)) if (name := _queue_name(target))}
    aliases: Mapping[str, Queue] = app.amqp.queues.aliases  # type: ignore[attr-defined]
    declared: Mapping[str, Queue] = app.amqp.queues
    known = {goes_by(queue) for queue in declared.values()}
    return known | {goes_by(aliases[name]) if name in aliases else name for name in named}


def told_queues(answers: Iterable[Any]) -> set[tuple[str, str]]:
    """The queues that workers consume, by their answers to ``active_queues``: each name, and that by which it goes."""
    told = [one for answer in answers for one in answer or ()]
    # kombu 5.4-5.7: a Broadcast tells its attribute ``queue``, which no other queue has.
    return {(one["name"], name_of(one["name"], one.get("alias"), "queue" in one)) for one in told}


def covers_nothing(app: Celery, limit: str, queues: Iterable[str] | None = None) -> str | None:
    """Why a limit (by its full name) covers nothing that an app knows, and what may be meant; None where it does.

    *queues*: those that workers consume, beside the app's own; None where no worker was asked. The app's task modules
    have to be imported.
    """
    taken_apart = LimitName.of(limit)
    scope, name = taken_apart.scope, taken_apart.name
    joined = _joined(app)
    if scope == "queue":
        known = {*known_queues(app), *(queues or ())}
        who = "this app knows no" if queues is None else "neither this app nor any worker knows a"
        what = f"{who} queue named {name}"
    elif scope == "task":
        known, what = set(app.tasks), f"this app has no task {name}"
    elif scope == "pool":
        known = {joins.name for one in joined if (joins := LimitName.of(one)).scope == "pool"}
        what = f"no task of this app joins the pool {name}"
    else:
        return None
    if name in known or limit in joined:
        return None
    close = get_close_matches(name, sorted(known), 1)
    return f"{what} (did you mean {close[0]}?)" if close else what


def _joined(app: Celery) -> set[str]:
    """The limits that tasks join by ``global_concurrency=``."""
    joined: set[str] = set()
    for name, task in app.tasks.items():
        with suppress(LimitError):  # a worker of this app doesn't start with it, and says why
            joined.update(TaskOption.parse(name, getattr(task, "global_concurrency", None)).weights)
    return joined


def _routed(routes: Any) -> Iterator[Any]:
    """Where ``task_routes`` sends tasks to, where it is written down (celery.app.routes.prepare, Celery 5.4-5.7)."""
    for router in routes if isinstance(routes, (list, tuple)) else (routes,):
        if isinstance(router, Mapping):
            yield from router.values()
        elif isinstance(router, (list, tuple)):
            yield from (pair[1] for pair in router if isinstance(pair, (list, tuple)) and len(pair) == 2)


def _queue_name(target: Any) -> str | None:
    """The queue of a route or of a task's option: a name, a Queue, or a mapping with one of them as ``queue``."""
    if isinstance(target, Mapping):
        target = target.get("queue")
    if isinstance(target, Queue):
        target = target.name
    return target if isinstance(target, str) and target else None


def escaping_tasks(app: Celery) -> list[str]:
    """The names of tasks that no limit holds for: a strategy of their own hands them to the pool past every gate."""
    return sorted(name for name, task in app.tasks.items() if task.Strategy != Task.Strategy)


def configured_limits(app: Celery, settings: Settings) -> dict[str, int]:
    """The limits that an app's settings and tasks configure. A setting wins over tasks, the least over others.

    Raises:
        LimitError: a task's ``global_concurrency=`` can't be understood.
    """
    config: dict[str, int] = {}
    for name, task in app.tasks.items():
        option = TaskOption.parse(name, getattr(task, "global_concurrency", None))
        for limit, maximum in option.maxima.items():
            config[limit] = min(maximum, config.get(limit, maximum))
    config.update({full_name(app, limit): maximum for limit, maximum in settings.limits.items()})
    return config


def full_name(app: Celery, limit: str) -> str:
    """A limit's name with a queue's alias resolved (``Queue("mail.out", alias="mail")``)."""
    name = LimitName.of(limit)
    if name.scope != "queue":
        return limit
    queues: Any = app.amqp.queues
    queue = queues.aliases.get(name.name) or queues.get(name.name)
    return limit if queue is None else f"queue:{goes_by(queue)}"
