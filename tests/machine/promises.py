"""The promises, as the machine holds a cluster to them: at each start, after each script, and whenever nothing happens.

Cluster (starts, scripts, time) -> Promises -> oracle.py (what operators did), keys.py (what is in Redis)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tests.store.namespace import State

from .cluster import Cluster
from .keys import Keys
from .oracle import UNLIMITED
from .pool import LIMITS, Message, Request
from .server import Ran
from .worker import Worker

#: How long, in seconds, a task that could start may wait where nothing is wrong: a tick or two, and two round trips.
PROMPT = 1.3

#: How long, in seconds, what is waited for takes at most beyond its time: calls take a millisecond each, and idle
#: units are kept for 0.1 s.
SLACK = 0.35

#: Within how many seconds Redis knows of a slot, and of who waits for one.
KNOWN_BY = 1.2

#: For how long, in seconds, Redis may not know that a start was one of a streak.
JUST_STARTED = 0.03


class Promises(Cluster):
    """A cluster that is held to them. They are numbered as in docs/explanation/guarantees.md."""

    def __init__(self, *about: Any) -> None:
        #: The keys as they were after the last script.
        self._keys = Keys()
        #: Since when each message could have started, and workers have had a free slot; and when they last started one.
        self._startable: dict[Message, float] = {}
        self._has_slot_since: dict[Worker, float] = {}
        self._last_start: dict[Worker, float] = {}
        #: By limit, the fencing number of the last task that started while only one could run.
        self._numbers: dict[str, int] = {}
        super().__init__(*about)

    def lost_data(self, settings: Any) -> None:
        self._keys.forget()
        if self.is_behind:
            self._numbers.clear()  # where data are lost, numbers go on from Redis' clock
        super().lost_data(settings)

    # -- 1: never above the limit, and what starts is counted ---------------------------------------------

    def look_at_start(self, by: Worker, request: Request) -> None:
        contact = self.contacts[by]
        for limit in request.message.limits:
            allowed = self.operators.greatest(limit, contact.answered)
            if allowed == UNLIMITED:
                self._numbers.pop(limit, None)
                continue
            assert self.clock.at < contact.answered + by.timeout, (
                f"{by} starts a task under {limit} though its lease is over: {self.describe()}"
            )
            counted = [job.request for other, job in self.running(limit) if self._counts(other, job.request, by)]
            units = sum(self._units(limit, [*counted, request]))
            assert units <= allowed, f"{by} starts one under {limit}, with which {units} are in use: {self.describe()}"
            self._look_at_number(limit, allowed, request)
        self._look_whether_counted(by, [request])
        self._look_at_order(by, request.message)

    def _counts(self, other: Worker, request: Request, by: Worker) -> bool:
        """Whether what *other* runs counts where *by* starts something: not where it outlived a lease, or had none."""
        if other is by:
            return True
        theirs, ours = self.contacts[other], self.contacts[by]
        if request.known_at == -UNLIMITED or request.started_at < theirs.outlived:
            return False  # Redis may have granted something before it heard of that
        if theirs.forgotten is not None:
            # Redis knows nothing of it, and a newcomer came first: it was waited for, for a while.
            if theirs.is_unknown and self.clock.at >= theirs.forgotten + self.slowest + 0.5:
                return False  # older data don't know it: one that is cut off is waited for no longer
            newcomer = self.newcomer_at
            if newcomer is not None and newcomer >= theirs.forgotten and self.clock.at >= newcomer + 1.6:
                return False
        return self.is_sure(other, theirs.carried) and ours.answered > theirs.returned

    def _units(self, limit: str, requests: Iterable[Request]) -> Iterator[int]:
        """How many units of a limit each takes while it runs: no more than the max since its start."""
        for request in requests:
            if limit in request.message.limits:
                most = self.operators.least(limit, request.known_at)
                yield int(min(request.message.weight_on(limit), most))

    def _look_whether_counted(self, worker: Worker, starting: Iterable[Request] = ()) -> None:
        """Redis counts what runs in a worker that trusts its lease, where limits don't settle."""
        state, contact = self._keys.state, self.contacts[worker]
        # (What it ran before Redis told it of a limit, it states with its first sync.)
        is_known = contact.forgotten is None and contact.carried > contact.returned
        is_known = is_known and self.is_sure(worker, contact.answered)
        if state is None or state.is_shut or not is_known:
            return
        requests = [*(job.request for job in worker.pool.running), *starting]
        for limit in state.maxima.keys() - state.settling:
            units, counted = sum(self._units(limit, requests)), state.units.get(limit, {}).get(contact.session, 0)
            assert units <= counted, f"{worker} uses {units} of {limit}, but {counted} are counted: {self.describe()}"

    def _look_at_number(self, limit: str, allowed: float, request: Request) -> None:
        """Fencing numbers grow with each start under a limit of 1."""
        if allowed > 1:
            self._numbers.pop(limit, None)
            return
        number, last = request.fencing_number, self._numbers.get(limit, 0)
        assert number is not None, f"{request.message} starts under {limit} without a permit"
        assert number > last, f"{request.message} has number {number} of {limit}, after {last}: {self.describe()}"
        self._numbers[limit] = number

    # -- 6: in order -------------------------------------------------------------------------------------

    def _look_at_order(self, by: Worker, young: Message) -> None:
        """Nobody is overtaken who waits for the same one limit, and could have started."""
        limits = self._limits_of(young)
        last, self._last_start[by] = self._last_start.get(by, 0.0), self.clock.at
        # (Redis may believe a worker to stand one further ahead for the moment after a start.)
        if not self.is_well or len(limits) != 1 or self.clock.at - last < JUST_STARTED:
            return
        came = by.arrived[young]
        for worker in self.workers:
            if self.clock.at - self._has_slot_since.get(worker, UNLIMITED) < KNOWN_BY or worker.is_stopping:
                continue
            free = worker.free
            for old, arrived in worker.waiting.items():
                if free <= 0:
                    break  # its slots are for those before
                free -= self._has_free(old)
                if not old.is_revoked and arrived < min(came - SLACK, self.clock.at - SLACK):
                    is_overtaken = self._limits_of(old) == limits
                    assert not is_overtaken, f"{young} starts in {by} before {old}: {self.describe()}"

    def _limits_of(self, message: Message) -> list[str]:
        return [limit for limit in message.limits if self.operators.least_now(limit) < UNLIMITED]

    # -- 2: never stuck ----------------------------------------------------------------------------------

    def look_who_waits(self) -> None:
        self._has_slot_since = {
            worker: self._has_slot_since.get(worker, self.clock.at) for worker in self.workers if worker.free > 0
        }
        if not self.is_well:
            self._startable.clear()
            return
        now = self.clock.at
        found = {message for worker in self.workers if not worker.is_stopping for message in self._could_start(worker)}
        self._startable = {message: self._startable.get(message, now) for message in found}
        for message, since in self._startable.items():
            waited = now - max(since, self.well_from)
            assert waited <= PROMPT, f"{message} could have started {waited:.2f} s ago: {self.describe()}"

    def _could_start(self, worker: Worker) -> Iterator[Message]:
        if worker.free <= 0:
            return
        for message, arrived in worker.waiting.items():
            has_free = not message.is_revoked and self._has_free(message, self._may_be_reserved(message))
            if has_free and not self._is_held_up(message, arrived):
                yield message

    def _free(self, limit: str) -> float:
        """How many units of a limit are free."""
        return self.operators.least_now(limit) - sum(
            self._weight(job.request.message, limit) for _, job in self.running(limit)
        )

    def _weight(self, message: Message, limit: str) -> float:
        """How many units of a limit it takes now."""
        return min(message.weight_on(limit), self.operators.least_now(limit) or UNLIMITED)

    def _has_free(self, message: Message, held_back: float = 0) -> bool:
        return all(self._weight(message, limit) + held_back <= self._free(limit) for limit in message.limits)

    def _may_be_reserved(self, message: Message) -> float:
        """How many units of each of its limits may be held back for one that waits for several."""
        others = [other for other, _ in self._others(message) if len(self._limits_of(other)) > 1]
        shared = [(other, limit) for other in others for limit in self._limits_of(other) if limit in message.limits]
        return max((self._weight(other, limit) for other, limit in shared), default=0)

    def _is_held_up(self, message: Message, arrived: float) -> bool:
        """Whether a heavier one came before it that has a slot, and waits for more units than are free."""
        for other, worker in self._others(message):
            if worker.free > 0 and worker.arrived[other] < arrived + SLACK:
                shared = [limit for limit in self._limits_of(other) if limit in message.limits]
                if any(self._weight(other, limit) > self._free(limit) for limit in shared):
                    return True
        return False

    def _others(self, message: Message) -> Iterator[tuple[Message, Worker]]:
        """What else waits."""
        for worker in self.workers:
            for other in list(worker.waiting):
                if other is not message:
                    yield other, worker

    # -- 3: no leak; 4: work-conserving ------------------------------------------------------------------

    def look_at_rest(self) -> None:
        """All is well, and nothing has happened for a while: what is held is just what runs."""
        if self.clock.at - self.changed_at < SLACK:
            return
        state = self.namespace.look()
        for limit in [limit for limit in LIMITS if limit in state.maxima]:
            uses: dict[str, int] = {}
            for worker, job in self.running(limit):
                session = self.contacts[worker].session
                uses[session] = uses.get(session, 0) + int(self._weight(job.request.message, limit))
            held = state.units.get(limit, {})
            assert uses == held, f"of {limit} {uses} are in use, and {held} are held: {self.describe()}"
        left = self._nobodys(state)
        assert not left, f"sessions {left} are nobody's: {self.describe()}"

    def look_at_script(self, ran: Ran) -> None:
        self._keys.look(ran)
        for worker in self.workers:
            self._look_whether_counted(worker)

    def has_nothing_left(self) -> bool:
        """Whether Redis has nothing but the sessions of those that live: before it must, where leases have ended."""
        state = self.namespace.look()
        return not (state.units or state.wants or state.is_shut or state.settling or self._nobodys(state))

    def _nobodys(self, state: State) -> set[str]:
        return set(state.leases) - {self.contacts[worker].session for worker in self.workers}
