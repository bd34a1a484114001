"""What the tests of the store drive: bare sessions without a worker behind them, and Redis as it really is.

test -> Session -> SessionStore -> Redis;  test <- Namespace (reads the keys themselves, not what status says)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from celery_gconc.protocol.keys import KEYSPACE
from celery_gconc.protocol.messages import Ask, Former, Grant, Held, Notice, Opened, Sync, Synced
from celery_gconc.protocol.scripts import WORK
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
  local keys = {
    all(%(holders)s), all(%(waiters)s), all(%(reserved)s), rooms, fields(%(requests)s), fields(%(max)s),
    call('ZRANGE', %(settling)s, 0, -1, 'WITHSCORES'), fields(%(contended)s), call('ZCARD', %(roll)s),
    all(%(heartbeats)s), call('HMGET', %(meta)s, 'interval', 'closed_until', 'served_to'), ending,
  }
  return { cjson.encode(keys), cjson.encode(sessions) }
end
""" % {name: f"KEYS[{number}]" for number, name in enumerate(KEYSPACE, 1)}

#: Keys that may stay when nothing is held, waited for or set.
BOOKKEEPING = {"meta", "changes", "changed", "totals", "recent"}

Request = tuple[str, int]


@dataclass(frozen=True, slots=True)
class State:
    """The keys of a namespace at one instant, decoded."""

    holders: dict[str, list[Request]]
    lines: dict[str, list[Request]]
    reserved: dict[str, list[Request]]
    leases: dict[str, float]
    rooms: dict[str, int]
    requests: dict[Request, dict[str, Any]]
    maxima: dict[str, int]
    settling: set[str]
    contended: dict[str, str]
    rolled: int
    #: Interval and timeout (s) of each session that is known by them, in order; and the least interval of all.
    heartbeats: list[tuple[float, float]]
    least_interval: float
    #: Whether grants wait, after a loss of data.
    is_shut: bool
    #: Whether lines are left to be served, as grants go on.
    is_serving: bool
    #: Sessions that have ended and from which not everything is taken yet.
    ending: set[str]

    @classmethod
    def decode(cls, keys: bytes, leases: bytes) -> State:
        """What :data:`LOOK` returns."""
        holders, waiters, reserved, rooms, requests, maxima, settling, contended, rolled, beats, meta, ending = (
            json.loads(keys)
        )
        interval, closed_until, served_to = meta
        return cls(
            holders=_by_limit(holders),
            lines=_by_limit(waiters),
            reserved=_by_limit(reserved),
            leases={name: float(lease) for name, lease in _pairs(json.loads(leases))},
            rooms={name: int(room) for name, room in _pairs(rooms)},
            requests={_request(id): json.loads(text) for id, text in _pairs(requests)},
            maxima={limit: int(value) for limit, value in _pairs(maxima)},
            settling={limit for limit, _ in _pairs(settling)},
            contended=dict(_pairs(contended)),
            rolled=rolled,
            heartbeats=_beats(beats),
            least_interval=int(interval or 0) / 1000,
            is_shut=bool(closed_until),
            is_serving=bool(served_to),
            ending=set(ending),
        )


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
        """Who holds the limit, in order of name."""
        return self.look().holders.get(limit, [])

    def line(self, limit: str) -> list[Request]:
        """Who stands in the line of the limit, first come first."""
        return self.look().lines.get(limit, [])

    def reserved(self, limit: str) -> list[Request]:
        """For whom permits of the limit are held back."""
        return self.look().reserved.get(limit, [])

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
                found[name] = self.raw.hgetall(key) if is_hash else self.raw.zrange(key, 0, -1)
        return found

    # -- Time --------------------------------------------------------------------------------------------

    def step_wall_clock(self, seconds: float) -> None:
        """Have the next script see a wall clock that has gone on by *seconds* (back, where negative)."""
        self.raw.hincrby(self.keys.key("meta"), "time", -int(seconds * 1000))

    def elapse(self, seconds: float, interval: float = INTERVAL) -> None:
        """Let *seconds* pass while somebody calls often enough for the lease clock to see all of them."""
        while seconds > 0:
            step = min(seconds, interval)
            self.step_wall_clock(step)
            self.store.status()
            seconds -= step


def give_clock(store: SessionStore, work: int = WORK) -> SessionStore:
    """Have all scripts of a store see the time in the namespace, not that of Redis; see :data:`CLOCK`.

    Each does no more than so much *work* that others may do as well.
    """
    for name, script in store._scripts.items():
        text = script.text.replace(f"WORK = {WORK},", f"WORK = {work},")
        store._scripts[name] = store._client.register_script(CLOCK + text)
    return store


class TimedNamespace(Namespace):
    """One whose Redis has no time but the test's: the same calls give the same, however long they take.

    Its calls wait for Redis for as long as a loaded machine may need. Everything else on that Redis is deleted.
    """

    def __init__(self, url: str, work: int = WORK) -> None:
        super().__init__(url, options={"socket_connect_timeout": 60.0}, call_timeout=60.0)
        give_clock(self.store, work)
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

    It keeps what it holds and asked for by what it was told; ``room`` is its free slots less what it holds.
    Once it is open it *states* what it holds, as a link does.
    """

    def __init__(
        self,
        namespace: Namespace,
        name: str,
        *,
        slots: int = 10,
        config: Mapping[str, int] | None = None,
        held: Iterable[Held] = (),
        version: int = -1,
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
        self.asked: dict[int, Ask] = {}
        self.holding: dict[int, tuple[str, ...]] = {item.number: item.limits for item in held}
        self.granted, self.syncs, self.numbers = 1, 0, max(self.holding, default=0)
        self._pubsub: Any = None
        self.opened: Opened = self.store.open(
            name,
            former=former,
            interval=interval,
            timeout=timeout,
            info={"node": f"node-{name}", "pid": 1, "pool": "prefork", "app": "proj", "broker": "amqp", **(info or {})},
            config=config or {},
            room=self.room,
            held=list(held),
            version=version,
            queues=list(queues),
        )
        self.epoch, self.version = self.opened.epoch, self.opened.version
        self.table, self.overrides = dict(self.opened.table), self.opened.overrides
        self.lease, self.longest, self.confirmed = self.opened.lease, self.opened.longest, 0
        if states:
            self.sync(held=list(held), full=True)

    @property
    def room(self) -> int:
        """Free slots."""
        return self.slots - len(self.holding)

    def prepare(
        self,
        *,
        ended: Iterable[int] = (),
        asks: Iterable[Ask] = (),
        held: Iterable[Held] = (),
        interests: Iterable[str] = (),
        full: bool = False,
        room: int | None = None,
        number: int | None = None,
        granted: int | None = None,
        **rarely: Any,
    ) -> Sync:
        """The next sync, not sent."""
        self.syncs += 1
        return Sync(
            session=self.name,
            epoch=self.epoch,
            confirmed=self.confirmed,
            number=self.syncs if number is None else number,
            granted=self.granted if granted is None else granted,
            room=self.room if room is None else room,
            version=self.version,
            ended=list(ended),
            asks=list(asks),
            held=list(held),
            interests=list(interests),
            full=full,
            **rarely,
        )

    def sync(self, **what: Any) -> Synced:
        """One round trip, see :meth:`prepare`; what it grants is held from now on."""
        sync = self.prepare(**what)
        reply = self.store.sync(sync)
        if reply.status == "ok":
            self.take(reply.grants)
            self.version, self.lease, self.confirmed = reply.version, reply.lease, sync.number
            self.longest = reply.longest
            if reply.table is not None:
                self.table, self.overrides = dict(reply.table), reply.overrides
        return reply

    @property
    def former(self) -> Former:
        """What the session that takes the place of this one says of it."""
        return Former((self.name,), self.epoch, self.lease, self.version, self.overrides, self.longest)

    def ask(self, *limits: str, age: float = 0.0) -> int:
        """Ask for a permit and return the number of the request."""
        self.numbers += 1
        self.asked[self.numbers] = Ask(self.numbers, limits, age, f"id-{self.numbers}", "proj.task")
        self.sync(asks=[self.asked[self.numbers]])
        return self.numbers

    def release(self, *numbers: int) -> Synced:
        """End requests: waiting or held."""
        for number in numbers:
            self.holding.pop(number, None)
            self.asked.pop(number, None)
        return self.sync(ended=numbers)

    def statement(self) -> tuple[list[Held], list[Ask]]:
        """All that it holds and asks for."""
        return [Held(number, limits) for number, limits in self.holding.items()], list(self.asked.values())

    def state(self, **how: Any) -> Synced:
        """A heartbeat: say all that it holds and asks for."""
        held, asks = self.statement()
        return self.sync(held=held, asks=asks, full=True, **how)

    def take(self, grants: Iterable[Grant]) -> None:
        """Learn of grants, however often they are told."""
        for grant in grants:
            if grant.grant > self.granted:
                self.granted = grant.grant
                if grant.number in self.asked:
                    self.holding[grant.number] = self.asked.pop(grant.number).limits

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


def _by_limit(members: Iterable[str]) -> dict[str, list[Request]]:
    found: dict[str, list[Request]] = {}
    for member in members:
        limit, *_, id = member.split(US)
        found.setdefault(limit, []).append(_request(id))
    return found


def _beats(members: Iterable[str]) -> list[tuple[float, float]]:
    found: dict[str, dict[str, float]] = {}
    for member in members:
        kind, milliseconds, name = member.split(US)
        found.setdefault(name, {})[kind] = int(milliseconds) / 1000
    return sorted((each["interval"], each["timeout"]) for each in found.values())


def _request(id: str) -> Request:
    name, _, number = id.rpartition(":")
    return name, int(number)
