"""Names in an app's own code and settings that don't meet: a limit that no task joins, an option that no limit has.

the app's tasks, its settings, the limits that hold -> misfits -> the worker's log, at its start

Only what can hardly be meant: a limit may well name a queue or a task of another app of the namespace, and a pool may
get its max at run time. ``gconc doctor`` asks the workers too, and tells of the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from difflib import get_close_matches

from celery import Celery

from celery_gconc.errors import LimitError
from celery_gconc.limits.claims import TaskOption
from celery_gconc.limits.name import LimitName
from celery_gconc.operations.declared import known_queues

#: How alike two names have to be for one to be taken for a misspelling of the other.
LIKELY = 0.8


def misfits(app: Celery, configured: Collection[str], limits: Collection[str]) -> Iterator[str]:
    """What in the names of limits doesn't fit, a line each.

    Args:
        app: its task modules have to be imported.
        configured: the limits that its settings name.
        limits: all limits that have a max now.
    """
    joins = dict(_joins(app))
    joined = {name for names in joins.values() for name in names}
    queues = known_queues(app)
    told: set[str] = set()
    for task, names in sorted(joins.items()):
        for name in names:
            bare = LimitName.of(name).name
            if LimitName.of(name).scope != "queue" or name in limits or bare in queues:
                continue
            pool = f"pool:{bare}"
            told.add(pool)
            alike = get_close_matches(bare, queues, 1, LIKELY)
            meant = f"queue:{alike[0]}" if alike and pool not in {*limits, *joined} else pool
            yield (
                f"task {task}: global_concurrency={bare!r} covers no tasks: it means {name}, but there is no such "
                f"limit and no such queue; did you mean {meant}?"
            )
    for limit in sorted(set(configured) - told - joined):
        if (likely := _meant(app, limit, joined - set(limits), queues)) is not None:
            yield f"{limit} covers no tasks that this app knows; did you mean {likely}?"


def _joins(app: Celery) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, task in app.tasks.items():
        with suppress(LimitError):  # the worker doesn't start with it, and says why
            if names := TaskOption.parse(name, getattr(task, "global_concurrency", None)).names:
                yield name, names


def _meant(app: Celery, limit: str, lacking: Collection[str], queues: Collection[str]) -> str | None:
    """What a configured limit that no task joins is likely meant to be. *lacking*: joined limits that have no max."""
    taken_apart = LimitName.of(limit)
    scope, name = taken_apart.scope, taken_apart.name
    if scope == "task":
        ends = [f"task:{task}" for task in app.tasks if task.endswith(f".{name}")]
        return ends[0] if name not in app.tasks and len(ends) == 1 else None
    if scope == "queue":
        return f"pool:{name}" if name not in queues and f"pool:{name}" in lacking else None
    if scope == "pool":
        pools = [of.name for one in lacking if (of := LimitName.of(one)).scope == "pool"]
        return next((f"pool:{one}" for one in get_close_matches(name, pools, 1, LIKELY)), None)
    return None
