"""Empties the line of a limit: what waits for it at the broker, and in workers.

    caller -> purge -> BrokerView (the messages in the queue), WorkerQuery (each worker discards what it holds)

Round by round, since a message may move meanwhile: the broker first, then the workers, until these have none left,
and the broker once more, for what they gave back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress

from celery import Celery

from celery_gconc.brokers.backlog import BrokerView
from celery_gconc.brokers.queues import goes_by
from celery_gconc.clock import now
from celery_gconc.errors import LimitError, StoreUnavailable
from celery_gconc.limits.claims import BUILT_IN, TaskOption, candidates, limits_of
from celery_gconc.limits.name import APP, LimitName
from celery_gconc.operations.declared import known_queues, told_queues
from celery_gconc.operations.operations import Operations
from celery_gconc.operations.worker_query import ANSWER_SECONDS, Question, ask
from celery_gconc.protocol.status import Purged

#: For how long, in seconds, a purge goes on where more messages come than it removes.
MAX_SECONDS = 30.0


def purge(operations: Operations, limit: str, timeout: float = ANSWER_SECONDS) -> Purged:
    """Remove what waits for a limit; tasks that run go on.

    A queue's limit: all messages of the queue that no worker has started. Any other: the messages of tasks that it
    covers, those in workers, and with a Redis broker those in the queues that the app and its workers know. Workers
    have *timeout* seconds for each answer. Redis is asked for the workers' names only, so it may be away.

    Raises:
        BrokerUnavailable: the broker can't be reached, or doesn't answer.
        LimitError: that is no limit.
    """
    name = operations.full_name(limit)
    app = operations.app
    nodes = _nodes(operations)
    at_broker, in_workers, heard = 0, Counter[str](), set[str]()
    ends = now() + MAX_SECONDS
    with BrokerView(app) as backlog:
        queues = _queues(app, name, nodes, timeout)
        at_broker += _at_broker(backlog, app, name, queues)
        while True:
            found = _in_workers(app, name, nodes, timeout)
            heard |= found.keys()
            in_workers.update({node: count for node, count in found.items() if count})
            at_broker += _at_broker(backlog, app, name, queues)
            is_complete = not any(found.values())
            if is_complete or now() >= ends:
                break
    silent = tuple(node for node in nodes or () if node not in heard)
    return Purged(name, at_broker, dict(in_workers), silent, is_complete)


def _nodes(operations: Operations) -> tuple[str, ...] | None:
    """The live workers; None where that isn't known."""
    with suppress(StoreUnavailable):
        return tuple(sorted({session.node for session in operations.status("app").sessions}))
    return None


def _queues(app: Celery, limit: str, nodes: tuple[str, ...] | None, timeout: float) -> dict[str, bool]:
    """The queues to look in, each with whether all of its messages go."""
    queues = {queue.name: f"queue:{goes_by(queue)}" == limit for queue in app.amqp.queues.values()}
    if nodes is None or nodes:
        (told,) = ask(app, [Question("active_queues", destination=nodes or ())], timeout)
        queues |= {own: f"queue:{name}" == limit for own, name in told_queues(told.values())}
    name = LimitName.of(limit)
    if name.scope == "queue" and not any(queues.values()):
        queues[name.name] = True
    return dict.fromkeys(known_queues(app), False) | queues


def _at_broker(backlog: BrokerView, app: Celery, limit: str, queues: Mapping[str, bool]) -> int:
    """Remove messages that no worker has taken; return how many."""
    removed = sum(backlog.empty(queue) for queue, is_whole in queues.items() if is_whole)
    rest = [queue for queue, is_whole in queues.items() if not is_whole]
    if limit == APP:
        return removed + backlog.remove(rest, but=BUILT_IN)
    tasks = [task for task in app.tasks if limit in _covering(app, task)]
    return removed + (backlog.remove(rest, tasks) if tasks else 0)


def _covering(app: Celery, task: str) -> Iterable[str]:
    with suppress(LimitError):
        option = TaskOption.parse(task, getattr(app.tasks[task], "global_concurrency", None))
        return limits_of(candidates(task, None, option))
    return ()


def _in_workers(app: Celery, limit: str, nodes: tuple[str, ...] | None, timeout: float) -> dict[str, int]:
    """Have workers discard what they hold; return how many each had."""
    if nodes is not None and not nodes:
        return {}
    question = Question("purge_global_concurrency", {"limit": limit}, destination=nodes or ())
    (told,) = ask(app, [question], timeout)
    return {node: answer["purged"] for node, answer in told.items() if "purged" in answer}
