"""Random sessions against a plain model of what each of them really runs.

    rules -> Client (a worker in a few lines: its tasks, what it was told) -> Store -> Redis
    check <- Namespace (the raw sorted sets) and the clients' tasks: never what the scripts say of themselves

After every call: no grant above a max, no task under a limit that isn't counted, no waiter beside a free place,
nobody overtaken, nothing left over. At the end: everybody who still waits is served, and nothing stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from celery_gconc.protocol.messages import Ask, Grant, Held, Sync, Synced
from celery_gconc.protocol.replies import limits_of
from celery_gconc.protocol.scripts import TURNS, WORK

from .namespace import INTERVAL, TIMEOUT, Request, Session, State, TimedNamespace

LIMITS = ("pool:a", "pool:b", "pool:c")

#: What happens to a sync: mostly nothing.
FATES = st.sampled_from(["ok", "ok", "ok", "ok", "request lost", "reply lost", "doubled", "late"])

some_limits = st.lists(st.sampled_from(LIMITS), min_size=1, max_size=3, unique=True).map(tuple)
some_client = st.integers(0, 3)

#: Heartbeat settings that sessions have, one beside the other: interval and timeout.
some_beats = st.sampled_from([(INTERVAL, TIMEOUT), (INTERVAL, TIMEOUT), (1.0, 4.0), (2.0, 24.0), (20.0, 40.0)])


@dataclass
class Task:
    """A task with the limits that could cover it, and those that it has a permit of, or asks for."""

    names: tuple[str, ...]
    limits: tuple[str, ...] = ()
    arrived: float = 0.0


@dataclass
class Client:
    """A worker as the store knows it. It starts what it is granted at once, and gives back what finds no slot."""

    session: Session
    running: dict[int, Task] = field(default_factory=dict)
    asked: dict[int, Task] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    unasked: set[int] = field(default_factory=set)
    unstated: set[int] = field(default_factory=set)
    needs_statement: bool = True
    #: Whether all that it runs was stated by the table that holds; not so after its lease ran out.
    is_known: bool = True

    @property
    def room(self) -> int:
        return self.session.slots - len(self.running)

    def covering(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.session.table)

    def number(self) -> int:
        self.session.numbers += 1
        return self.session.numbers

    def submit(self, task: Task) -> None:
        task.limits = self.covering(task.names)
        number = self.number()
        if task.limits:
            self.asked[number] = task
            self.unasked.add(number)
        elif self.room > 0:
            self.running[number] = task

    def end(self, number: int) -> None:
        task = self.running.pop(number, None) or self.asked.pop(number)
        self.unstated.discard(number)
        if number in self.unasked:
            self.unasked.discard(number)  # Redis never heard of it
        elif task.limits:
            self.ended.append(number)

    def statement(self) -> list[Held]:
        return [Held(number, task.limits) for number, task in self.running.items() if task.limits]

    def collect(self, *, full: bool) -> Sync:
        full = full or self.needs_statement
        moment = self.session.namespace.time()
        asks = [
            Ask(number, task.limits, moment - task.arrived)
            for number, task in sorted(self.asked.items(), key=lambda item: item[1].arrived)
            if full or number in self.unasked
        ]
        held = [item for item in self.statement() if full or item.number in self.unstated]
        sync = self.session.prepare(ended=() if full else self.ended, asks=asks, held=held, full=full, room=self.room)
        self.ended, self.unasked, self.unstated, self.needs_statement = [], set(), set(), False
        return sync

    def take(self, grants: Iterable[Grant]) -> None:
        for grant in grants:
            if grant.grant <= self.session.granted:
                continue
            self.session.granted = grant.grant
            task = self.asked.pop(grant.number, None)
            self.unasked.discard(grant.number)
            if task is None:
                self.ended.append(grant.number)
            elif self.room > 0:
                self.running[grant.number] = task
            else:
                self.ended.append(grant.number)
                self.submit(task)

    def set_table(self, table: dict[str, int]) -> None:
        self.session.table = table
        for number, task in self.running.items():
            limits = self.covering(task.names)
            if limits and limits != task.limits:
                task.limits = limits
                self.unstated.add(number)
        for number, task in list(self.asked.items()):
            if self.covering(task.names) != task.limits:
                self.end(number)
                self.submit(task)

    def apply(self, reply: Synced) -> None:
        self.take(reply.grants)
        self.is_known = self.is_known or reply.table is None
        self.session.version = reply.version
        if reply.table is not None:
            self.set_table(dict(reply.table))


class Model(RuleBasedStateMachine):
    """Rules over up to four clients and three limits."""

    url = ""
    work = WORK

    def __init__(self) -> None:
        super().__init__()
        self.namespace = TimedNamespace(self.url, self.work)
        self.clients: list[Client] = []
        self.opened = 0
        self.beats: dict[str, tuple[float, float]] = {}
        self.late: list[tuple[Client, Sync]] = []
        self.delivered: dict[str, int] = {}
        self.state = self.namespace.look()

    # -- Rules -------------------------------------------------------------------------------------------

    @initialize(
        slots=st.lists(st.integers(1, 3), min_size=2, max_size=3),
        beats=st.lists(some_beats, min_size=3, max_size=3),
        maxima=st.tuples(*[st.sampled_from([1, 1, 2, None]) for _ in LIMITS]),
    )
    def begin(self, slots: list[int], beats: list[tuple[float, float]], maxima: tuple[int | None, ...]) -> None:
        for limit, maximum in zip(LIMITS, maxima, strict=True):
            if maximum is not None:
                self.namespace.store.set(limit, maximum, by="model")
        for count, (interval, timeout) in zip(slots, beats, strict=False):
            self.clients.append(Client(self._session(slots=count, config={}, interval=interval, timeout=timeout)))
        self.check()

    @precondition(lambda self: len(self.clients) < 4)
    @rule(
        slots=st.integers(0, 4),
        config=st.dictionaries(st.sampled_from(LIMITS), st.integers(0, 3), max_size=2),
        beats=some_beats,
    )
    def open(self, slots: int, config: dict[str, int], beats: tuple[float, float]) -> None:
        interval, timeout = beats
        self.clients.append(Client(self._session(slots=slots, config=config, interval=interval, timeout=timeout)))
        self.check()

    @precondition(lambda self: self.clients)
    @rule(
        which=some_client,
        names=st.lists(some_limits, min_size=1, max_size=4),
        age=st.integers(0, 20),
        fate=FATES,
        full=st.booleans(),
    )
    def submit(self, which: int, names: list[tuple[str, ...]], age: int, fate: str, full: bool) -> None:
        client = self._client(which)
        for some in names:
            client.submit(Task(some, arrived=self.namespace.time() - age))
        self._sync(client, fate, full=full)

    @precondition(lambda self: any(client.running for client in self.clients))
    @rule(
        which=some_client, count=st.integers(1, 2), index=st.integers(0, 3), fate=FATES, again=st.none() | some_limits
    )
    def finish(self, which: int, count: int, index: int, fate: str, again: tuple[str, ...] | None) -> None:
        client = self._client(which, lambda c: bool(c.running))
        for _ in range(count):
            if client.running:
                client.end(list(client.running)[index % len(client.running)])
        if again:
            client.submit(Task(again, arrived=self.namespace.time()))
        self._sync(client, fate, full=False)

    @precondition(lambda self: self.clients)
    @rule(limits=st.lists(some_limits, min_size=1, max_size=6))
    def work_on(self, limits: list[tuple[str, ...]]) -> None:
        """One task ends and another comes, in turns: this is how waiters move from line to line."""
        for index, names in enumerate(limits):
            client = self._client(index)
            self._sync(client, "ok", full=False)
            if client.running:
                client.end(next(iter(client.running)))
            client.submit(Task(names, arrived=self.namespace.time()))
            self._sync(client, "ok", full=False)

    @precondition(lambda self: any(client.asked for client in self.clients))
    @rule(which=some_client, fate=FATES)
    def withdraw(self, which: int, fate: str) -> None:
        client = self._client(which, lambda c: bool(c.asked))
        client.end(next(iter(client.asked)))
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
        client, sync = self.late.pop(which % len(self.late))
        self._deliver(client, sync)

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
        assert client.session.name not in self.state.leases

    @rule(limit=st.sampled_from(LIMITS), maximum=st.integers(0, 3))
    def set(self, limit: str, maximum: int) -> None:
        self.namespace.store.set(limit, maximum, by="model")
        self.check()
        assert self.namespace.store.status(limit)[limit].paused or self.state.maxima[limit] == maximum

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
            assert self.state.maxima[limit] == 0

    @rule(intervals=st.integers(1, 4), is_beating=st.booleans())
    def elapse(self, intervals: int, is_beating: bool) -> None:
        """Time passes. Where nobody beats, leases run out under their clients, who find out with their next sync."""
        for _ in range(intervals):
            self.namespace.step_wall_clock(INTERVAL)
            if is_beating:
                for client in list(self.clients):
                    self._sync(client, "ok", full=True)
            self.namespace.store.status()
            self.check()

    @rule(hours=st.integers(-100, 100))
    def step_clock(self, hours: int) -> None:
        before = self.state.leases
        clock = self.namespace.clock() if before else 0
        step = self.state.least_interval * 1000
        self.namespace.step_wall_clock(hours * 3600)
        self.namespace.store.status()
        self.check()
        if before:
            assert clock <= self.namespace.clock() <= clock + step
            assert {name for name, lease in before.items() if lease > clock + step} <= set(self.state.leases)

    # -- What must hold ----------------------------------------------------------------------------------

    def check(self, adopted: Iterable[Request] = ()) -> None:
        """Look at Redis as it is, after each call that may have changed it."""
        before, self.state = self.state, self.namespace.look()
        self._check_whole(self.state)
        self._check_flags(self.state)
        self._check_heartbeats(self.state)
        for limit in LIMITS:
            holders = self.state.holders.get(limit, [])
            granted = set(holders) - set(before.holders.get(limit, [])) - set(adopted)
            self._check_max(self.state, limit, granted)
            self._check_counted(self.state, limit)
            self._check_order(before, self.state, limit, granted)
        self._check_no_waiter_beside_a_place(self.state)

    def _check_whole(self, state: State) -> None:
        """Every request is where its record says, and nowhere else; none is of a session that ended."""
        for id, record in state.requests.items():
            assert id[0] in state.leases, f"{id} of a session that ended"
            stands, holds, held_back = (
                [limit for limit in LIMITS if id in places.get(limit, [])]
                for places in (state.lines, state.holders, state.reserved)
            )
            limits = sorted(limits_of(record["c"]))
            if record["g"] > 0:
                assert (stands, holds, held_back) == ([], limits, []), id
            else:
                assert (stands, holds) == ([record["at"]], []), id
                assert record["at"] in limits
                assert held_back == (limits if record["k"] >= TURNS else []), id
        for places in (state.holders, state.lines, state.reserved):
            assert all(id in state.requests for ids in places.values() for id in ids)
        assert state.rolled == len(state.requests)

    def _check_flags(self, state: State) -> None:
        """A limit is contended just while somebody waits for it, and by whom: else no holder would be told."""
        for limit in LIMITS:
            waiting = {name for name, _ in state.lines.get(limit, []) + state.reserved.get(limit, [])}
            flag = state.contended.get(limit)
            assert bool(flag) == bool(waiting), f"{limit} is contended by {flag}, but waited for by {waiting}"
            assert flag in (None, "*") or waiting == {flag}, f"{limit}: {flag} is not all of {waiting}"

    def _check_heartbeats(self, state: State) -> None:
        """A step of the lease clock is no longer than the interval of any live session; others have left nothing."""
        live = [self.beats[name] for name in state.leases if name not in state.ending]
        assert state.heartbeats == sorted(live)
        if live:
            assert state.least_interval == min(interval for interval, _ in live)

    def _check_max(self, state: State, limit: str, granted: set[Request]) -> None:
        """Never above the limit: what is above it was stated, or there before it was lowered."""
        if limit in state.maxima and granted:
            assert len(state.holders[limit]) <= state.maxima[limit], f"{granted} granted above {limit}"
            assert limit not in state.settling, f"{granted} granted while {limit} settles"

    def _check_counted(self, state: State, limit: str) -> None:
        """Every task that really runs under a limit counts, whoever learnt of the limit when."""
        if limit not in state.maxima or limit in state.settling:
            return
        for client in self.clients:
            if client.session.name in state.leases.keys() - state.ending and client.is_known:
                runs = {(client.session.name, n) for n, task in client.running.items() if limit in task.names}
                uncounted = runs - set(state.holders.get(limit, []))
                assert not uncounted, f"{limit} doesn't count {uncounted}"

    def _check_no_waiter_beside_a_place(self, state: State) -> None:
        """Never stuck: who has room and a place in each limit doesn't stand in line."""
        if state.is_serving:
            return  # the next calls do
        for ids in state.lines.values():
            for id in ids:
                if state.rooms[id[0]] > 0:
                    limits = limits_of(state.requests[id]["c"])
                    has_places = all(self._has_place(state, limit, id) for limit in limits)
                    assert not has_places, f"{id} has room and waits, though {limits} have a place"

    def _has_place(self, state: State, limit: str, id: Request) -> bool:
        maximum = state.maxima.get(limit)
        if maximum is None:
            return True
        is_one_held_back = any(
            state.rooms[other[0]] > 0 and _place(state, other) < _place(state, id)
            for other in state.reserved.get(limit, [])
        )
        return limit not in state.settling and len(state.holders.get(limit, [])) + is_one_held_back < maximum

    def _check_order(self, before: State, state: State, limit: str, granted: set[Request]) -> None:
        """In order: among requests of this limit alone none is granted before an older one with room."""
        for young in granted:
            if state.requests[young]["c"] != [[limit, 1]]:
                continue
            for old in state.lines.get(limit, []):
                stood = old in before.lines.get(limit, []) and state.requests[old]["c"] == [[limit, 1]]
                is_overtaken = stood and state.rooms[old[0]] > 0 and _place(state, old) < _place(state, young)
                assert not is_overtaken, f"{young} was granted {limit} before {old}"

    def _check_stated(self, client: Client) -> None:
        """No leak: just after a statement Redis has neither more nor less of a session than it knows of."""
        mine = {n: record for (name, n), record in self.state.requests.items() if name == client.session.name}
        held = {n: set(limits_of(record["c"])) for n, record in mine.items() if record["g"] > 0}
        told = {n for n in client.running if n not in client.unstated}  # the rest goes with the next sync
        runs = {n: set(client.running[n].limits) for n in told if client.running[n].limits}
        assert {n: held[n] for n in held if n not in client.ended and n not in client.unstated} == runs
        asked = {n for n in client.asked if n not in client.unasked} | {n for n in client.ended if n not in held}
        assert {n for n, record in mine.items() if record["g"] == 0} == asked

    # -- How a client calls ------------------------------------------------------------------------------

    def _client(self, which: int, wanted: Any = lambda client: True) -> Client:
        found = [client for client in self.clients if wanted(client)]
        return found[which % len(found)]

    def _session(self, **how: Any) -> Session:
        self.opened += 1
        how = {"interval": INTERVAL, "timeout": TIMEOUT, **how}
        self.beats[f"s{self.opened}"] = (how["interval"], how["timeout"])
        session = self.namespace.session(f"s{self.opened}", states=False, **how)
        self.namespace.reopen()
        session.config = how.get("config")  # type: ignore[attr-defined]
        return session.listen()

    def _sync(self, client: Client, fate: str, *, full: bool) -> None:
        sync = client.collect(full=full)
        if fate in ("request lost", "late"):
            client.needs_statement = True
            if fate == "late":
                self.late.append((client, sync))
            return
        reply = self._deliver(client, sync)
        if fate == "doubled":
            assert self._deliver(client, sync).status == ("closed" if reply.status == "closed" else "stale")
        if reply.status == "closed":
            self._reopen(client)
        elif fate == "reply lost":
            client.needs_statement = True
        else:
            assert reply.status == "ok"
            client.apply(reply)
            if sync.full:
                self._check_stated(client)

    def _deliver(self, client: Client, sync: Sync) -> Synced:
        """Carry a sync to Redis, early or late."""
        newest = self.delivered.get(sync.session, 0)
        reply = self.namespace.store.sync(sync)
        is_late = sync.number <= newest
        assert reply.status in (("stale" if is_late else "ok"), "closed")
        self.delivered[sync.session] = max(newest, sync.number)
        before = self.state
        self.check(() if is_late else [(sync.session, item.number) for item in sync.held])
        if is_late and before.leases.keys() == self.state.leases.keys() and self.work == WORK:
            assert before == self.state, "a stale sync changed something"
        return reply

    def _reopen(self, client: Client) -> None:
        """Its lease ran out: a new session, with what it runs still."""
        old = client.session
        old.deaf()
        for number in list(client.asked):
            task = client.asked.pop(number)
            client.asked[client.number()] = task
        held = client.statement()
        session = self._session(
            slots=old.slots,
            interval=old.interval,
            timeout=old.timeout,
            config=old.config,  # type: ignore[attr-defined]
            held=held,
            version=old.version,
            former=old.former,
        )
        session.numbers = old.numbers
        client.session, client.ended, client.unasked, client.unstated = session, [], set(), set()
        client.needs_statement, client.is_known = True, False
        client.set_table(session.table)
        self.check([(session.name, item.number) for item in held])
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
        rounds = 60 + sum(len(client.asked) + len(client.running) for client in self.clients) * 2
        for _ in range(rounds):
            for client in list(self.clients):
                self._sync(client, "ok", full=True)
                for number in list(client.running):
                    client.end(number)
                self._sync(client, "ok", full=False)
            # the dead run out on the way
            self.namespace.step_wall_clock(INTERVAL)
            if not any(client.asked or client.running for client in self.clients):
                break
        left = [(client.session.name, client.asked) for client in self.clients if client.asked or client.running]
        assert not left, f"somebody waits for ever: {left} in {self.state}"
        for _ in range(100):
            if len(self.state.leases) == len(self.clients):
                break
            self.namespace.step_wall_clock(INTERVAL)
            for client in list(self.clients):
                self._sync(client, "ok", full=True)
            self.namespace.store.status()
            self.check()
        self.check()
        assert self.state.requests == {}
        for client in self.clients:
            self.namespace.store.close_session(client.session.name)
        for limit in LIMITS:
            self.namespace.store.reset(limit, by="model")
        assert self.namespace.left_behind() == {}


def _place(state: State, id: Request) -> tuple[str, str]:
    """Where a request stands, in every line: by arrival, then by name."""
    return state.requests[id]["a"], f"{id[0]}:{id[1]}"


@pytest.mark.timeout(400)  # a failure is made smaller before it is shown: for up to five minutes
@pytest.mark.parametrize("each", [WORK, 1], ids=["at once", "bit by bit"])
def test_whatever_sessions_do_and_whatever_gets_lost_the_promises_hold(redis_url: str, each: int):
    class OnThisRedis(Model):
        url = redis_url
        work = each

    run_state_machine_as_test(
        OnThisRedis,
        settings=settings(
            max_examples=int(os.environ.get("GCONC_MODEL_EXAMPLES", "150")) // (1 if each == WORK else 5),
            stateful_step_count=40,
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
