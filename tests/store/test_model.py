"""Random sessions against a plain model of what each of them really runs.

    rules -> Client (a worker in a few lines: its tasks, its units, what it was told) -> Store -> Redis
    check <- Look (the keys themselves) and the clients' tasks: never what the scripts say of themselves  look.py

After every call: nothing granted above a max, no task under a limit that isn't counted, nobody who waits beside units
for it, nobody overtaken, nothing left over. At the end: everybody who still waits is served, and nothing stays.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from celery_gconc.limits.claims import Claim, Claims
from celery_gconc.limits.table import LimitTable
from celery_gconc.protocol.configurations import digest_of
from celery_gconc.protocol.messages import Grant, Row, Running, Sync, Synced, Want, running_text
from celery_gconc.protocol.scripts import WORK

from .look import Look, check_granted, check_sound, looker, owner_of, sum_of, weight_on
from .namespace import INTERVAL, TIMEOUT, US, Session, State, TimedNamespace

LIMITS = ("pool:a", "pool:b", "pool:c")

#: What happens to a sync: mostly nothing.
FATES = st.sampled_from(["ok", "ok", "ok", "ok", "request lost", "reply lost", "doubled", "late"])

#: What a task would claim, if each limit had a max: in part of the histories all weights are 1.
some_wishes = st.lists(
    st.tuples(st.sampled_from(LIMITS), st.sampled_from([1, 1, 2, 3])),
    min_size=1,
    max_size=3,
    unique_by=lambda it: it[0],
)
some_client = st.integers(0, 3)

#: Heartbeat settings that sessions have, one beside the other: interval and timeout.
some_beats = st.sampled_from([(INTERVAL, TIMEOUT), (INTERVAL, TIMEOUT), (1.0, 4.0), (2.0, 24.0), (20.0, 40.0)])


@dataclass
class Task:
    """A task that waits or runs."""

    number: int
    #: What it would claim if each limit had a max; what it claims, or has a permit of.
    wishes: Claims
    claims: Claims = ()
    arrived: float = 0.0
    #: What Redis surely counts of it.
    counted: Claims = ()
    #: The grant that brought its units; it runs with others than that; Redis was told that it runs.
    grant: int = 0
    is_restated: bool = False
    is_stated: bool = False

    @property
    def id(self) -> str:
        return f"id-{self.number}"


@dataclass
class Line:
    """Those of a client that wait for the same claims, first come first; and for which of them Redis was asked."""

    number: int
    claims: Claims
    waiting: list[Task] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    is_stale: bool = False


@dataclass(frozen=True)
class Said:
    """A sync, with what it says of each task that runs, and of each limit."""

    sync: Sync
    claims: Mapping[str, Claims]
    held: Counter[str]


class Twin(Session):
    """A session whose requests have their claims in the place of the names of their limits."""

    def claims(self, limits: Iterable[Any]) -> Claims:
        return tuple(limits)


@dataclass
class Client:
    """A worker as the store knows it. It starts what it is granted at once, and gives back what finds no slot.

    The units of a task that has ended it gives back, or keeps for others of its own.
    """

    session: Twin
    #: Redis is asked for all that wait, or for as many as could start.
    asks_for_all: bool = True
    running: list[Task] = field(default_factory=list)
    lines: dict[Claims, Line] = field(default_factory=dict)
    last_line: int = 0
    held: Counter[str] = field(default_factory=Counter)
    #: What Redis is to hear with the next sync.
    changed: set[str] = field(default_factory=set)
    over: list[str] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    needs_statement: bool = True
    #: What people should see: the tasks of the last statement, and the grants since.
    stated: dict[str, Claims] = field(default_factory=dict)
    granted: dict[int, str] = field(default_factory=dict)
    #: Whether all that it runs was stated by the table that holds; not so after its lease ran out.
    is_known: bool = True

    @property
    def room(self) -> int:
        return self.session.slots - len(self.running)

    def waiting(self) -> list[Task]:
        return [task for line in self.lines.values() for task in line.waiting]

    def covering(self, wishes: Claims) -> Claims:
        return LimitTable(self.session.table, 0).covering(wishes)

    def used(self) -> Counter[str]:
        return sum_of(task.claims for task in self.running)

    def has_spare(self, claims: Claims) -> bool:
        used = self.used()
        return all(self.held[limit] - used[limit] >= weight for limit, weight in claims)

    # -- Tasks -------------------------------------------------------------------------------------------

    def new_task(self, wishes: Claims, arrived: float) -> Task:
        self.session.numbers += 1
        return Task(self.session.numbers, wishes, arrived=arrived)

    def submit(self, task: Task) -> None:
        task.claims = self.covering(task.wishes)
        if task.claims:
            line = self.lines.get(task.claims)
            if line is None:
                self.last_line += 1
                line = self.lines[task.claims] = Line(self.last_line, task.claims)
            line.waiting.append(task)
            line.waiting.sort(key=lambda one: one.arrived)
        elif self.room > 0:
            self.start(task)

    def start(self, task: Task, grant: int = 0) -> None:
        task.counted, task.grant = task.claims, grant
        self.running.append(task)

    def use_spare(self) -> None:
        """Tasks that wait start with units that are here."""
        for line in self.lines.values():
            while line.waiting and self.room > 0 and self.has_spare(line.claims):
                self.start(line.waiting.pop(0))

    def end(self, task: Task, *, keeps: bool = False) -> None:
        self.running.remove(task)
        if task.is_stated:
            self.over.append(task.id)
        elif task.grant:
            self.ended.append(task.grant)
        if task.is_restated or not keeps:
            self.give_back(sum_of([task.claims]))

    def withdraw(self, task: Task) -> None:
        self.lines[task.claims].waiting.remove(task)

    def give_back(self, units: Mapping[str, int]) -> None:
        for limit, count in units.items():
            self.held[limit] -= count
            self.changed.add(limit)
        self.held = +self.held

    def give_back_spare(self) -> None:
        self.give_back(self.held - self.used())

    # -- To Redis ----------------------------------------------------------------------------------------

    def collect(self, *, full: bool) -> Said:
        full, anew = full or self.needs_statement, self.needs_statement
        session = self.session
        session.syncs += 1
        moment = session.namespace.time()
        wants = [want for line in self.lines.values() if (want := self._said(line, moment, full=full, anew=anew))]
        running = self._running(anew=anew) if full else None
        spare = self.held - self.used()
        sync = Sync(
            session=session.name,
            epoch=session.epoch,
            confirmed=session.confirmed,
            number=session.syncs,
            granted=session.granted,
            room=self.room,
            version=session.version,
            known=session.known,
            units=dict(self.held) if full else {limit: self.held[limit] for limit in sorted(self.changed)},
            wants=wants,
            full=full,
            fence=session.fence if full else None,
            running=running,
            idle=dict(spare) if full else {},
            over=[] if running is not None else self.over,
            ended=[] if full else self.ended,
        )
        if running is not None:
            self.stated = {task.id: task.claims for task in self.running if task.claims}
        else:
            self.stated = {id: claims for id, claims in self.stated.items() if id not in self.over}
        gone = range(session.granted + 1) if full else self.ended
        self.granted = {grant: task for grant, task in self.granted.items() if grant not in gone}
        self.changed, self.over, self.ended, self.needs_statement = set(), [], [], False
        self.lines = {claims: line for claims, line in self.lines.items() if line.waiting or line.told}
        return Said(sync, {task.id: task.claims for task in self.running}, +self.held)

    def _said(self, line: Line, moment: float, *, full: bool, anew: bool) -> Want | None:
        count = len(line.waiting) if self.asks_for_all else max(self.room, 1)
        asked, told, anew = line.waiting[:count], line.told, anew or line.is_stale
        ids = line.told = [task.id for task in asked]
        line.is_stale = False
        if not ids if full else ids == told and not anew:
            return None
        skip = kept = 0
        if not anew and ids and ids[0] in told:
            skip = told.index(ids[0])
            for one, other in zip(ids, told[skip:], strict=False):
                if one != other:
                    break
                kept += 1
        rows = [Row(moment - task.arrived, task.id, "proj.task") for task in asked[kept:]]
        return Want(line.number, line.claims, skip, kept, rows)

    def _running(self, *, anew: bool) -> str | None:
        running = {task.id: task.claims for task in self.running if task.claims}
        if running == self.stated and not self.over and not anew:
            return None
        for task in self.running:
            task.is_stated = bool(task.claims)
        return running_text(Running(claims, id, "proj.task") for id, claims in running.items())

    # -- From Redis --------------------------------------------------------------------------------------

    def take(self, grants: Iterable[Grant]) -> None:
        for grant in grants:
            if grant.grant > self.session.granted:
                self.session.granted = grant.grant
                self.session.fence = max(self.session.fence, grant.fence)
                self._take(grant)

    def _take(self, grant: Grant) -> None:
        self.held += sum_of([grant.claims])
        line = next((line for line in self.lines.values() if line.number == grant.set), None)
        self.granted[grant.grant] = line.told.pop(0) if line is not None and line.told else ""
        if line is not None and line.waiting and self.room > 0:
            self.start(line.waiting.pop(0), grant.grant)
        else:
            self.give_back(sum_of([grant.claims]))

    def set_table(self, table: Mapping[str, int]) -> None:
        self.session.table = dict(table)
        for task in self.running:
            claims = self.covering(task.wishes)
            if claims and claims != task.claims:
                self.give_back(sum_of([task.claims]))
                self.held += sum_of([claims])
                self.changed.update(limit for limit, _ in claims)
                task.claims, task.is_restated = claims, True
        for task in self.waiting():
            if self.covering(task.wishes) != task.claims:
                self.withdraw(task)
                self.submit(task)

    def apply(self, number: int, reply: Synced) -> None:
        session = self.session
        self.take(reply.grants)
        self.is_known = self.is_known or reply.changes is None
        session.confirmed, session.lease = number, reply.lease
        session.fence = max(session.fence, reply.fence)
        if reply.changes is not None and session.hear_of_table(reply.changes, reply.version):
            self.set_table(session.table)

    def begin(self, session: Twin) -> None:
        """A new session, with what runs."""
        self.session, self.held = session, self.used()
        self.changed, self.over, self.ended = set(), [], []
        self.stated, self.granted = {}, {}
        self.needs_statement, self.is_known = True, False
        for line in self.lines.values():
            line.told = []


class Model(RuleBasedStateMachine):
    """Rules over up to four clients and three limits."""

    url = ""
    work = WORK

    def __init__(self) -> None:
        super().__init__()
        self.namespace = TimedNamespace(self.url, self.work)
        self._look = looker(self.namespace)
        self.clients: list[Client] = []
        self.opened = 0
        self.is_heavy = False
        self.beats: dict[str, tuple[float, float]] = {}
        self.late: list[tuple[Client, Said]] = []
        self.delivered: dict[str, int] = {}
        self.look = self.before = self._look()

    # -- Rules -------------------------------------------------------------------------------------------

    @initialize(
        slots=st.lists(st.integers(1, 3), min_size=2, max_size=3),
        beats=st.lists(some_beats, min_size=3, max_size=3),
        maxima=st.tuples(*[st.sampled_from([1, 1, 2, None]) for _ in LIMITS]),
        modest=st.lists(st.booleans(), min_size=3, max_size=3),
        is_heavy=st.booleans(),
    )
    def begin(
        self,
        slots: list[int],
        beats: list[tuple[float, float]],
        maxima: tuple[int | None, ...],
        modest: list[bool],
        is_heavy: bool,
    ) -> None:
        self.is_heavy = is_heavy
        for limit, maximum in zip(LIMITS, maxima, strict=True):
            if maximum is not None:
                self.namespace.store.set(limit, maximum + is_heavy, by="model")
        for count, (interval, timeout), is_modest in zip(slots, beats, modest, strict=False):
            session = self._session(slots=count, config={}, interval=interval, timeout=timeout)
            self.clients.append(Client(session, asks_for_all=not is_modest))
        self.check()
        for client in self.clients:
            self._sync(client, "ok", full=True)
            self._sync(client, "ok", full=True)  # with the table that the first told

    @precondition(lambda self: len(self.clients) < 4)
    @rule(
        slots=st.integers(0, 4),
        config=st.dictionaries(st.sampled_from(LIMITS), st.integers(0, 3), max_size=2),
        beats=some_beats,
        is_modest=st.booleans(),
        fate=FATES,
    )
    def open(self, slots: int, config: dict[str, int], beats: tuple[float, float], is_modest: bool, fate: str) -> None:
        interval, timeout = beats
        session = self._session(slots=slots, config=config, interval=interval, timeout=timeout)
        client = Client(session, asks_for_all=not is_modest)
        self.clients.append(client)
        self.check()
        self._sync(client, fate, full=True)

    @rule(
        config=st.dictionaries(st.sampled_from(LIMITS), st.integers(0, 3), min_size=2),
        which=st.integers(0, 2),
        timeout=st.integers(1, 30),
    )
    def send_a_piece(self, config: dict[str, int], which: int, timeout: int) -> None:
        """A worker sends a part of what it is configured with, and no more is heard of it."""
        limit, maximum = sorted(config.items())[which % len(config)]
        asked = {"digest": digest_of(config), "values": {limit: maximum}, "timeout": timeout * 1000}
        assert self.namespace.store._run("configure", asked)["status"] == "ok"
        self.check()

    @precondition(lambda self: self.clients)
    @rule(
        which=some_client,
        wishes=st.lists(some_wishes, min_size=1, max_size=4),
        age=st.integers(0, 20),
        fate=FATES,
        full=st.booleans(),
        passes=st.booleans(),
    )
    def submit(
        self, which: int, wishes: list[list[tuple[str, int]]], age: int, fate: str, full: bool, passes: bool
    ) -> None:
        client = self._client(which)
        for some in wishes:
            self._submit(client, some, age)
        self._use_spare(client, passes)
        self._sync(client, fate, full=full)

    @precondition(lambda self: any(client.running for client in self.clients))
    @rule(
        which=some_client,
        count=st.integers(1, 2),
        index=st.integers(0, 3),
        fate=FATES,
        again=st.none() | some_wishes,
        keeps=st.booleans(),
        passes=st.booleans(),
    )
    def finish(
        self,
        which: int,
        count: int,
        index: int,
        fate: str,
        again: list[tuple[str, int]] | None,
        keeps: bool,
        passes: bool,
    ) -> None:
        client = self._client(which, lambda c: bool(c.running))
        for _ in range(count):
            if client.running:
                client.end(client.running[index % len(client.running)], keeps=keeps)
        if again:
            self._submit(client, again)
        self._use_spare(client, passes)
        self._sync(client, fate, full=False)

    @precondition(lambda self: self.clients)
    @rule(wishes=st.lists(some_wishes, min_size=1, max_size=9))
    def work_on(self, wishes: list[list[tuple[str, int]]]) -> None:
        """One task ends and another comes, in turns: this is how waiters move from line to line."""
        for index, some in enumerate(wishes):
            client = self._client(index)
            self._sync(client, "ok", full=False)
            if client.running:
                client.end(client.running[0])
            self._submit(client, some)
            self._sync(client, "ok", full=False)

    @precondition(lambda self: len(self.clients) > 1)
    @rule(limits=st.permutations(LIMITS), times=st.integers(2, 6), slots=st.integers(1, 4), leaves=st.booleans())
    def cross(self, limits: list[str], times: int, slots: int, leaves: bool) -> None:
        """One waits for two limits, of which another uses now the one and now the other: units are held back for it.

        Then it may lose its room for a while.
        """
        waits, uses = self.clients[:2]
        uses.session.slots = slots
        pair = limits[:2]
        for limit in pair:
            self._submit(uses, [(limit, self.look.state.maxima.get(limit) or 1)])
            self._sync(uses, "ok", full=False)
        self._submit(waits, [(limit, 1) for limit in pair])
        self._sync(waits, "ok", full=False)
        for turn in range(times):
            limit = pair[turn % 2]
            for task in [task for task in uses.running if weight_on(task.claims, limit)]:
                uses.end(task)
            self._sync(uses, "ok", full=False)
            self._submit(uses, [(limit, self.look.state.maxima.get(limit) or 1)])
            self._sync(uses, "ok", full=False)
        for room in (0, 1) if leaves else ():
            waits.session.slots = len(waits.running) + room
            self._sync(waits, "ok", full=False)

    @precondition(lambda self: any(client.waiting() for client in self.clients))
    @rule(which=some_client, index=st.integers(0, 3), fate=FATES, anew=st.booleans())
    def withdraw(self, which: int, index: int, fate: str, anew: bool) -> None:
        client = self._client(which, lambda c: bool(c.waiting()))
        waiting = client.waiting()
        task = waiting[index % len(waiting)]
        client.lines[task.claims].is_stale = anew
        client.withdraw(task)
        self._sync(client, fate, full=False)

    @precondition(lambda self: any(client.held - client.used() for client in self.clients))
    @rule(which=some_client, fate=FATES)
    def give_back(self, which: int, fate: str) -> None:
        client = self._client(which, lambda c: bool(c.held - c.used()))
        client.give_back_spare()
        self._sync(client, fate, full=False)

    @precondition(lambda self: self.clients)
    @rule(which=some_client, fate=FATES, full=st.booleans())
    def sync(self, which: int, fate: str, full: bool) -> None:
        self._sync(self._client(which), fate, full=full)

    @precondition(lambda self: self.clients)
    @rule(which=some_client, is_lost=st.booleans())
    def hear(self, which: int, is_lost: bool) -> None:
        client = self._client(which)
        for notice in client.session.hear():
            if not is_lost and notice.grants and notice.grants[0].grant <= client.session.granted + 1:
                client.take(notice.grants)

    @precondition(lambda self: self.clients)
    @rule(which=some_client, slots=st.integers(0, 4))
    def resize(self, which: int, slots: int) -> None:
        self._client(which).session.slots = slots

    @precondition(lambda self: self.late)
    @rule(which=st.integers(0, 9))
    def deliver_late(self, which: int) -> None:
        client, said = self.late.pop(which % len(self.late))
        self._deliver(client, said)

    @precondition(lambda self: len(self.clients) > 2)
    @rule(which=some_client)
    def die(self, which: int) -> None:
        client = self._client(which)
        self.clients.remove(client)
        client.session.deaf()

    @precondition(lambda self: len(self.clients) > 2)
    @rule(which=some_client)
    def close(self, which: int) -> None:
        client = self._client(which)
        self.clients.remove(client)
        client.session.deaf()
        self.namespace.store.close_session(client.session.name)
        self.check()
        assert client.session.name not in self.look.state.leases

    @rule(limit=st.sampled_from(LIMITS), maximum=st.integers(0, 3))
    def set(self, limit: str, maximum: int) -> None:
        self.namespace.store.set(limit, maximum, by="model")
        self.check()
        assert self.namespace.store.status(limit)[limit].paused or self.look.state.maxima[limit] == maximum
        self.check()

    @rule(limit=st.sampled_from(LIMITS), how=st.sampled_from(["unlimited", "reset", "pause", "resume"]))
    def change(self, limit: str, how: str) -> None:
        if how == "unlimited":
            self.namespace.store.set(limit, None, by="model")
        elif how == "reset":
            self.namespace.store.reset(limit, by="model")
        else:
            self.namespace.store.pause(limit, how == "pause", by="model")
        self.check()
        if how == "pause":
            assert self.look.state.maxima[limit] == 0

    @rule(is_repair=st.booleans())
    def audit(self, is_repair: bool) -> None:
        assert self.namespace.store.audit(repair=is_repair) == ()
        self.check()

    @rule(intervals=st.integers(1, 4), is_beating=st.booleans())
    def elapse(self, intervals: int, is_beating: bool) -> None:
        """Time passes. Where nobody beats, leases run out under their clients, who find out with their next sync."""
        for _ in range(intervals):
            self.namespace.step_wall_clock(INTERVAL)
            if is_beating:
                for client in list(self.clients):
                    self._sync(client, "ok", full=True)
            self.namespace.call()
            self.check()

    @rule(hours=st.integers(-100, 100))
    def step_clock(self, hours: int) -> None:
        before = self.look.state.leases
        clock = self.namespace.clock() if before else 0
        step = self.look.state.least_interval * 1000
        self.namespace.step_wall_clock(hours * 3600)
        self.namespace.call()
        self.check()
        if before:
            assert clock <= self.namespace.clock() <= clock + step
            assert {name for name, lease in before.items() if lease > clock + step} <= set(self.look.state.leases)

    # -- What must hold ----------------------------------------------------------------------------------

    def check(self, sync: Sync | None = None, opened: str = "") -> None:
        """Look at Redis as it is, after each call that may have changed it: the *sync* that was executed, say."""
        before = self.before = self.look
        self.look = self._look()
        check_sound(self.look)
        check_granted(before, self.look)
        self._check_heartbeats(self.look.state)
        self._check_changes(before, self.look, sync, opened)
        self._check_counted(self.look)
        self._check_nobody_waits_beside_units(self.look)
        self._check_order(before, self.look, sync)

    def _check_heartbeats(self, state: State) -> None:
        """A step of the lease clock is no longer than the interval of any live session; others have left nothing."""
        live = [self.beats[name] for name in state.leases if name not in state.ending]
        assert state.heartbeats == sorted(live)
        if live:
            assert state.least_interval == min(interval for interval, _ in live)

    def _check_changes(self, before: Look, look: Look, sync: Sync | None, opened: str) -> None:
        """Nobody has other units than before but by a grant, by what it said, or as it ended."""
        granted = look.granted_since(before)
        for name in before.state.leases.keys() | look.state.leases.keys():
            had, has = before.units(name), look.units(name)
            new = sum_of(grant.claims for (owner, _), grant in granted.items() if owner == name)
            if name not in look.alive():
                assert has <= had and not new, f"{name} ends, and was given something"
            elif sync is not None and name == sync.session:
                grants = {number: grant.claims for (owner, number), grant in look.grants.items() if owner == name}
                unknown = sum_of(claims for number, claims in grants.items() if number > sync.granted)
                stated = Counter({limit: count + unknown[limit] for limit, count in sync.units.items()})
                others = unknown if sync.full else had + new
                assert has == +stated + Counter({limit: n for limit, n in others.items() if limit not in stated}), name
            elif name != opened:
                assert has == had + new, f"{name} had {had}, was granted {new}, and has {has}"

    def _check_counted(self, look: Look) -> None:
        """Every task that really runs under a limit counts, whoever learnt of the limit when."""
        for limit in look.state.maxima.keys() - look.state.settling:
            for client in self.clients:
                if client.session.name in look.alive() and client.is_known:
                    tasks = [task for task in client.running if weight_on(task.wishes, limit)]
                    uncounted = [task for task in tasks if not weight_on(task.counted, limit)]
                    assert not uncounted, f"{limit} doesn't count {uncounted}"
                    counted = sum(weight_on(task.counted, limit) for task in tasks)
                    assert counted <= look.units(client.session.name)[limit], f"{limit} counts too little of {tasks}"

    def _check_nobody_waits_beside_units(self, look: Look) -> None:
        """Never stuck: whoever has room stands in the line of a limit that has not enough for it."""
        if look.state.is_serving:
            return  # the next calls do
        for limit, ids in look.state.lines.items():
            for id in ids:
                if look.has_room(id):
                    assert look.lacks(id, limit), f"{id} has room and waits, though {limit} has units for it"

    def _check_order(self, before: Look, look: Look, sync: Sync | None) -> None:
        """In order: among requests of one limit alone none is granted before an older one with room, heavy or not."""
        for (name, _), grant in look.granted_since(before).items():
            young = f"{name}:{grant.set}"
            arrival = self._arrival(before, look, young, grant.task_id, sync)
            if len(grant.claims) > 1 or arrival is None:
                continue
            limit = grant.claims[0].limit
            for old in look.state.lines.get(limit, []):
                want = look.state.wants[old]
                known = before.state.wants.get(old, {"r": []})["r"]
                stood = old in before.state.lines.get(limit, []) and want["r"][0] in known and len(want["c"]) == 1
                is_overtaken = stood and look.has_room(old) and look.order(old) < f"{arrival}{US}{young}"
                # (In which order its own are served, a session says.)
                assert old == young or not is_overtaken, f"{young} was granted {limit} before {old}"

    def _arrival(self, before: Look, look: Look, want: str, task: str, sync: Sync | None) -> str | None:
        for arrival, id, _ in before.state.wants.get(want, {"r": []})["r"]:
            if id == task:
                return str(arrival)
        for told in sync.wants if sync is not None and sync.session == owner_of(want) else ():
            for row in told.requests:
                if row.task_id == task:
                    return f"{look.clock * 1000 - int(row.age * 1e6):016d}"
        return None

    def _check_stated(self, client: Client, said: Said, reply: Synced) -> None:
        """No leak: just after an answer Redis has neither more nor less of a session than it knows of."""
        name, look = client.session.name, self.look
        assert not reply.unclear
        assert look.units(name) == said.held + sum_of(grant.claims for grant in reply.grants)
        assert look.state.rooms[name] == said.sync.room - len(reply.grants)
        wants = {id: [row[1] for row in want["r"]] for id, want in look.state.wants.items() if owner_of(id) == name}
        assert wants == {f"{name}:{line.number}": line.told for line in client.lines.values() if line.told}
        grants = {number: grant for (owner, number), grant in look.grants.items() if owner == name}
        assert grants.keys() == client.granted.keys()
        for number, task_id in client.granted.items():
            if number > self.before.last_grant.get(name, 1):  # of an earlier one Redis knew other requests
                assert task_id == grants[number].task_id
        rows = [*client.stated.items(), *((grant.task_id, grant.claims) for grant in grants.values())]
        shown = {(limit, f"id-{n}") for limit, each in look.state.shown.items() for owner, n in each if owner == name}
        assert shown == {(limit, task_id) for task_id, claims in rows for limit, _ in claims}

    # -- How a client calls ------------------------------------------------------------------------------

    def _client(self, which: int, wanted: Callable[[Client], bool] = lambda client: True) -> Client:
        found = [client for client in self.clients if wanted(client)]
        return found[which % len(found)]

    def _submit(self, client: Client, wishes: Iterable[tuple[str, int]], age: float = 0.0) -> None:
        claims = tuple(Claim(limit, weight if self.is_heavy else 1) for limit, weight in sorted(wishes))
        client.submit(client.new_task(claims, self.namespace.time() - age))

    def _use_spare(self, client: Client, passes: bool) -> None:
        if passes and client.session.name in self.look.alive():
            client.use_spare()

    def _session(self, **how: Any) -> Twin:
        self.opened += 1
        name = f"s{self.opened}"
        how = {"interval": INTERVAL, "timeout": TIMEOUT, **how}
        self.beats[name] = (how["interval"], how["timeout"])
        session = Twin(self.namespace, name, states=False, **how)
        self.namespace.reopen()
        session.config = how.get("config")  # type: ignore[attr-defined]
        session.catch_up()
        return session.listen()  # type: ignore[return-value]

    def _sync(self, client: Client, fate: str, *, full: bool) -> None:
        said = client.collect(full=full)
        if fate in ("request lost", "late"):
            client.needs_statement = True
            if fate == "late":
                self.late.append((client, said))
            return
        reply = self._deliver(client, said)
        if reply.status == "closed":
            self._reopen(client)
        elif fate == "reply lost":
            client.needs_statement = True
        else:
            assert reply.status == "ok"
            client.take(reply.grants)
            self._check_stated(client, said, reply)
            client.apply(said.sync.number, reply)
        if fate == "doubled":  # (it may do work that was left, and so grant something)
            assert self._deliver(client, said).status == ("closed" if reply.status == "closed" else "stale")

    def _deliver(self, client: Client, said: Said) -> Synced:
        """Carry a sync to Redis, early or late."""
        sync = said.sync
        newest = self.delivered.get(sync.session, 0)
        reply = self.namespace.store.sync(sync)
        is_late = sync.number <= newest
        assert reply.status in (("stale" if is_late else "ok"), "closed")
        self.delivered[sync.session] = max(newest, sync.number)
        if reply.status == "ok" and sync.session == client.session.name:
            for task in client.running:
                task.counted = said.claims.get(task.id, task.counted)
        before = self.look
        self.check(sync if reply.status == "ok" else None)
        if is_late and before.state.leases.keys() == self.look.state.leases.keys() and self.work == WORK:
            assert before.state == self.look.state, "a stale sync changed something"
        return reply

    def _reopen(self, client: Client) -> None:
        """Its lease ran out: a new session, with what it runs still."""
        old = client.session
        old.deaf()
        session = self._session(
            slots=old.slots,
            interval=old.interval,
            timeout=old.timeout,
            config=old.config,  # type: ignore[attr-defined]
            held={task.number: task.claims for task in client.running if task.claims},
            fence=old.fence,
            former=old.former,
        )
        session.numbers = old.numbers
        client.begin(session)
        client.set_table(session.table)
        self.check(opened=session.name)
        self._sync(client, "ok", full=True)

    # -- The end -----------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self._drain()
        finally:
            self.namespace.close()

    def _drain(self) -> None:
        """Everybody who waits is served in the end, two at a time, and nothing stays."""
        for limit in LIMITS:
            self.namespace.store.set(limit, 2, by="model")
            self.check()
            self.namespace.store.pause(limit, False, by="model")
            self.check()
        for client in self.clients:
            client.session.slots = max(client.session.slots, 1)
        rounds = 60 + sum(len(client.waiting()) + len(client.running) for client in self.clients) * 2
        for _ in range(rounds):
            for client in list(self.clients):
                self._sync(client, "ok", full=True)
                for task in list(client.running):
                    client.end(task)
                client.give_back_spare()
                self._sync(client, "ok", full=False)
            # the dead run out on the way
            self.namespace.step_wall_clock(INTERVAL)
            if not any(client.waiting() or client.running for client in self.clients):
                break
        left = [(c.session.name, c.waiting(), c.running) for c in self.clients if c.waiting() or c.running]
        assert not left, f"somebody waits for ever: {left} in {self.look}"
        for _ in range(100):
            if len(self.look.state.leases) == len(self.clients):
                break
            self.namespace.step_wall_clock(INTERVAL)
            for client in list(self.clients):
                self._sync(client, "ok", full=True)
            self.namespace.call()
            self.check()
        self.check()
        assert (self.look.state.wants, self.look.state.units) == ({}, {})
        for client in self.clients:
            self.namespace.store.close_session(client.session.name)
        for limit in LIMITS:
            self.namespace.store.reset(limit, by="model")
        for _ in range(100):
            if not self.look.unused:
                break
            self.namespace.step_wall_clock(1.0)
            self.namespace.store.status()
            self.check()
        assert self.namespace.left_behind() == {}


@pytest.mark.timeout(400)  # a failure is made smaller before it is shown: for up to five minutes
@pytest.mark.parametrize("each", [WORK, 1], ids=["at once", "bit by bit"])
def test_whatever_sessions_do_and_whatever_gets_lost_the_promises_hold(redis_url: str, each: int):
    class OnThisRedis(Model):
        url = redis_url
        work = each

    run_state_machine_as_test(
        OnThisRedis,
        settings=settings(
            max_examples=int(os.environ.get("GCONC_MODEL_EXAMPLES", "25")) // (1 if each == WORK else 5),
            stateful_step_count=40,
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
