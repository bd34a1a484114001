"""Which limits cover a task: what it claims by its name, its queue and its option."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from celery_gconc.errors import LimitError
from celery_gconc.limits.name import APP, MAX_SHOWN, parse_limit, shown
from celery_gconc.limits.rules import MAX_VALUE, parse_max

#: Celery's own tasks (``celery.chord_unlock``, ``celery.backend_cleanup``...) are exempt from ``app`` and
#: ``queue:`` limits: they carry other tasks' progress, and holding them back can stop what would free the limit.
BUILT_IN = "celery."

#: How many answers are remembered: weights that tasks' arguments say may be many.
MAX_ANSWERS = 10_000

#: The names of limits, sorted.
Limits = tuple[str, ...]


class Claim(NamedTuple):
    """What one task needs of one limit: so many of its units."""

    limit: str
    weight: int = 1


#: What one task needs, one for each limit that covers it, sorted: its permit is all of it at once.
Claims = tuple[Claim, ...]


@lru_cache(maxsize=4096)
def claims_on(limits: Limits) -> Claims:
    """Claims of one unit on each of these limits."""
    return tuple([Claim(limit) for limit in limits])


#: Answers of :func:`limits_of`, by identity: that costs less than to look a tuple of tuples up.
_limits: dict[int, tuple[Claims, Limits]] = {}


def limits_of(claims: Claims) -> Limits:
    """The names of the limits that claims are on."""
    known = _limits.get(id(claims))
    if known is not None and known[0] is claims:
        return known[1]
    found = tuple([claim.limit for claim in claims])
    if len(_limits) >= MAX_ANSWERS:
        _limits.clear()
    _limits[id(claims)] = (claims, found)
    return found


#: How much of a limit a task takes: a number of units, the name of an argument, or a function of its arguments.
Weight = int | str | Callable[..., Any]

#: The fields of a mapping in ``global_concurrency=``.
FIELDS = ("limit", "max", "weight")


@dataclass(frozen=True, slots=True)
class TaskOption:
    """What a task's ``global_concurrency=`` option says: which limits it joins, with which weights, and their max."""

    #: Each limit that it names, and the task's weight on it.
    weights: Mapping[str, Weight] = field(default_factory=dict)
    #: The max of some of these.
    maxima: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, task: str, value: object) -> TaskOption:
        """Read the option of the task named *task*: None, a number, a limit name, a mapping, or a list of the last two.

        Raises:
            LimitError: anything else; the message names the task.
        """
        weights: dict[str, Weight] = {}
        maxima: dict[str, int] = {}
        try:
            for limit, maximum, weight in _entries(task, value):
                if weights.setdefault(limit, weight) != weight:
                    raise LimitError(f"two weights on {shown(limit)}")
                if maximum is not None:
                    maxima[limit] = min(maximum, maxima.get(limit, maximum))
        except LimitError as exc:
            raise LimitError(f"task {task[:MAX_SHOWN]}: {exc} ({_RULE})") from None
        return cls(weights, maxima)

    @property
    def names(self) -> Limits:
        """The limits that it joins without giving them a max."""
        return tuple(sorted(self.weights.keys() - self.maxima.keys()))


_RULE = (
    "global_concurrency= takes a whole number >= 0, a limit name such as 'pool:db', a mapping such as "
    "{'limit': 'pool:db', 'weight': 2}, or a list of these"
)


def _entries(task: str, value: object) -> Iterable[tuple[str, int | None, Weight]]:
    """Limit, max and weight of each thing that an option names."""
    own = f"task:{task}"
    if value is None:
        return
    if isinstance(value, int) and not isinstance(value, bool):
        yield _own(own), parse_max(value), 1
    elif isinstance(value, str):
        yield parse_limit(value), None, 1
    elif isinstance(value, Mapping):
        yield _entry(own, value)
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for item in value:
            if isinstance(item, Mapping):
                yield _entry(own, item)
            else:
                yield parse_limit(item), None, 1
    else:
        raise LimitError(f"got {shown(value)}")


def _own(name: str) -> str:
    if parse_limit(name) != name:
        raise LimitError("a task name with spaces around it can't have a limit")
    return name


def _entry(own: str, entry: Mapping[Any, Any]) -> tuple[str, int | None, Weight]:
    for name in entry:
        if name not in FIELDS:
            raise LimitError(f"{shown(name)} is none of the fields {', '.join(FIELDS)}")
    if not entry:
        raise LimitError("an empty mapping says nothing")
    limit = parse_limit(entry["limit"]) if "limit" in entry else _own(own)
    weight = entry.get("weight", 1)
    is_name = isinstance(weight, str) and weight.isidentifier()
    is_number = isinstance(weight, int) and not isinstance(weight, bool) and 1 <= weight <= MAX_VALUE
    if not (is_name or is_number or callable(weight)):
        raise LimitError(
            f"the weight on {shown(limit)} is to be a whole number from 1 to {MAX_VALUE}, the name of an argument or a "
            f"function; got {shown(weight)}"
        )
    return limit, parse_max(entry["max"]) if "max" in entry else None, weight


def candidates(task: str, queue: str | None, option: TaskOption) -> Claims:
    """What a task would claim if each limit had a max: by its registered name, its queue and its option.

    Where its arguments say the weight, that is 1 here.
    """
    weights: dict[str, Weight] = {f"task:{task}": 1}
    if not task.startswith(BUILT_IN):
        weights[APP] = 1
        if queue is not None:
            weights[f"queue:{queue}"] = 1
    weights.update(option.weights)
    return tuple(
        [Claim(limit, weight if isinstance(weight, int) else 1) for limit, weight in sorted(weights.items(), key=_name)]
    )


def _name(item: tuple[str, Weight]) -> str:
    return item[0]
