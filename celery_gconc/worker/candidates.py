"""What a request would claim if each limit had a max: found once for each task and queue, but for its weights.

Thread: consumer (the autoscaler's own reads too).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from celery.utils.log import get_logger

from celery_gconc.brokers.queues import goes_by, queue_named
from celery_gconc.limits.claims import MAX_ANSWERS, Claim, Claims, TaskOption, Weight, candidates
from celery_gconc.limits.rules import MAX_VALUE

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    """What is found for one task and queue."""

    claims: Claims
    #: What says the weights that its arguments decide, by limit; mostly none.
    weighers: Mapping[str, Callable[..., int]]


class Candidates:
    """One worker's. An answer is kept for its life: a task's option doesn't change."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._known: dict[tuple[str, str | None], Claims] = {}
        #: Those of tasks whose arguments say weights.
        self._weighing: dict[tuple[str, str | None], _Found] = {}
        #: Those that arguments have weighed, each once.
        self._weighed_before: dict[Claims, Claims] = {}
        #: The tasks whose weights could not be told, and which were warned of.
        self._warned: set[str] = set()

    def of(self, request: Any, queue: str | None) -> Claims:
        """Those of a *request* that came of this *queue*."""
        task = request.task
        key = (task.name, queue)
        claims = self._known.get(key)
        if claims is not None:
            return claims
        found = self._weighing.get(key) or self._find(task, queue)
        if found.weighers:
            self._weighing[key] = found
            return self._weighed(request, found)
        self._known[key] = found.claims
        return found.claims

    def _find(self, task: Any, queue: str | None) -> _Found:
        option = TaskOption.parse(task.name, getattr(task, "global_concurrency", None))
        consumed = queue_named(self._consumer.task_consumer, queue) if queue is not None else None
        claims = candidates(task.name, goes_by(consumed) if consumed else queue, option)
        weighers = {limit: _weigher(task, weight) for limit, weight in option.weights.items() if weight_is_told(weight)}
        return _Found(claims, weighers)

    def _weighed(self, request: Any, found: _Found) -> Claims:
        claims = []
        for claim in found.claims:
            weigher = found.weighers.get(claim.limit)
            weight = claim.weight if weigher is None else self._weigh(request, claim.limit, weigher)
            if weight:
                claims.append(Claim(claim.limit, weight))
        if len(self._weighed_before) >= MAX_ANSWERS:
            self._weighed_before = {}
        weighed = tuple(claims)
        return self._weighed_before.setdefault(weighed, weighed)

    def _weigh(self, request: Any, limit: str, weigher: Callable[..., int]) -> int:
        """The weight that a task's arguments say. Where they don't, it takes all of the limit, and runs alone."""
        try:
            return weigher(*(request.args or ()), **(request.kwargs or {}))
        except Exception as exc:  # noqa: BLE001 - the user's function, arguments that don't fit, a value that is no weight
            if request.task.name not in self._warned:
                self._warned.add(request.task.name)
                logger.warning(
                    "celery-gconc: task %s[%s] doesn't say how much of %s it takes, so it takes all of it and runs "
                    "alone: %s: %s (further tasks of this name are not logged)",
                    request.task.name,
                    request.id,
                    limit,
                    type(exc).__name__,
                    exc,
                )
            return MAX_VALUE


def weight_is_told(weight: Weight) -> bool:
    """Whether a task's arguments say its weight."""
    return not isinstance(weight, int)


def _weigher(task: Any, weight: Weight) -> Callable[..., int]:
    """A function of a task's arguments that gives its weight."""
    if isinstance(weight, str):
        name, signature = weight, inspect.signature(task.run)

        def by_argument(*args: Any, **kwargs: Any) -> int:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return _checked(_argument(bound, name))

        return by_argument
    assert not isinstance(weight, int)
    function = weight
    return lambda *args, **kwargs: _checked(function(*args, **kwargs))


def _argument(bound: inspect.BoundArguments, name: str) -> Any:
    """An argument by its name, also one of those that ``**kwargs`` takes."""
    if name in bound.arguments:
        return bound.arguments[name]
    for parameter in bound.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD and name in bound.arguments.get(parameter.name, {}):
            return bound.arguments[parameter.name][name]
    raise ValueError(f"it has no argument {name}")


def _checked(weight: Any) -> int:
    """A weight as it is counted; 0 claims nothing."""
    if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= MAX_VALUE:
        raise ValueError(f"a weight is a whole number from 0 to {MAX_VALUE}; got {weight!r:.80}")
    return weight
