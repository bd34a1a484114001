"""Predicts what would happen to a limit with another max, by replaying its recorded arrivals.

    Operations (history, holders, waiting, status), the broker's backlog, the workers' queues -> History -> forecast

It is a replay, in the order of arrival, of what workers recorded; what nobody recorded it does not know:
messages that are still in the broker count as present now, but when they came, and that more may come than came
lately, is not known. Neither are other limits, nor other tasks that take slots of the same workers, nor that tasks may
take longer where more of them run at once.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from celery import Celery

from celery_gconc.brokers.backlog import BrokerUnavailable, BrokerView
from celery_gconc.errors import LimitError
from celery_gconc.limits.name import LimitName
from celery_gconc.operations.declared import told_queues
from celery_gconc.operations.operations import Operations
from celery_gconc.operations.wording import all_of
from celery_gconc.operations.worker_query import Question, ask
from celery_gconc.protocol.status import EndedTask, LimitStatus, SessionStatus

#: A forecast needs at least this many recorded tasks.
MIN_SAMPLES = 20

#: At most this many arrivals are replayed, the latest of them.
MAX_ARRIVALS = 200_000

#: At most this many waiting tasks are counted.
MAX_BACKLOG = 1_000_000


class TooFewSamples(LimitError):
    """Too few tasks have ended under a limit lately for a forecast; the message says how many."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A task that came: seconds since the record began, and for how many seconds it was held (None: not known yet)."""

    at: float
    held: float | None


@dataclass(frozen=True, slots=True)
class History:
    """What is known of a limit: its arrivals of the last *seconds*, what runs, and what waits now."""

    limit: str
    #: Its present max; None where it is unlimited.
    max: int | None
    seconds: float
    #: How many recorded tasks it rests on, and how many tasks those stand for.
    samples: int
    tasks: float
    arrivals: tuple[Arrival, ...]
    #: For how many seconds each recorded task was held, sorted.
    holds: tuple[float, ...]
    #: For how many seconds each running task has been held.
    running: tuple[float, ...] = ()
    #: How many tasks wait now: in workers and, under a queue's limit, in the broker.
    backlog: int = 0
    #: How many tasks the live workers could run at once, under a queue's limit those that consume it; None where there
    #: is no such worker.
    slots: int | None = None
    #: Nothing starts under the limit now, whatever its max is: the forecasts are for after that.
    paused: bool = False
    settling: bool = False
    #: What the forecasts don't rest on, or leave out: sentences for people.
    remarks: tuple[str, ...] = ()

    @property
    def mean_hold(self) -> float:
        """The mean of the recorded holds, in seconds."""
        return sum(self.holds) / len(self.holds)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What happened in one replay. Times in seconds; None where nothing ever starts."""

    max: int | None
    #: How many permits there were: the max, or the slots of the live workers where they are fewer.
    permits: int | None
    #: The share of time in which they were in use; None where there are none, or where nothing bounds them.
    in_use: float | None
    mean_wait: float | None
    #: 95 % of the tasks waited no longer than this.
    p95_wait: float | None
    started_per_minute: float
    #: After how long the last of those that wait now has started; 0 where none waits.
    backlog_gone: float | None
    #: How many stand in line at the end of the time.
    left: int


def read_history(operations: Operations, limit: str, seconds: float = 600.0) -> History:
    """Read what is known of a limit: *seconds* of history, what runs and waits now, and the broker's backlog.

    Where the broker is away, what it holds is not counted, and which queues workers consume is not known: the remarks
    say so.

    Raises:
        TooFewSamples: fewer than ``MIN_SAMPLES`` tasks have ended under it in that time.
        LimitError: the limit's name can't be understood.
        StoreUnavailable: Redis can't be reached.
    """
    name = operations.full_name(limit)
    now = operations.server_time()
    samples = operations.history(name, seconds)
    if len(samples) < MIN_SAMPLES:
        raise TooFewSamples(
            f"{name}: only {len(samples)} tasks recorded in the last {seconds / 60:g} min; a forecast needs "
            f"{MIN_SAMPLES}. Let more of them run (workers report with each heartbeat), or raise --minutes "
            "(up to 15 are kept, fewer if many workers are busy)"
        )
    status = operations.status(name)
    found = status[name] if name in status else LimitStatus(name, None, paused=False, running=0, waiting=0)
    held = [max(now - holding.since, 0.0) for holding in operations.holders(name)]
    waited = [waiting.waited for waiting in operations.waiting(name)]
    arrivals, span = arrivals_of(samples, [*held, *waited], now, seconds)
    in_broker, sessions, doubts = _ask_broker(operations.app, name, status.sessions)
    return History(
        limit=name,
        max=found.max,
        seconds=span,
        samples=len(samples),
        tasks=sum(sample.weight for sample in samples),
        arrivals=tuple(arrivals),
        holds=_weighted_holds(samples),
        running=tuple(held),
        backlog=found.waiting + found.parked - found.at_broker + in_broker,
        slots=sum(session.permits + session.room for session in sessions) if sessions else None,
        paused=found.paused,
        settling=found.settling,
        remarks=(*_not_now(found), *doubts),
    )


def forecast(history: History, maximum: int | None) -> Forecast:
    """Replay a history with another max: first come, first served, from what runs and waits now.

    The same history and max give the same forecast: what was not recorded (how long the tasks that wait will be held)
    is drawn from the recorded holds with a fixed seed.
    """
    permits = _bound(maximum, history.slots)
    backlog = min(history.backlog, MAX_BACKLOG)
    if permits == 0:
        left = backlog + len(history.arrivals)
        wait = None if left else 0.0
        return Forecast(maximum, 0, None, wait, wait, 0.0, None if backlog else 0.0, left)
    draw = random.Random(0)
    line = [(0.0, draw.choice(history.holds)) for _ in range(backlog)]
    line += [(one.at, draw.choice(history.holds) if one.held is None else one.held) for one in history.arrivals]
    free = [_rest(elapsed, history.holds, draw) for elapsed in history.running]
    busy = sum(min(left, history.seconds) for left in free)
    count = len(free) + len(line) if permits is None else min(permits, len(free) + len(line))
    # Above the max tasks drain: those of the first to end are given to nobody.
    free = sorted(free)[max(len(free) - count, 0) :]
    free += [0.0] * (count - len(free))
    heapq.heapify(free)
    waits: list[float] = []
    started = left = 0
    gone = 0.0
    for number, (at, held) in enumerate(line):
        start = max(at, free[0])
        heapq.heapreplace(free, start + held)
        waits.append(start - at)
        if number < backlog:
            gone = start
        if start < history.seconds:
            started += 1
            busy += min(start + held, history.seconds) - start
        else:
            left += 1
    waits.sort()
    return Forecast(
        max=maximum,
        permits=permits,
        in_use=None if permits is None else min(busy / (permits * history.seconds), 1.0),
        mean_wait=sum(waits) / len(waits) if waits else 0.0,
        p95_wait=waits[min(int(0.95 * len(waits)), len(waits) - 1)] if waits else 0.0,
        started_per_minute=started * 60 / history.seconds,
        backlog_gone=gone * history.backlog / backlog if backlog else 0.0,
        left=left,
    )


def _bound(maximum: int | None, slots: int | None) -> int | None:
    bounds = [bound for bound in (maximum, slots) if bound is not None]
    return min(bounds) if bounds else None


def _rest(elapsed: float, holds: Sequence[float], draw: random.Random) -> float:
    """For how much longer a task is held that has been for *elapsed* seconds: as those that were held longer."""
    longer = bisect_right(holds, elapsed)
    if longer == len(holds):
        return 0.0  # longer than any before it
    return holds[draw.randrange(longer, len(holds))] - elapsed


def arrivals_of(
    samples: Sequence[EndedTask], present: Sequence[float], now: float, seconds: float
) -> tuple[list[Arrival], float]:
    """All that came in the last *seconds*, and how many seconds that were. *present*: how long ago those here came."""
    came = sorted(((_came(sample), sample) for sample in samples), key=lambda one: one[0])
    arrivals = [Arrival(at, sample.held) for at, sample in _spread(came)]
    arrivals += [Arrival(now - ago, None) for ago in present]
    arrivals = sorted((one for one in arrivals if one.at >= now - seconds), key=lambda one: one.at)[-MAX_ARRIVALS:]
    begin = arrivals[0].at if arrivals else now - seconds
    return [Arrival(one.at - begin, one.held) for one in arrivals], max(now - begin, 0.001)


def _came(sample: EndedTask) -> float:
    return sample.ended - sample.held - sample.waited


def _spread(came: Sequence[tuple[float, EndedTask]]) -> list[tuple[float, EndedTask]]:
    """Each sample as often as it stands for, between the arrivals of its neighbours."""
    draw = random.Random(0)
    spread, owed = [], 0.0
    for number, (at, sample) in enumerate(came):
        owed += sample.weight
        copies = round(owed)
        owed -= copies
        if copies <= 1:
            spread += [(at, sample)] * copies
            continue
        before = (came[number - 1][0] + at) / 2 if number else at
        after = (came[number + 1][0] + at) / 2 if number + 1 < len(came) else at
        spread += [(draw.uniform(before, after), sample) for _ in range(copies)]
    return spread


def _weighted_holds(samples: Sequence[EndedTask]) -> tuple[float, ...]:
    """The holds of the samples, sorted, each as often as it stands for relative to the lightest."""
    least = min(sample.weight for sample in samples)
    most_copies = max(MAX_ARRIVALS // len(samples), 1)
    copies = [min(max(round(sample.weight / least), 1), most_copies) for sample in samples]
    return tuple(sorted(sample.held for sample, times in zip(samples, copies, strict=True) for _ in range(times)))


def _not_now(limit: LimitStatus) -> Iterator[str]:
    """What keeps every task of a limit from starting now, and isn't replayed."""
    if limit.paused:
        yield f"{limit.limit} is paused; this is what happens once it is resumed"
    if limit.settling:
        yield f"{limit.limit} is settling and starts nothing yet; this is what happens once it has settled"


def _ask_broker(
    app: Celery, limit: str, sessions: Sequence[SessionStatus]
) -> tuple[int, Sequence[SessionStatus], list[str]]:
    """How many messages a limit's queue holds, whose workers consume it, and what couldn't be asked.

    Under other limits no message counts, and every worker does.
    """
    name = LimitName.of(limit)
    if name.scope != "queue":
        return 0, sessions, []
    queue = name.name
    try:
        with BrokerView(app) as backlog:
            count = backlog.count(queue) or 0
    except BrokerUnavailable as exc:
        text = (
            f"{exc}; its messages are not counted, and the slots of all workers are, even if they don't consume {queue}"
        )
        return 0, sessions, [text]
    return count, *_consuming(app, queue, sessions)


def _consuming(app: Celery, queue: str, sessions: Sequence[SessionStatus]) -> tuple[Sequence[SessionStatus], list[str]]:
    """The sessions of the workers that consume a queue, or may, and a sentence where that isn't known."""
    nodes = tuple(sorted({session.node for session in sessions}))
    if not nodes:
        return sessions, []
    try:
        (told,) = ask(app, [Question("active_queues", destination=nodes)])
    except BrokerUnavailable as exc:
        return sessions, [f"{exc}; the slots of all workers are counted, even if they don't consume {queue}"]
    others = {
        node
        for node, queues in told.items()
        if queue not in {name for names in told_queues([queues]) for name in names}
    }
    silent = [node for node in nodes if node not in told]
    doubts = [f"{all_of(silent)} did not answer; counted as consuming {queue}"] if silent else []
    return [session for session in sessions if session.node not in others], doubts
