"""What the tests of the store drive: bare sessions without a worker behind them, and Redis as it really is.

test -> Session -> SessionStore -> Redis;  test <- Namespace (reads the keys themselves, not what status says)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from celery_gconc.limits.claims import Claim, Claims
from celery_gconc.protocol.changes import Changes
from celery_gconc.protocol.keys import KEYSPACE
from celery_gconc.protocol.messages import Grant, Heartbeat, Notice, Row, Running, Sync, Synced, Want, running_text
from celery_gconc.protocol.openings import Former, Opened
from celery_gconc.protocol.scripts import LOOKS, WORK
from celery_gconc.protocol.session_store import SessionStore
from tests.kit.servers import wait_until

#: Of every session unless a test says otherwise, in seconds.
INTERVAL, TIMEOUT = 5.0, 15.0

#: Between the parts of a member of the sorted sets.
US = "\x1f"

#: Stands before a script: its time is the one in the namespace, in us, which goes on by one ms with each script.
CLOCK = """
local real, redis = redis, setmetatable({}, { __index = redis })
function redis.call(command, ...)
  if command ~= 'TIME' then return real.call(command, ...) end
  local us = real.call('HINCRBY', KEYS[1], 'wall', 1000)
  return { math.floor(us / 1e6), us % 1e6 }
end
"""

#: Reads the keys of :class:`State`, in one round trip: returns what calls alone change, and what time does (both JSON).
LOOK = """
local function look()
  local call, sessions, rooms, ending = redis.call, {}, {}, {}
  local function all(key) return call('ZRANGE', key, 0, -1) end
  local function fields(key) return call('HGETALL', key) end
  sessions = call('ZRANGE', %(sessions)s, 0, -1, 'WITHSCORES')
  for number = 1, #sessions, 2 do
    rooms[number], rooms[number + 1] = sessions[number], call('HGET', %(session)s, sessions[number] .. ':room') or '0'
    if call('HEXISTS', %(session)s, sessions[number] .. ':sync') == 0 then table.insert(ending, sessions[number]) end
  end
  local overs = {}
  for number = 1, #sessions, 2 do
    overs[number], overs[number + 1] = sessions[number], call('HGET', %(session)s, sessions[number] .. ':over') or ''
  end
  local keys = {
    fields(%(units)s), fields(%(held)s), all(%(grants)s), fields(%(running)s), overs, all(%(waiters)s),
    all(%(reserved)s), rooms, fields(%(wants)s), fields(%(max)s), call('ZRANGE', %(settling)s, 0, -1, 'WITHSCORES'),
    fields(%(contended)s), call('ZCARD', %(roll)s), all(%(heartbeats)s),
    call('HMGET', %(meta)s, 'interval', 'closed_until', 'served_to', 'all_settle'),
    ending, all(%(todo)s),
  }
  return { cjson.encode(keys), cjson.encode(sessions) }
end
""" % {name: f"KEYS[{number}]" for number, name in enumerate(KEYSPACE, 1)}

#: Keys that may stay when nothing is held, waited for or set.
BOOKKEEPING = {"meta", "changes", "changed", "totals", "recent"}

Request = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of a :class:`Session` that waits; its number is in the id of its task."""

    number: int
    #: Each with its weight, where that isn't 1.
    limits: tuple[str | Claim, ...]
    age: float = 0.0
    #: An id that ends in the number; the usual one where it is empty.
    task_id: str = ""
    task: str = "proj.task"

    @property
    def row(self) -> Row:
        """As it is told."""
        return Row(self.age, self.task_id or f"id-{self.number}", self.task)


@dataclass(frozen=True, slots=True)
class State:
    """The keys of a namespace at one instant, decoded."""

    #: By limit: how many units each session has, and how many all are said to have.
    units: dict[str, dict[str, int]]
    held: dict[str, int]
    #: By limit: which requests people are told to run under it.
    shown: dict[str, list[Request]]
    #: By limit: which wants stand in its line, and for which of them units are held back; by their ids.
    lines: dict[str, list[str]]
    reserved: dict[str, list[str]]
    leases: dict[str, float]
    rooms: dict[str, int]
    wants: dict[str, dict[str, Any]]
    maxima: dict[str, int]
    settling: set[str]
    contended: dict[str, str]
    rolled: int
    #: Interval and timeout (s) of each session that is known by them, in order; and the least interval of all.
    heartbeats: list[tuple[float, float]]
    least_interval: float
    #: Whether grants wait, after a loss of data.
    is_shut: bool
    #: Whether lines are left to be served.
    is_serving: bool
    #: Sessions that have ended and from which not everything is taken yet.
    ending: set[str]

    @classmethod
    def decode(cls, keys: bytes, leases: bytes) -> State:
        """What :data:`LOOK` returns."""
        (
            units, held, grants, running, overs, waiters, reserved, rooms, wants, maxima, settling, contended, rolled,
            beats, meta, ending, todo,
        ) = json.loads(keys)  # fmt: skip
        interval, closed_until, served_to, all_settle = meta
        return cls(
            units=_units(_pairs(units)),
            held={limit: int(count) for limit, count in _pairs(held)},
            shown=_shown(grants, _pairs(running), dict(_pairs(overs))),
            lines=_by_limit(waiters),
            reserved=_by_limit(reserved),
            leases={name: float(lease) for name, lease in _pairs(json.loads(leases))},
            rooms={name: int(room) for name, room in _pairs(rooms)},
            wants={id: json.loads(text) for id, text in _pairs(wants)},
            maxima={limit: int(value) for limit, value in _pairs(maxima)},
            settling={limit for limit, _ in _pairs(settling)} | set(dict(_pairs(maxima)) if all_settle else ()),
            contended=dict(_pairs(contended)),
            rolled=rolled,
            heartbeats=_beats(beats),
            least_interval=int(interval or 0) / 1000,
            is_shut=bool(closed_until),
            is_serving=bool(served_to) or bool(todo),
            ending=set(ending),
        )

    def holders(self, limit: str) -> list[Request]:
        """Who has units of a limit: each request that is shown, and number 0 for each unit more."""
        found: list[Request] = []
        for session, count in sorted(self.units.get(limit, {}).items()):
            shown = sorted(request for request in self.shown.get(limit, []) if request[0] == session)
            found += shown[:count] + [(session, 0)] * (count - len(shown))
        return found

    def requests(self, wants: Iterable[str]) -> list[Request]:
        """Those that wait under these wants, first come first."""
        rows = [(arrival, id, number) for id in wants for number, (arrival, *_) in enumerate(self.wants[id]["r"])]
        return [
            (id.partition(":")[0], _number(self.wants[id]["r"][number][1])) for _arrival, id, number in sorted(rows)
        ]


class Namespace:
    """One namespace: a store, sessions made by name, and the raw state."""

    def __init__(self, url: str, prefix: str = "gconc", **how: Any) -> None:
        self.store = SessionStore(url, prefix, **how)
        self.raw: redis.Redis = redis.Redis.from_url(url)
        self.keys = self.store.keys
        self._look = self.raw.register_script(LOOK + "return look()")
        self._sessions: list[Session] = []

    def session(self, name: str, **how: Any) -> Session:
        """Open a session; see :class:`Session`."""
        session = Session(self, name, **how)
        self._sessions.append(session)
        return session

    def reopen(self) -> None:
        """Have grants go on now, where they wait for sessions that could have lived before a loss of data."""
        self.raw.hdel(self.keys.key("meta"), "closed_until")

    def close(self) -> None:
        """Close every connection."""
        for session in self._sessions:
            session.deaf()
        self.store.close()
        self.raw.close()

    def set(self, limit: str, maximum: int | None) -> None:
        """Set a limit as an operator does."""
        self.store.set(limit, maximum, by="test")

    # -- Redis as it is ----------------------------------------------------------------------------------

    def look(self) -> State:
        """Everything at one instant."""
        return State.decode(*self._look(keys=self.keys.all()))

    def holders(self, limit: str) -> list[Request]:
        """Who holds units of the limit, in order of name; see :meth:`State.holders`."""
        return self.look().holders(limit)

    def units(self, limit: str) -> dict[str, int]:
        """How many units of the limit each session has."""
        return self.look().units.get(limit, {})

    def line(self, limit: str) -> list[Request]:
        """Who stands in the line of the limit, first come first."""
        state = self.look()
        return state.requests(state.lines.get(limit, []))

    def reserved(self, limit: str) -> list[Request]:
        """For whom units of the limit are held back: the first of each want."""
        state = self.look()
        return [state.requests([id])[0] for id in state.reserved.get(limit, [])]

    def room(self, name: str) -> int:
        """The room that Redis believes a live session to have."""
        return self.look().rooms[name]

    def live(self) -> list[str]:
        """The sessions that live."""
        return sorted(self.look().leases)

    def is_settling(self, limit: str) -> bool:
        """Whether the limit waits for statements."""
        return limit in self.look().settling

    def max(self, limit: str) -> int | None:
        """What the limit table says."""
        return self.look().maxima.get(limit)

    def clock(self) -> int:
        """The lease clock, in ms."""
        return int(self.raw.hget(self.keys.key("meta"), "clock"))

    def least_interval(self) -> float:
        """By how much the lease clock may go on in one step, in seconds."""
        return self.look().least_interval

    def heartbeats(self) -> list[tuple[float, float]]:
        """Interval and timeout (s) of each session that is known by them, in order."""
        return self.look().heartbeats

    def left_behind(self) -> dict[str, Any]:
        """Every key of the namespace but bookkeeping, with what is in it."""
        found: dict[str, Any] = {}
        for key in self.raw.keys("*"):
            name = key.decode().removeprefix(self.keys.prefix)
            if name not in BOOKKEEPING:
                is_hash = self.raw.type(key) == b"hash"
                found[name] = self.raw.hgetall(key) if is_hash else sorted(self.raw.zrange(key, 0, -1))
        return found

    def call(self) -> None:
        """Somebody calls one script, which does what every script does."""
        self.store.status((), sessions=False)

    # -- Time --------------------------------------------------------------------------------------------

    def step_wall_clock(self, seconds: float) -> None:
        """Have the next script see a wall clock that has gone on by *seconds* (back, where negative)."""
        self.raw.hincrby(self.keys.key("meta"), "time", -int(seconds * 1000))

    def elapse(self, seconds: float, interval: float = INTERVAL) -> None:
        """Let *seconds* pass while somebody calls often enough for the lease clock to see all of them."""
        while seconds > 0:
            step = min(seconds, interval)
            self.step_wall_clock(step)
            self.call()
            seconds -= step


def give_clock(store: SessionStore, work: int = WORK) -> SessionStore:
    """Have all scripts of a store see the time in the namespace, not that of Redis; see :data:`CLOCK`.

    Each does no more than so much *work* that others may do as well.
    """
    for name, script in store._scripts.items():
        text = script.text.replace(f"WORK = {WORK},", f"WORK = {work},")
        text = text.replace(f"LOOKS = {LOOKS},", f"LOOKS = {work if work < WORK else LOOKS},")
        store._scripts[name] = store._client.register_script(CLOCK + text)
    return store


class TimedNamespace(Namespace):
    """One whose Redis has no time but the test's: the same calls give the same, however long they take.

    Its calls wait for Redis for as long as a loaded machine may need. Everything else on that Redis is deleted.
    """

    def __init__(self, url: str, work: int = WORK) -> None:
        super().__init__(url, options={"socket_connect_timeout": 60.0}, call_timeout=60.0)
        give_clock(self.store, work)
        if work < WORK:
            self.store._go_on = lambda *_: None  # type: ignore[method-assign]
        self.raw.flushall()
        self._stepped = 0.0
        self.step_wall_clock(1e9)

    def time(self) -> float:
        """The time that workers have, in seconds: no step counts. A look takes a millisecond, so nothing is at once."""
        return int(self.raw.hincrby(self.keys.key("meta"), "wall", 1000)) / 1e6 - self._stepped

    def step_wall_clock(self, seconds: float) -> None:
        """Have the wall clock go on by *seconds* (back, where negative)."""
        self.raw.hincrby(self.keys.key("meta"), "wall", int(seconds * 1e6))
        self._stepped += seconds


class Session:
    """A session that does as a worker's link does, and only what its test tells it to.

    It keeps what it holds and asked for by what it was told; ``room`` is its free slots less what it holds. A
    request has a number.
    Once it is open it hears of the limit table, and *states* what it holds, as a link does.
    """

    def __init__(
        self,
        namespace: Namespace,
        name: str,
        *,
        slots: int = 10,
        config: Mapping[str, int] | None = None,
        held: Mapping[int, tuple[str | Claim, ...]] | None = None,
        fence: int = 0,
        former: Former | None = None,
        states: bool = True,
        interval: float = INTERVAL,
        timeout: float = TIMEOUT,
        info: Mapping[str, Any] | None = None,
        queues: Iterable[str] = ("celery",),
    ) -> None:
        self.namespace, self.store, self.name = namespace, namespace.store, name
        self.interval, self.timeout = interval, timeout
        self.slots = slots
        #: What waits, and what is held, by number.
        self.asked: dict[int, Ask] = {}
        self.holding: dict[int, tuple[str | Claim, ...]] = dict(held or {})
        #: Units that no request was granted: for what it reads with them.
        self.spare: dict[str, int] = {}
        #: All grants; and of what is held: the number of its grant, and what was asked for it.
        self._grants: list[Grant] = []
        self._grant_of: dict[int, int] = {}
        self._asked_for: dict[int, Ask] = {}
        #: The number of each set of claims; those of which Redis was told something that may stand there yet.
        self._sets: dict[Claims, int] = {}
        #: Of what Redis shows as running: the ids of the last statement.
        self._stated: set[int] = set(self.holding)
        #: What was told last: units by limit, requests by set.
        self._told_units = self._units(self.holding.values())
        self._told_wants: dict[int, list[int]] = {}
        self.granted, self.syncs, self.numbers, self.fence = 1, 0, max(self.holding, default=0), fence
        self._pubsub: Any = None
        self.opened: Opened = self.store.open(
            name,
            former=former,
            interval=interval,
            timeout=timeout,
            info={"node": f"node-{name}", "pid": 1, "pool": "prefork", "app": "proj", "broker": "amqp", **(info or {})},
            config=config or {},
            room=self.room,
            units=self._units(self.holding.values()),
            running=self._running(self.holding),
            fence=fence,
            queues=list(queues),
        )
        self.epoch = self.opened.epoch
        #: The version of its table, and up to which it was told the next one.
        self.version = self.known = -1
        self.told_at = 0
        self.table: dict[str, int] = {}
        self.overrides: dict[str, str] = {}
        self._coming: tuple[dict[str, int], dict[str, str]] = ({}, {})
        self.lease, self.longest, self.confirmed = self.opened.lease, self.opened.longest, 0
        if states:
            self.catch_up()
            self.state()

    @property
    def room(self) -> int:
        """Free slots."""
        return self.slots - len(self.holding)

    def claims(self, limits: Iterable[str | Claim]) -> Claims:
        """What a request with these limits claims; a limit may be given with its weight."""
        return tuple(one if isinstance(one, Claim) else Claim(one) for one in limits)

    def set_of(self, *limits: str | Claim) -> int:
        """The number of the set of claims that requests with these limits are in."""
        return self._sets.setdefault(self.claims(limits), len(self._sets) + 1)

    def prepare(
        self,
        *,
        ended: Iterable[int] = (),
        asks: Iterable[Ask] = (),
        held: Mapping[int, tuple[str | Claim, ...]] | None = None,
        interests: Iterable[str] = (),
        full: bool = False,
        room: int | None = None,
        number: int | None = None,
        granted: int | None = None,
        **rarely: Any,
    ) -> Sync:
        """The next sync, not sent: what has *ended*, is asked for, and runs though it was never granted (*held*).

        It says all of that as of the grant *granted*, and where it is *full* all that there is. What is given *rarely*
        stands as it is in the message, whatever this session holds and asks for.
        """
        self.syncs += 1
        granted = self.granted if granted is None else granted
        ended_grants, over = self._end(ended)
        self.asked.update({ask.number: ask for ask in asks})
        self.holding.update(held or {})
        for started in held or ():
            self.asked.pop(started, None)
        held_now = [number for number in self.holding if self._grant_of.get(number, 1) <= granted]
        waiting = {**self.asked, **{n: a for n, a in self._asked_for.items() if self._grant_of[n] > granted}}
        units = self._units(self.holding[number] for number in held_now)
        wants = self._wants(waiting)
        what: dict[str, Any] = {
            "session": self.name,
            "epoch": self.epoch,
            "confirmed": self.confirmed,
            "number": self.syncs if number is None else number,
            "granted": granted,
            "room": self.room if room is None else room,
            "version": self.version,
            "known": self.known,
            "units": units if full else self._changed(units),
            "wants": self._news(wants, full),
            "interests": list(interests),
            "full": full,
        }
        if full:
            what |= {"fence": self.fence, "running": self._running(held_now)}
            self._stated = set(held_now)
        else:
            what |= {"over": over, "ended": ended_grants}
        self._told_units, self._told_wants = units, {want.set: _numbers(want) for want in wants}
        for grant in self._grants:
            if grant.grant > granted:
                self._add(grant)
        return Sync(**{**what, **rarely})

    def sync(self, **what: Any) -> Synced:
        """One round trip, see :meth:`prepare`; what it grants is held from now on."""
        sync = self.prepare(**what)
        reply = self.store.sync(sync)
        if reply.status == "ok":
            self.take(reply.grants)
            self.lease, self.confirmed = reply.lease, sync.number
            self.longest, self.fence = reply.longest, max(self.fence, reply.fence)
            if reply.changes is not None:
                self.hear_of_table(reply.changes, reply.version)
        return reply

    def hear_of_table(self, changes: Changes, newest: int) -> bool:
        """Learn of changes of the limit table; return whether another one holds."""
        if changes.before < 0:
            self.version, self._coming = -1, ({}, {})
        assert changes.before <= self.known < changes.version or changes.before < 0
        limits, overrides = self._coming
        for row in changes.rows:
            limits.pop(row.limit, None)
            overrides.pop(row.limit, None)
            if row.max is not None:
                limits[row.limit] = row.max
            if row.override:
                overrides[row.limit] = row.override
        self.known = changes.version
        if self.version < 0 and self.known < newest:
            return False
        self.version, self.told_at = self.known, changes.at
        self.table, self.overrides = dict(limits), dict(overrides)
        return True

    def catch_up(self) -> None:
        """Hear all that there is of the limit table."""
        while (reply := self.sync(room=0)).changes is not None and self.known < reply.version:
            pass

    @property
    def former(self) -> Former:
        """What the session that takes the place of this one says of it."""
        return Former((self.name,), self.epoch, self.lease, self.version, self.told_at, self.overrides, self.longest)

    def ask(self, *limits: str | Claim, age: float = 0.0) -> int:
        """Have one more request wait, and return its number."""
        self.numbers += 1
        self.sync(asks=[Ask(self.numbers, limits, age)])
        return self.numbers

    def release(self, *numbers: int) -> Synced:
        """End requests: waiting or held."""
        return self.sync(ended=numbers)

    def state(self, **how: Any) -> Synced:
        """A heartbeat: say all that it holds and asks for."""
        return self.sync(full=True, **how)

    def beat(self, **what: Any) -> Synced | None:
        """A short heartbeat; None where a statement is to be made. What is given stands as it is in the message."""
        self.syncs += 1
        said: dict[str, Any] = {
            "session": self.name,
            "epoch": self.epoch,
            "number": self.syncs,
            "confirmed": self.confirmed,
            "granted": self.granted,
            "room": self.room,
            "version": self.version,
        }
        heartbeat = Heartbeat(**{**said, **what})
        reply = self.store.heartbeat(heartbeat)
        if reply is not None:
            self.lease, self.longest, self.confirmed = reply.lease, reply.longest, heartbeat.number
        return reply

    def take(self, grants: Iterable[Grant]) -> None:
        """Learn of grants, however often they are told."""
        for grant in grants:
            if grant.grant > self.granted:
                self.granted = grant.grant
                self.fence = max(self.fence, grant.fence)
                self._grants.append(grant)
                number = self._add(grant)
                for limit, weight in grant.claims if grant.set == 0 else ():
                    self.spare[limit] = self.spare.get(limit, 0) + weight
                if number in self.asked:
                    self._asked_for[number] = self.asked.pop(number)
                    self.holding[number], self._grant_of[number] = self._asked_for[number].limits, grant.grant

    def _add(self, grant: Grant) -> int:
        """Redis adds a grant to what it was told; return whose it is."""
        for limit, weight in grant.claims:
            self._told_units[limit] = self._told_units.get(limit, 0) + weight
        told = self._told_wants.get(grant.set)
        return told.pop(0) if told else 0

    def _end(self, numbers: Iterable[int]) -> tuple[list[int], list[str]]:
        grants, over = [], []
        for number in numbers:
            if number in self._stated:
                over.append(f"id-{number}")
                self._stated.discard(number)
            elif number in self._grant_of:
                grants.append(self._grant_of[number])
            self.holding.pop(number, None)
            self.asked.pop(number, None)
            self._grant_of.pop(number, None)
            self._asked_for.pop(number, None)
        return grants, over

    def _units(self, held: Iterable[tuple[str | Claim, ...]]) -> dict[str, int]:
        units = dict(self.spare)
        for limits in held:
            for limit, weight in self.claims(limits):
                units[limit] = units.get(limit, 0) + weight
        return units

    def _changed(self, units: Mapping[str, int]) -> dict[str, int]:
        every = {*units, *self._told_units}
        return {one: units.get(one, 0) for one in every if units.get(one, 0) != self._told_units.get(one, 0)}

    def _wants(self, waiting: Mapping[int, Ask]) -> list[Want]:
        rows: dict[int, list[Row]] = {}
        for _, ask in sorted(waiting.items()):
            rows.setdefault(self.set_of(*ask.limits), []).append(ask.row)
        return [Want(number, claims, 0, 0, rows.get(number, [])) for claims, number in self._sets.items()]

    def _news(self, wants: Iterable[Want], full: bool) -> list[Want]:
        if full:
            return [want for want in wants if want.requests]
        return [want for want in wants if self._told_wants.get(want.set, []) != _numbers(want)]

    def _running(self, numbers: Iterable[int]) -> str:
        return running_text(Running(self.claims(self.holding[n]), f"id-{n}", "proj.task") for n in numbers)

    def listen(self) -> Session:
        """Subscribe to its notices."""
        self._pubsub = self.store.subscribe(self.name, self.timeout)
        return self

    def hear(self) -> list[Notice]:
        """Every notice that was published to it until now; takes none of the grants."""
        last = {"version": -99}
        self.namespace.raw.publish(self.store.keys.channel(self.name), json.dumps(last))
        found: list[Notice] = []

        def is_last_in() -> bool:
            found.extend(self.store.notices(self._pubsub, self.name))
            return any(notice.version == -99 for notice in found)

        wait_until(is_last_in, what=f"the notices of {self.name}")
        return [notice for notice in found if notice.version != -99]

    def deaf(self) -> None:
        """End its subscription."""
        if self._pubsub is not None:
            self._pubsub.close()
            self._pubsub = None


def _pairs(flat: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Of a reply that has a field and its value in turns."""
    each = iter(flat)
    return zip(each, each, strict=True)


def _units(fields: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for member, count in fields:
        limit, session = member.split(US)
        found.setdefault(limit, {})[session] = int(count)
    return found


def _shown(
    grants: Iterable[str], running: Iterable[tuple[str, str]], overs: Mapping[str, str]
) -> dict[str, list[Request]]:
    rows: list[tuple[str, Any, str]] = []
    for session, text in running:
        over = overs.get(session, "").split(US)
        rows += [(session, claims, id) for claims, id, *_ in json.loads(text.partition(" ")[2]) if id not in over]
    for member in grants:
        session, _, text = member.split(":", 2)
        _, _, claims, _, _, id, _ = json.loads(text)
        rows.append((session, claims, id))
    found: dict[str, list[Request]] = {}
    for session, claims, id in rows:
        for limit, _weight in claims:
            found.setdefault(limit, []).append((session, _number(id)))
    return found


def _by_limit(members: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for member in members:
        limit, *_, id = member.split(US)
        found.setdefault(limit, []).append(id)
    return found


def _beats(members: Iterable[str]) -> list[tuple[float, float]]:
    found: dict[str, dict[str, float]] = {}
    for member in members:
        kind, milliseconds, name = member.split(US)
        found.setdefault(name, {})[kind] = int(milliseconds) / 1000
    return sorted((each["interval"], each["timeout"]) for each in found.values())


def _number(task_id: str) -> int:
    number = re.search(r"\d+$", task_id)
    return int(number[0]) if number else -1


def _numbers(want: Want) -> list[int]:
    return [_number(row.task_id) for row in want.requests]
