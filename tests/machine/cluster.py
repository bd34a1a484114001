"""Workers, a broker, a Redis and the time between them: what happens next is what is due next, and nothing is random.

rules -> Cluster (settle, run) -> Worker.link_turn, consumer_turn, tick;  starts, scripts -> the promises (promises.py)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.store.namespace import Namespace

from .oracle import UNLIMITED, Operators
from .pool import LIMITS, Job, Message, Queues, Request
from .server import Clock, MachineStore, OpenWay, Ran, Server
from .worker import Worker

#: How many turns may follow each other before nothing is left to do at a moment. More: something chases its own tail.
MAX_TURNS = 600


@dataclass(eq=False)
class Contact:
    """What a worker has heard of Redis, and Redis of it."""

    #: When the last sync that was answered was sent, and the last that was carried out, its answer lost or not.
    answered: float = -UNLIMITED
    carried: float = -UNLIMITED
    #: When it came back after its lease had ended, or its session was forgotten.
    returned: float = -UNLIMITED
    #: When it came back after its lease had ended: what had started before then outlived that.
    outlived: float = -UNLIMITED
    #: When a loss of data forgot its session; until it is back.
    forgotten: float | None = None
    session: str = ""
    #: Whether the older data that Redis went back to don't know that session.
    is_unknown: bool = False


class Cluster:
    """Everything there is; a subclass looks at what becomes of it."""

    def __init__(
        self, url: str, clock: Clock, config: dict[str, int], work: int, failures: list[BaseException]
    ) -> None:
        self.url, self.clock, self.config = url, clock, config
        self.server = Server(url, clock, self.look_at_script, work, failures)
        self.queues = Queues()
        self.operators = Operators(config, LIMITS)
        self.workers: list[Worker] = []
        #: Those that are no more, by when their sessions are surely over.
        self.dead: list[tuple[float, Worker]] = []
        self.namespace = Namespace(url)
        self.namespace.store = MachineStore(url, "gconc").go(OpenWay(self.server))
        self.contacts: dict[Worker, Contact] = {}
        self._made = 0
        #: What is to happen at a time.
        self._later: list[tuple[float, Callable[[], None]]] = []
        #: From when on nothing is wrong any more, as far as is known.
        self.well_from = clock.at
        #: When a task last started or ended.
        self.changed_at = 0.0
        #: The first that came to a Redis that had lost its data, if it had never been there: and when.
        self.newcomer_at: float | None = None
        self._is_empty = True
        self.snapshots: list[tuple[dict[str, bytes], Any, set[str]]] = []
        #: When Redis' wall clock stepped forward.
        self.steps: list[float] = []
        #: Whether it was ever set back.
        self.is_behind = False

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
                self._begun(asked)
            if name == "open" and reply["status"] == "ok":
                self._opened(worker, asked, is_late=sent < 0)
            if name in ("open", "sync") and reply["status"] == "ok":
                contact.carried = max(contact.carried, sent)

        worker.way.carried = carried
        apply, take_up = worker.parts.ledger.apply, worker.parts.ledger.opened

        def applied(reply: Any, lease_ends: float, reuse_ends: float) -> bool:
            contact.answered = max(contact.answered, lease_ends - worker.timeout)
            return apply(reply, lease_ends, reuse_ends)

        def opened(session: str, version: int, lease_ends: float) -> None:
            contact.answered, contact.session = lease_ends - worker.timeout, session
            take_up(session, version, lease_ends)

        worker.parts.ledger.apply, worker.parts.ledger.opened = applied, opened  # type: ignore[method-assign]
        worker.way.later = self.after
        self.workers.append(worker)
        return worker

    def _begun(self, asked: Any) -> None:
        """Redis has been told that a session begins, whether it knows with which configuration or not."""
        if self._is_empty:
            self._is_empty = False
            self.newcomer_at = self.clock.at if not asked["known"] else None

    def _opened(self, worker: Worker, asked: Any, *, is_late: bool) -> None:
        contact = self.contacts[worker]
        if not is_late:
            if not self.is_sure(worker, contact.carried):
                contact.outlived = self.clock.at
            contact.session, contact.forgotten, contact.returned = asked["session"], None, self.clock.at

    def is_sure(self, worker: Worker, renewed: float) -> bool:
        """Whether Redis knows of its lease, which was renewed then.

        A step of Redis' clock takes an interval of each lease at most: the worker starts nothing in its last one.
        """
        steps = sum(at >= renewed for at in self.steps)
        return self.clock.at < renewed + worker.timeout - steps * worker.interval

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
        else:
            self.is_behind = True

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
                    self.fail()
            self.over()
            if not worked:
                self.look_who_waits()
                return
        raise AssertionError(f"workers keep each other busy for ever: {self.describe()}")

    def fail(self) -> None:
        """Where something has failed, the test has, too."""
        if self.server.failures:
            raise self.server.failures[0]

    def run(self, seconds: float) -> None:
        """Let time pass, with all that is due in it."""
        ends = self.clock.us + int(seconds * 1e6)
        self.settle()
        while self.clock.us < ends:
            self.clock.us = max(min(int(self._next_due() * 1e6) + 1, ends), self.clock.us)
            for at, function in [one for one in self._later if one[0] <= self.clock.at]:
                self._later.remove((at, function))
                function()
            self.fail()
            self.settle()
            for worker in self.workers:
                if self.clock.at >= worker.tick_due:
                    worker.tick()
            self.fail()
            self.settle()

    def _next_due(self) -> float:
        due = [at for at, _ in self._later]
        for worker in self.workers:
            due += [worker.tick_due, worker.timer_due]
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

    # -- Tasks -------------------------------------------------------------------------------------------

    def running(self, limit: str) -> Iterator[tuple[Worker, Job]]:
        """What runs under a limit: as it really is."""
        for worker in self.workers:
            for job in worker.pool.running:
                if limit in job.request.message.limits:
                    yield worker, job

    def started(self, by: Worker, request: Request) -> None:
        """A task is handed to a pool."""
        message: Message = request.message
        self.changed_at = self.clock.at
        request.known_at, request.started_at = self.contacts[by].answered, self.clock.at
        by.arrived.setdefault(message, self.clock.at)
        assert not message.is_done, f"{message} starts though it is done with"
        with self.server.noting_failures():
            self.look_at_start(by, request)
        by.arrived.pop(message, None)
        if message.seconds is not None:
            self.after(message.seconds, lambda: self.end(by, request))

    def end(self, worker: Worker, request: Request) -> None:
        """A task ends, if it still runs."""
        self.changed_at = self.clock.at
        for job in worker.pool.running:
            if job.request is request:
                if worker.frozen == "all" and worker.kind == "threads":
                    self.after(0.5, lambda: self.end(worker, request))
                else:
                    worker.pool.end(job)

    # -- What is looked at -------------------------------------------------------------------------------

    def look_at_start(self, by: Worker, request: Request) -> None:
        """A task starts, in a worker that knew what Redis says as of ``known_at``."""
        raise NotImplementedError

    def look_who_waits(self) -> None:
        """Nothing is left to do at this moment."""
        raise NotImplementedError

    def look_at_script(self, ran: Ran) -> None:
        """A script has run."""
        raise NotImplementedError

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
        lines += [f"  units {state.units}", f"  lines {state.lines}", f"  reserved {state.reserved}"]
        lines += [f"  rooms {state.rooms}", f"  settling {state.settling}", f"  max {state.maxima}"]
        wants = {id: (record["c"], [request[1] for request in record["r"]]) for id, record in state.wants.items()}
        return "\n".join([*lines, f"  wants {wants}"])
