"""A ledger and what Redis has of it agree, whatever comes in between: at random, with a Redis of a few lines."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from celery_gconc.limits.claims import Claim, Claims, limits_of
from celery_gconc.protocol.changes import Changes
from celery_gconc.protocol.messages import Grant, Notice, Sync, Synced
from celery_gconc.worker.ledger.ledger import Ledger
from celery_gconc.worker.ledger.lines import Line
from tests.kit.tables import leading, whole

from .test_ledger import Bell, Clock, Pool, Request

LIMITS = ("a", "b", "c")

#: What requests claim, as far as these are limits.
SETS: tuple[Claims, ...] = (
    (Claim("a"),),
    (Claim("a"), Claim("b")),
    (Claim("b", 2),),
    (Claim("a"), Claim("b"), Claim("c")),
    (Claim("a", 2), Claim("c")),
    (Claim("c"),),
)

#: After so many steps all that is under way arrives, and both sides are compared.
STEPS, ROUND = 120, 10

#: A request that Redis has: its task, and when it arrived there.
Told = tuple[str, float]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time, and it stands still."""
    return Clock(monkeypatch)


class Redis:
    """What ``lua/session/sync.lua`` does with the units and wants of one session. It grants what its test says."""

    def __init__(self) -> None:
        self.begin({})

    def begin(self, units: dict[str, int]) -> None:
        """A session is opened."""
        self.units = dict(units)
        self.wants: dict[int, tuple[Claims, list[Told]]] = {}
        self.granted: list[Grant] = []
        self.last_grant, self.last_sync, self.fence = 1, 0, 0

    def grant(self, number: int) -> None:
        """The first of a want gets its units."""
        claims, requests = self.wants[number]
        del requests[0]
        if not requests:
            del self.wants[number]
        self.last_grant += 1
        self.granted.append(Grant(self.last_grant, number, claims, self.last_grant))
        for limit, weight in claims:
            self.units[limit] = self.units.get(limit, 0) + weight

    def sync(self, sync: Sync, moment: float) -> bool:
        """Take in what a session says; return whether that is clear."""
        unknown = [grant for grant in self.granted if grant.grant > sync.granted]
        later: dict[str, int] = {}
        for grant in unknown:
            for limit, weight in grant.claims:
                later[limit] = later.get(limit, 0) + weight
        known = {} if sync.full else self.units
        self.units = {**known, **later, **{limit: n + later.get(limit, 0) for limit, n in sync.units.items()}}
        if not sync.full:
            self.units.update({limit: n for limit, n in known.items() if limit not in sync.units})
        self.units = {limit: n for limit, n in self.units.items() if n}
        if sync.full:
            self.granted = unknown
        was, is_clear = self.wants, True
        self.wants = {} if sync.full else dict(was)
        for want in sync.wants:
            told = was.get(want.set, ((), []))[1]
            granted = sum(grant.set == want.set for grant in unknown)
            kept = max(want.kept - granted, 0)
            requests = told[want.skip : want.skip + kept]
            if len(requests) < kept:
                is_clear = False
                continue
            by_task = {request[0]: request for request in told}
            for row in want.requests[max(granted - want.kept, 0) :]:
                requests.append(by_task.get(row.task_id, (row.task_id, moment - row.age)))
            self.wants.pop(want.set, None)
            if requests:
                self.wants[want.set] = (want.claims, requests)
        return is_clear


class Both:
    """A ledger, and a Redis that is told of it and grants it something."""

    def __init__(self, seed: int, clock: Clock) -> None:
        self.random, self.clock = random.Random(seed), clock
        self.pool, self.table, self.version = Pool(3), dict.fromkeys(LIMITS, 3), 1
        self.ledger: Ledger[Request] = Ledger(self.table, pool=self.pool, bell=Bell())
        self.redis = Redis()
        self.contended: dict[str, int] = {}
        self.running: list[Request] = []
        #: Whether the gate is to look for something to start.
        self.has_news = False
        self.count = self.syncs = self.unclear = self.last_number = 0
        self.open()

    # -- What happens ------------------------------------------------------------------------------------

    def open(self) -> None:
        """A session is opened; meanwhile the worker goes on."""
        stated = self.ledger.holdings()
        for step in self.random.choices((self.end, self.come, self.leave, self.pump), k=self.random.randrange(4)):
            step()
        self.redis.begin(dict(stated.units))
        self.ledger.opened("s", self.version, self.clock.time + 1e6)

    def come(self) -> None:
        """A request comes to the gate."""
        self.count += 1
        self.clock.time += 0.001
        request = Request(self.random.choice(SETS), task_id=f"t{self.count}", arrived=self.clock.time)
        ahead = self.lacking()
        if not self.ledger.covering(request.candidates):
            return
        if self.random.random() < 0.5 and self.ledger.start(request):
            self.check_order(request, ahead)
            self.has_started(request)
        else:
            self.ledger.wait(request)

    def pump(self) -> None:
        """The gate starts what it can."""
        self.has_news = False
        self.ledger.uncovered()
        ahead = self.lacking()
        while (request := self.ledger.next()) is not None:
            assert request.permit is not None
            if not request.permit.grant:
                self.check_order(request, ahead)
            self.has_started(request)
            ahead = self.lacking()
        self.ledger.slots_changed()

    def has_started(self, request: Request) -> None:
        assert request.permit is not None
        assert request.permit.fencing_number > self.last_number
        self.last_number = request.permit.fencing_number
        self.running.append(request)

    def end(self) -> None:
        """A task ends, after which the gate looks for the next."""
        if self.running:
            self.has_news = True
            self.ledger.ended(self.running.pop(self.random.randrange(len(self.running))))

    def leave(self) -> None:
        """A request is revoked."""
        if waiting := self.ledger.waiting():
            self.ledger.leave(self.random.choice(waiting))

    def grant(self) -> None:
        """Redis grants something, and says so or not; what it says may follow on what was lost."""
        if self.redis.wants:
            self.redis.grant(self.random.choice(list(self.redis.wants)))
        told = self.redis.granted[self.random.randrange(len(self.redis.granted) + 1) :]
        contended = self.contended if self.random.random() < 0.3 else {}
        self.has_news = self.ledger.notice(Notice(tuple(told), contended)) or self.has_news

    def contend(self) -> None:
        """Others wait for some limits."""
        self.contended = {limit: self.random.randrange(3) for limit in LIMITS if self.random.random() < 0.4}
        if self.random.random() < 0.5:
            self.ledger.notice(Notice(contended=self.contended))

    def change_slots(self) -> None:
        self.pool.startable = self.random.randrange(5)
        self.ledger.slots_changed()

    def change_table(self) -> None:
        """Limits begin, end and have another max; the ledger hears of it with its next sync."""
        self.version += 10
        self.table = {limit: self.random.randrange(1, 4) for limit in LIMITS if self.random.random() < 0.8}

    def pass_time(self) -> None:
        self.clock.time += 0.12
        self.ledger.retire_idle()

    def sync(self, *, may_fail: bool = True) -> None:
        """A round trip, with grants while it is under way. The sync may be lost, or its answer."""
        self.syncs += 1
        sync = self.ledger.collect("e", self.syncs, confirmed=0, full=self.random.random() < 0.2)
        fate = self.random.choice(("lost", "unanswered", "answered", "answered")) if may_fail else "answered"
        for is_after in (False, True):
            if is_after and fate != "lost" and not self.redis.sync(sync, self.clock.time):
                self.unclear += 1
            if may_fail and self.random.random() < 0.4:
                self.grant()
        if fate != "answered":
            self.ledger.sync_failed()
            return
        answer = Synced(
            "ok",
            self.version,
            tuple(grant for grant in self.redis.granted if grant.grant > sync.granted),
            self.contended,
            changes=self._changes(sync),
            fence=self.redis.last_grant if sync.full else 0,
            unclear=False,
        )
        ends = self.clock.time + 1e6
        self.has_news = self.ledger.apply(answer, ends, ends) or self.has_news

    def _changes(self, sync: Sync) -> Changes | None:
        known = sync.version if sync.known is None else sync.known
        if known == self.version:
            return None
        if known < 0 or self.random.random() < 0.2:
            changes = whole(self.table, self.version)
        else:
            changes = leading(self.ledger._told._limits, self.table, known, self.version)
        if changes.rows and self.random.random() < 0.4:  # the first piece
            return replace(changes, version=self.version - 1, rows=changes.rows[: self.random.randrange(3)])
        return changes

    def step(self) -> None:
        """Something happens."""
        self.clock.time += self.random.random() * 0.02
        steps = {
            self.come: 22, self.pump: 24, self.end: 16, self.leave: 4, self.grant: 8, self.change_slots: 3,
            self.pass_time: 3, self.contend: 3, self.change_table: 1, self.open: 1, self.sync: 19,
        }  # fmt: skip
        self.random.choices(list(steps), list(steps.values()))[0]()

    def settle(self) -> None:
        """All that is under way arrives, and the gate does what it can."""
        for _ in range(10):
            self.clock.time += 0.05
            self.sync(may_fail=False)
            if self.has_news:
                self.pump()
            elif self.ledger.due_at is None:
                return
        pytest.fail("there is always something to say")

    def finish(self) -> None:
        """All tasks end, nothing waits any more, and what is spare becomes idle."""
        while self.running:
            self.end()
        self.ledger.leave_all()
        self.ledger.uncovered()
        for _ in range(3):
            self.settle()
            self.pass_time()
        self.settle()

    # -- What holds --------------------------------------------------------------------------------------

    @property
    def lines(self) -> list[Line[Request]]:
        return list(self.ledger._lines.by_claims.values())

    def lacking(self) -> list[tuple[float, Claims]]:
        """Who waits for units, and for which."""
        return [(request.arrived, line.claims) for line in self.lines for request in self.behind(line)]

    def behind(self, line: Line[Request]) -> Sequence[Request]:
        """Those of a line that were granted nothing."""
        return list(line.some(len(line.granted), line.waiting))

    def check_order(self, request: Request, ahead: list[tuple[float, Claims]]) -> None:
        """It starts with units of ours: nobody who came before it lacks any of these limits."""
        ours = set(limits_of(request.claims))
        assert not [arrived for arrived, claims in ahead if arrived < request.arrived and ours & {*limits_of(claims)}]

    def check_units(self) -> None:
        """Each unit is used by a task, was granted for a request that waits here, or is spare."""
        used, new = dict.fromkeys(LIMITS, 0), dict.fromkeys(LIMITS, 0)
        for request in self.ledger.covered():
            assert request.permit is not None
            for limit, weight in request.permit.claims:
                used[limit] += weight
        for line in self.lines:
            assert len(line.granted) <= line.waiting
            for limit, weight in line.claims:
                new[limit] += weight * len(line.granted)
        holdings = self.ledger._holdings.by_limit
        assert {limit: holding.used for limit, holding in holdings.items() if holding.used} == _some(used)
        assert {limit: holding.new for limit, holding in holdings.items() if holding.new} == _some(new)
        assert all(holding.held and 0 <= holding.least_spare <= holding.spare for holding in holdings.values())

    def check_agreement(self) -> None:
        """With nothing under way, Redis has what the ledger has, and asks for whoever lacks something."""
        assert self.redis.units == {limit: holding.held for limit, holding in self.ledger._holdings.by_limit.items()}
        told = {line.number: [request.task_id for request in line.told] for line in self.lines if line.told}
        assert {number: [task for task, _ in rows] for number, (_, rows) in self.redis.wants.items()} == told
        for line in self.lines:
            ahead = self.ledger._asks._ahead(line)
            assert line.asked == len(line.told)
            assert line.asked > 0 or line.waiting <= ahead
            # Each stands where it belongs, or before: at the position of one of ours that has started or left.
            _, rows = self.redis.wants.get(line.number, ((), []))
            for (_, arrival), request in zip(rows, line.some(ahead, line.asked), strict=True):
                assert arrival <= request.arrived + 1e-6

    def check_spare(self) -> None:
        """No unit is spare but for one of ours, or where nobody waits for it."""
        holdings = self.ledger._holdings
        for limit, holding in holdings.by_limit.items():
            if not holding.spare:
                continue
            first = self.ledger._lines.first_for(limit)
            if first is None:
                assert limit not in self.contended
            else:
                assert holdings.may_pass(first.claims, first)


def _some(counts: dict[str, int]) -> dict[str, int]:
    return {limit: count for limit, count in counts.items() if count}


@pytest.mark.parametrize("seed", range(40))
def test_a_session_and_redis_agree_on_units_and_on_who_waits_and_nobody_of_ours_is_overtaken(clock: Clock, seed: int):
    both = Both(seed, clock)
    for number in range(1, STEPS + 1):
        both.step()
        both.check_units()
        if number % ROUND == 0:
            both.settle()
            both.check_units()
            both.check_agreement()
            both.check_spare()
    both.finish()
    assert both.unclear == 0, "a session never keeps what Redis doesn't have"
    assert both.redis.units == {}
    assert both.redis.wants == {}
    assert both.ledger._holdings.by_limit == {}
    assert both.lines == []
