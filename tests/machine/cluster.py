"""Workers, a broker, a Redis and the time between them: what happens next is what is due next, and nothing is random.

rules -> Cluster (settle, run) -> Worker.link_turn, consumer_turn, tick;  each start -> Cluster.started -> the promises
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from celery_gconc.protocol.replies import limits_of
from tests.store.namespace import Namespace, State

from .keys import Keys
from .oracle import UNLIMITED, Operators
from .pool import LIMITS, Job, Message, Queues, Request
from .server import Clock, MachineStore, OpenWay, Server
from .worker import Worker

#: How many turns may follow each other before nothing is left to do at a moment. More: something chases its own tail.
MAX_TURNS = 600

#: How long, in seconds, a task that could start may wait where nothing is wrong: a tick or two, and two round trips.
PROMPT = 1.3

#: How long, in seconds, what is waited for takes at most beyond its time: calls take a millisecond each, and an idle
#: permit is kept for 0.1 s.
SLACK = 0.35


#: Within how many seconds Redis knows of a slot, and of who waits for one.
KNOWN_BY = 1.2


#: For how long, in seconds, Redis may not know that a start was one of a streak.
JUST_STARTED = 0.03


@dataclass(eq=False)
class Contact:
    """What a worker has heard of Redis, and Redis of it."""

    #: When the last sync that was answered was sent, and the last that was carried out, its answer lost or not.
    answered: float = -UNLIMITED
    carried: float = -UNLIMITED
    #: When it came back after its lease had ended, or its session was forgotten.
    returned: float = -UNLIMITED
    #: When a loss of data forgot its session; until it is back.
    forgotten: float | None = None
    session: str = ""
    #: Whether the older data that Redis went back to don't know that session.
    is_unknown: bool = False


class Cluster:
    """Everything there is."""

    def __init__(self, url: str, clock: Clock, config: dict[str, int]) -> None:
        self.url, self.clock, self.config = url, clock, config
        self.server = Server(url, clock, self._look)
        self.queues = Queues()
        self.operators = Operators(config, LIMITS)
        self.workers: list[Worker] = []
        #: Those that are no more, by when their sessions are surely over.
        self.dead: list[tuple[float, Worker]] = []
        self.namespace = Namespace(url)
        self.namespace.store = MachineStore(url, "gconc").go(OpenWay(self.server))
        self.keys = Keys()
        self.contacts: dict[Worker, Contact] = {}
        self._made = 0
        #: What is to happen at a time.
        self._later: list[tuple[float, Callable[[], None]]] = []
        #: From when on nothing is wrong any more, as far as is known; and since when each message could have started.
        self.well_from = clock.at
        self._startable: dict[Message, float] = {}
        #: When each worker last started a task.
        self._last_start: dict[Worker, float] = {}
        #: When a task last started or ended.
        self._changed_at = 0.0
        #: Since when workers have had a free slot.
        self._has_slot_since: dict[Worker, float] = {}
        #: The first that came to a Redis that had lost its data, if it had never been there: and when.
        self.newcomer_at: float | None = None
        self._is_empty = True
        self.snapshots: list[tuple[dict[str, bytes], Any, set[str]]] = []
        #: When Redis' wall clock stepped forward.
        self.steps: list[float] = []
        self.starts = self.overs = self.rests = 0

    def close(self) -> None:
        for worker in self.workers:
            worker.die()
        self.namespace.close()
        self.server.raw.close()

    # -- Workers -----------------------------------------------------------------------------------------

    def start(self, **how: Any) -> Worker:
        """Start a worker."""
        self._made += 1
        worker = Worker(f"w{self._made}", self.url, self.server, self.queues, self.started, config=self.config, **how)
        contact = self.contacts[worker] = Contact()

        def carried(name: str, asked: Any, reply: Any, sent: float) -> None:
            if name == "open":
                self._opened(contact, asked, is_late=sent < 0)
            if name in ("open", "sync") and reply["status"] == "ok":
                contact.carried = max(contact.carried, sent)

        worker.way.carried = carried
        apply, take_up = worker.parts.ledger.apply, worker.parts.ledger.opened

        def applied(reply: Any, lease_ends: float, reuse_ends: float) -> bool:
            contact.answered = max(contact.answered, lease_ends - worker.timeout)
            return apply(reply, lease_ends, reuse_ends)

        def opened(session: str, table: Any, version: int, lease_ends: float) -> None:
            contact.answered, contact.session = lease_ends - worker.timeout, session
            take_up(session, table, version, lease_ends)

        worker.parts.ledger.apply, worker.parts.ledger.opened = applied, opened  # type: ignore[method-assign]
        worker.way.later = self.after
        self.workers.append(worker)
        return worker

    def _opened(self, contact: Contact, asked: Any, *, is_late: bool) -> None:
        if self._is_empty:
            self._is_empty = False
            self.newcomer_at = self.clock.at if not asked["known"] else None
        if not is_late:
            contact.forgotten, contact.returned = None, self.clock.at

    def kill(self, worker: Worker) -> None:
        """A worker dies."""
        contact = self.contacts[worker]
        worker.die()
        worker.pool.jobs.clear()
        self.workers.remove(worker)
        # A sync of it that is late may still come.
        ends = max(contact.carried, self.clock.at) + worker.timeout
        self.dead.append((ends, worker))
        self.trouble(worker.timeout + worker.interval)

    def over(self) -> None:
        """Those that have stopped are no more."""
        for worker in [worker for worker in self.workers if worker.is_over]:
            self.workers.remove(worker)

    # -- Redis -------------------------------------------------------------------------------------------

    def lost_data(self, settings: Any) -> None:
        """Redis has lost its data, or has older data: *settings* are what operators had done by then."""
        self.keys.forget()
        since = min([contact.answered for contact in map(self.contacts.get, self.workers) if contact], default=0.0)
        self.operators.may_be_forgotten(self.clock.at, since, settings)
        if settings is None:
            self._is_empty = True
        for worker in self.workers:
            self.contacts[worker].forgotten = self.clock.at

    def lose_all(self, *, with_connections: bool) -> None:
        """All data are gone; on the running server, or with another process of it."""
        self.server.lose_data()
        if with_connections:
            self.server.restart()
        self.lost_data(None)

    def step_clock(self, seconds: float) -> None:
        """The wall clock of Redis steps."""
        self.server.step_clock(seconds)
        if seconds > 0:
            self.steps.append(self.clock.at)

    def take_snapshot(self) -> None:
        """Remember the data as they are."""
        known = {contact.session for contact in self.contacts.values()}
        self.snapshots.append((self.server.snapshot(), self.operators.copy(), known))

    def go_back(self, to: tuple[dict[str, bytes], Any, set[str]]) -> None:
        """Another process of Redis begins with older data."""
        self.server.go_back(to[0])
        self._is_empty = not to[0]
        self.lost_data(to[1])
        for contact in self.contacts.values():
            contact.is_unknown = contact.session not in to[2]

    # -- Time --------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Do what is due at this moment, by whichever thread, until nothing is."""
        for _ in range(MAX_TURNS):
            worked = False
            for worker in list(self.workers):
                for turn in worker.turns:
                    worked = (not worker.is_over and turn()) or worked
            self.over()
            if not worked:
                self.look_who_waits()
                return
        raise AssertionError(f"workers keep each other busy for ever: {self.describe()}")

    def run(self, seconds: float) -> None:
        """Let time pass, with all that is due in it."""
        ends = self.clock.us + int(seconds * 1e6)
        self.settle()
        while self.clock.us < ends:
            self.clock.us = max(min(int(self._next_due() * 1e6) + 1, ends), self.clock.us)
            for at, function in [one for one in self._later if one[0] <= self.clock.at]:
                self._later.remove((at, function))
                function()
            self.settle()
            for worker in self.workers:
                if self.clock.at >= worker.tick_due:
                    worker.tick()
            self.settle()

    def _next_due(self) -> float:
        due = [at for at, _ in self._later]
        for worker in self.workers:
            due.append(worker.tick_due)
            if worker.frozen != "all":
                due.append(worker.link_due)
        return min(due, default=UNLIMITED) if due else self.clock.at + 1.0

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Have something happen later."""
        self._later.append((self.clock.at + seconds, function))

    def do_all_later(self) -> None:
        """Have it happen now."""
        while self._later:
            self._later.pop(0)[1]()

    def trouble(self, seconds: float) -> None:
        """Something goes wrong, and may have consequences for so long."""
        self.well_from = max(self.well_from, self.clock.at + seconds)

    @property
    def slowest(self) -> float:
        """The longest heartbeat interval that any worker had."""
        return max([worker.interval for worker in self.contacts], default=1.0)

    @property
    def longest(self) -> float:
        """The longest lease that any had."""
        return max([worker.timeout for worker in self.contacts], default=1.0)

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong, and nothing was of which there may be consequences."""
        if self.server.is_away or any(worker.frozen or worker.way.is_cut for worker in self.workers):
            return False
        return self.clock.at >= self.well_from

    # -- 1: never above the limit; 6: in order -----------------------------------------------------------

    def running(self, limit: str) -> Iterator[tuple[Worker, Job]]:
        """What runs under a limit: as it really is."""
        for worker in self.workers:
            for job in worker.pool.running:
                if limit in job.request.message.limits:
                    yield worker, job

    def started(self, by: Worker, request: Request) -> None:
        """A task is handed to a pool."""
        message: Message = request.message
        self.starts += 1
        self._changed_at = self.clock.at
        by.arrived.setdefault(message, self.clock.at)
        assert not message.is_done, f"{message} starts though it is done with"
        contact = self.contacts[by]
        for limit in message.limits:
            allowed = self.operators.greatest(limit, contact.answered)
            if allowed == UNLIMITED:
                continue
            assert self.clock.at < contact.answered + by.timeout, (
                f"{by} starts a task under {limit} though its lease is over: {self.describe()}"
            )
            count = sum(self._counts(other, by) for other, _ in self.running(limit)) + 1
            assert count <= allowed, f"{by} starts one under {limit}, with which {count} run: {self.describe()}"
        self._look_at_order(by, message)
        by.arrived.pop(message, None)
        if message.seconds is not None:
            self.after(message.seconds, lambda: self.end(by, request))

    def end(self, worker: Worker, request: Request) -> None:
        """A task ends, if it still runs."""
        self._changed_at = self.clock.at
        for job in worker.pool.running:
            if job.request is request:
                if worker.frozen == "all" and worker.kind == "threads":
                    self.after(0.5, lambda: self.end(worker, request))
                else:
                    worker.pool.end(job)

    def _counts(self, other: Worker, by: Worker) -> bool:
        """Whether what *other* runs counts where *by* starts something: not where its lease is over, or was."""
        if other is by:
            return True
        theirs, ours = self.contacts[other], self.contacts[by]
        if theirs.forgotten is not None:
            # Redis knows nothing of it, and a newcomer came first: it was waited for, for a while.
            if theirs.is_unknown and self.clock.at >= theirs.forgotten + self.slowest + 0.5:
                return False  # older data don't know it: one that is cut off is waited for no longer
            newcomer = self.newcomer_at
            if newcomer is not None and newcomer >= theirs.forgotten and self.clock.at >= newcomer + 1.6:
                return False
        # (A step of Redis' clock takes an interval of each lease at most: the worker starts nothing in its last one.)
        steps = sum(at >= theirs.carried for at in self.steps)
        if self.clock.at >= theirs.carried + other.timeout - steps * other.interval:
            return False
        return ours.answered > theirs.returned

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
                free -= all(self._has_free(limit) for limit in old.limits)
                if not old.is_revoked and arrived < min(came - SLACK, self.clock.at - SLACK):
                    is_overtaken = self._limits_of(old) == limits
                    assert not is_overtaken, f"{young} starts in {by} before {old}: {self.describe()}"

    def _limits_of(self, message: Message) -> list[str]:
        return [limit for limit in message.limits if self.operators.least_now(limit) < UNLIMITED]

    # -- 2: never stuck ----------------------------------------------------------------------------------

    def look_who_waits(self) -> None:
        """A task that could start starts soon."""
        self._has_slot_since = {
            worker: self._has_slot_since.get(worker, self.clock.at) for worker in self.workers if worker.free > 0
        }
        if not self.is_well:
            self._startable.clear()
            return
        self.overs += 1
        now = self.clock.at
        found = {message for worker in self.workers if not worker.is_stopping for message in self._could_start(worker)}
        self._startable = {message: self._startable.get(message, now) for message in found}
        for message, since in self._startable.items():
            waited = now - max(since, self.well_from)
            assert waited <= PROMPT, f"{message} could have started {waited:.2f} s ago: {self.describe()}"

    def _could_start(self, worker: Worker) -> Iterator[Message]:
        if worker.free <= 0:
            return
        for message in worker.waiting:
            held_back = int(self._may_be_reserved(message))
            if not message.is_revoked and all(self._has_free(limit, held_back) for limit in message.limits):
                yield message

    def _has_free(self, limit: str, held_back: int = 0) -> bool:
        return sum(1 for _ in self.running(limit)) + held_back < self.operators.least_now(limit)

    def _may_be_reserved(self, message: Message) -> bool:
        """Whether one permit of each of its limits may be held back for one that waits for several."""
        for worker in self.workers:
            for other in worker.waiting:
                if other is not message and not set(other.limits).isdisjoint(message.limits) and len(other.limits) > 1:
                    return True
        return False

    # -- 3: no leak; 4: work-conserving ------------------------------------------------------------------

    def look_at_rest(self) -> None:
        """All is well, and nothing has happened for a while: what is held is just what runs."""
        if self.clock.at - self._changed_at < SLACK:
            return
        state = self.namespace.look()
        self.rests += 1
        for limit in LIMITS:
            if limit in state.maxima:
                runs, held = len(list(self.running(limit))), len(state.holders.get(limit, []))
                assert runs == held, f"{runs} run under {limit}, and {held} permits are held: {self.describe()}"
        left = self._nobodys(state)
        assert not left, f"sessions {left} are nobody's: {self.describe()}"

    def has_nothing_left(self) -> bool:
        """Whether Redis has nothing but the sessions of those that live: before it must, where leases have ended."""
        state = self.namespace.look()
        return not (state.requests or state.is_shut or state.settling or self._nobodys(state))

    def _nobodys(self, state: State) -> set[str]:
        return set(state.leases) - {self.contacts[worker].session for worker in self.workers}

    def _look(self, name: str, asked: str, keys: bytes, leases: bytes) -> None:
        if name in ("sync", "open", "close", "change"):
            self.keys.look(name, asked, keys, leases)

    # -- For people --------------------------------------------------------------------------------------

    def describe(self) -> str:
        """Everything, in lines."""
        lines = [f"at {self.clock.at - 10**6:.3f}"]
        for limit in LIMITS:
            setting = self.operators.settings[limit]
            if setting.maxima != {UNLIMITED}:
                lines.append(f"  {limit}: max {setting.maxima}, {len(list(self.running(limit)))} run")
        for worker in self.workers:
            contact = self.contacts[worker]
            runs = [job.request.message.number for job in worker.pool.running]
            held = [message.number for message in worker.waiting]
            ago = {
                name: round(self.clock.at - getattr(contact, name), 3) for name in ("answered", "carried", "returned")
            }
            lines.append(
                f"  {worker} {contact.session} runs {runs}, waits {held}, {worker.frozen or 'awake'}"
                f"{' cut off' if worker.way.is_cut else ''}, s ago: {ago}"
            )
        state = self.namespace.look()
        lines += [f"  holders {state.holders}", f"  lines {state.lines}", f"  reserved {state.reserved}"]
        lines += [f"  rooms {state.rooms}", f"  settling {state.settling}", f"  max {state.maxima}"]
        requests = {f"{id[0]}:{id[1]}": limits_of(record["c"]) for id, record in state.requests.items()}
        return "\n".join([*lines, f"  requests {requests}"])
