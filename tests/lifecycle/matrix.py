"""Which feature of Celery is tested on which pool and over which broker: the words in which the tests declare it.

@pytest.mark.feature(...) -> Feature -> the columns a test runs in (conftest), the table (tests.compatibility)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

POOLS = ("prefork", "threads", "gevent", "solo", "eventlet")
BROKERS = ("redis", "rabbitmq")

#: What a request is doing when the feature touches it.
STATES = ("parked", "running", "")


@dataclass(frozen=True, slots=True)
class Column:
    """One kind of worker: a pool over a broker."""

    pool: str
    broker: str

    def __str__(self) -> str:
        return f"{self.pool}-{self.broker}"


COLUMNS = tuple(Column(pool, broker) for pool in POOLS for broker in BROKERS)


@dataclass(frozen=True)
class Feature:
    """What a test's ``feature`` marker says.

    ``not_on`` and ``unsupported`` have a pool, a broker or a column (``gevent-redis``) as keys, and a reason as
    values: the feature isn't there in Celery; celery-gconc doesn't support it, and this happens instead.
    """

    name: str
    state: str = ""
    not_on: Mapping[str, str] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    #: Whether the broker has a part in it: then it is tested over each on every pool, else over RabbitMQ on prefork.
    broker_matters: bool = False
    #: Whether it is between Celery and the children of its pool alone: then it is tested over Redis only.
    brokers_are_alike: bool = False
    #: Whether the pool has no part in it: then it is tested on prefork only.
    pools_are_alike: bool = False

    def __post_init__(self) -> None:
        assert self.state in STATES, f"{self.name}: the state is one of {STATES}, not {self.state!r}"
        unknown = {*self.not_on, *self.unsupported} - {*POOLS, *BROKERS, *map(str, COLUMNS)}
        assert not unknown, f"{self.name}: no such pool or broker: {unknown}"

    @classmethod
    def of(cls, marker: Any) -> Feature:
        """Read a ``feature`` marker."""
        return cls(*marker.args, **marker.kwargs)

    def columns(self) -> list[Column]:
        """The columns in which the test runs."""
        return [
            column
            for column in COLUMNS
            if not reason(self.not_on, column)
            and not reason(self.unsupported, column)
            and (column.pool == "prefork" or not self.pools_are_alike)
            and (column.broker == "redis" or not self.brokers_are_alike)
            and (column.broker == "redis" or column.pool == "prefork" or self.broker_matters)
        ]


def reason(reasons: Mapping[str, str], column: Column) -> str | None:
    """The reason that applies to a column, if any."""
    for key in (str(column), column.pool, column.broker):
        if key in reasons:
            return reasons[key]
    return None


# -- Reasons that several tests share; each read in Celery's source (5.4 to 5.7) -----------------------------------

#: celery.concurrency.base.BasePool.terminate_job raises NotImplementedError; thread and solo don't override it.
NO_TERMINATE = {
    "threads": "Celery's threads pool can't terminate a task.",
    "solo": "Celery's solo pool can't terminate a task, and handles no commands while one runs.",
}
#: thread.TaskPool.on_apply, eventlet's and base.apply_target (solo) drop the timeout arguments; gevent's takes the hard
#: one.
NO_HARD_LIMIT = {
    "eventlet": "Celery's eventlet pool has no time limits.",
    "threads": "Celery's threads pool has no time limits.",
    "solo": "Celery's solo pool has no time limits.",
}
NO_SOFT_LIMIT = {**NO_HARD_LIMIT, "gevent": "Celery's gevent pool has no soft time limit."}
#: Only prefork's tasks run in processes of their own.
NO_CHILDREN = dict.fromkeys(("threads", "gevent", "solo", "eventlet"), "Tasks run in the worker's own process.")
#: thread.TaskPool and solo.TaskPool have no grow and no shrink.
FIXED_SIZE = {
    "threads": "Celery's threads pool can't change its size.",
    "solo": "Celery's solo pool always has one slot.",
}
NO_BEAT = dict.fromkeys(("gevent", "eventlet"), "Celery refuses -B with a green pool.")
#: solo runs the task inside the consumer's loop: it neither receives nor hears anything meanwhile.
ONE_AT_A_TIME = {"solo": "Celery's solo pool receives nothing while a task runs."}
