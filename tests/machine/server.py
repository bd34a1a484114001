"""Redis as the machine has it: the real one, with its data, its scripts and their effects; but its time is the test's,
what it publishes is carried by the test, and the way to it loses, doubles and delays what it is given to carry.

store -> Way (lost? doubled? late?) -> Server -> a script, wrapped -> Redis;  what it publishes -> Subscription
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from typing import Any

import redis

from celery_gconc.errors import StoreUnavailable
from celery_gconc.protocol.keys import Keys
from celery_gconc.protocol.messages import Notice, Sync, Synced
from celery_gconc.protocol.scripts import SCRIPTS, WORK, script
from celery_gconc.protocol.session_store import SessionStore
from tests.store.namespace import LOOK

#: Stand around a script. Its time is the test's, given as a last argument; what it publishes is returned beside its
#: reply, and so are the keys as they are then; who listens is what the test says.
BEFORE = (
    LOOK
    + """
local real, published, wall = redis, {}, tonumber(table.remove(ARGV))
local redis = setmetatable({}, { __index = real })
function redis.call(command, ...)
  if command == 'TIME' then
    return { math.floor(wall / 1e6), wall % 1e6 }
  elseif command == 'PUBLISH' then
    published[#published + 1] = { ... }
    return 0
  end
  return real.call(command, ...)
end
function redis.pcall(command, ...)
  if command == 'PUBSUB' then return real.call('SMEMBERS', 'machine:channels') end
  return real.pcall(command, ...)
end
local function main()
"""
)
AFTER = "\nend\nreturn { main(), published, look(), real.call('HGET', KEYS[1], 'clock') or '0' }"

#: How late, in seconds, a call or a notice is that is late.
LATE_SECONDS = 0.7

#: How far Redis' clock goes on with each script, in us. Those of the workers do too.
TICK = 1000


@dataclass(frozen=True, slots=True)
class Ran:
    """A script has run: what it was asked, what it replied, and what it left."""

    name: str
    asked_text: str
    reply_text: bytes
    #: As :meth:`~tests.store.namespace.State.decode` takes them.
    keys: bytes
    leases: bytes
    #: When it ran, by the lease clock, in us.
    at: int

    @property
    def asked(self) -> dict[str, Any]:
        """What it was asked."""
        return dict(json.loads(self.asked_text))

    @property
    def is_ok(self) -> bool:
        """Whether it did what it was asked."""
        return bool(json.loads(self.reply_text)["status"] == "ok")


class Clock:
    """The time of everything here, in us. Workers have it by :func:`celery_gconc.clock.now`."""

    def __init__(self) -> None:
        self.us = 10**12

    @property
    def at(self) -> float:
        """In seconds."""
        return self.us / 1e6


class Socket:
    """What a loop, or the link's selector, waits for."""

    _numbers = count(1000)

    def __init__(self) -> None:
        self._number = next(self._numbers)

    def fileno(self) -> int:
        """Its descriptor, or -1 when it is closed."""
        return self._number

    def shut(self) -> None:
        """Nothing is to be read any more."""
        self._number = -1


class Underway(Socket):
    """A call that was sent, as :class:`~celery_gconc.connection.sent.Sent`: its answer is there, and is read later."""

    def __init__(self, way: Way, reply: dict[str, Any] | None) -> None:
        super().__init__()
        self._way, self._reply, self._life = way, reply, way.server.life
        self.socket = self

    @property
    def is_ready(self) -> bool:
        """Whether there is an answer that was not read, or none will come."""
        return self.fileno() >= 0

    def is_answered(self) -> bool:
        """As of :class:`~celery_gconc.connection.sent.Sent`."""
        return True

    def answer(self) -> dict[str, Any] | None:
        """The reply; None where it was lost, or its connection was, or the way is cut by now."""
        self.shut()
        is_lost = self._way.is_cut or self._way.server.is_away or self._life != self._way.server.life
        return None if is_lost else self._reply

    def give_up(self) -> None:
        """Nobody reads it."""
        self.shut()


class Subscription(Socket):
    """What a session listens to, as redis-py gives it to the store; its own socket, as the selector has it."""

    def __init__(self, server: Server, way: Way, channels: list[str]) -> None:
        super().__init__()
        self._server, self._way, self.channels = server, way, channels
        self.inbox: list[str | None] = []
        #: Redis has closed it; and nothing comes any more, though neither side knows.
        self.is_broken = self.is_silent = False
        self.connection = self
        self._sock = self

    @property
    def is_ready(self) -> bool:
        """Whether there is something to read."""
        return bool(self.inbox) or self.is_broken

    def publish(self, message: str) -> None:
        """Something is published that this one listens to."""
        if self.is_silent:
            return
        match self._way.notice_fates.popleft() if self._way.notice_fates else "ok":
            case "lost":
                return
            case "late":
                self._way.later(LATE_SECONDS, lambda: self.inbox.append(message))
            case "doubled":
                self.inbox += [message, message]
            case _:
                self.inbox.append(message)

    def ping(self) -> None:
        """Have it answer."""
        if not self.is_silent:
            self.inbox.append(None)

    def close(self) -> None:
        """Listen no more."""
        self.shut()
        self._server.forget(self)


@lru_cache
def _load(url: str, work: int) -> dict[str, str]:
    """Give a Redis all scripts, each of which does so much *work* that others may do as well; returns their names."""
    with redis.Redis.from_url(url) as client:
        texts = {name: script(name).replace(f"WORK = {WORK},", f"WORK = {work},") for name in SCRIPTS}
        return {name: client.script_load(BEFORE + text + AFTER) for name, text in texts.items()}


class Server:
    """One Redis, which may be away, lose its data, or go back to older data."""

    def __init__(
        self, url: str, clock: Clock, watch: Callable[[Ran], None], work: int, failures: list[BaseException]
    ) -> None:
        self.clock = clock
        self.raw: redis.Redis = redis.Redis.from_url(url, single_connection_client=True)
        self.raw.flushall()
        self.keys = Keys("gconc")
        #: Called after each script, with the keys as they are then.
        self._watch = watch
        #: What has failed: a worker goes on after whatever it can't expect.
        self.failures = failures
        self._names = _load(url, work)
        self.is_away = False
        #: Which of its processes this is; each ends all connections of the one before.
        self.life = 1
        #: By how much its wall clock is ahead of the workers' clock, in us.
        self.ahead = 0
        self._subscriptions: dict[str, list[Subscription]] = {}

    def run(self, name: str, keys: Iterable[str], args: Iterable[Any]) -> Any:
        """Run a script, and carry what it publishes."""
        self.clock.us += TICK
        names = list(keys)
        asked = (*names, *args)
        wall = self.clock.us + self.ahead
        reply, published, state, lease_clock = self.raw.execute_command(
            "EVALSHA", self._names[name], len(names), *asked, wall
        )
        for channel, message in published:
            for listener in list(self._subscriptions.get(channel.decode(), ())):
                listener.publish(message.decode())
        with self.noting_failures():
            self._watch(Ran(name, asked[-1], reply, *state, int(lease_clock) * 1000 + wall % 1000))
        return reply

    @contextmanager
    def noting_failures(self) -> Iterator[None]:
        """What fails here fails the test, whoever handles it first."""
        try:
            yield
        except AssertionError as exc:
            self.failures.append(exc)
            raise

    def subscribe(self, way: Way, channels: list[str]) -> Subscription:
        """Listen to channels."""
        found = Subscription(self, way, channels)
        for channel in channels:
            self._subscriptions.setdefault(channel, []).append(found)
        self.raw.sadd("machine:channels", *channels)
        return found

    def forget(self, subscription: Subscription) -> None:
        """A subscription has ended."""
        for channel in subscription.channels:
            others = self._subscriptions.get(channel, [])
            if subscription in others:
                others.remove(subscription)
                if not others:
                    self.raw.srem("machine:channels", channel)

    # -- What may become of it ---------------------------------------------------------------------------

    def restart(self) -> None:
        """Another process: every connection has ended."""
        self.life += 1
        for listener in {id(one): one for some in self._subscriptions.values() for one in some}.values():
            listener.is_broken = True
            self.forget(listener)

    def lose_data(self) -> None:
        """Every key is gone."""
        self.raw.delete(*self.keys.all())

    def snapshot(self) -> dict[str, bytes]:
        """Every key as it is now."""
        with self.raw.pipeline(transaction=False) as pipe:
            for key in self.keys.all():
                pipe.dump(key)
            found = pipe.execute()
        return {key: value for key, value in zip(self.keys.all(), found, strict=True) if value is not None}

    def go_back(self, to: Mapping[str, bytes]) -> None:
        """Another process begins with older data."""
        with self.raw.pipeline(transaction=False) as pipe:
            pipe.delete(*self.keys.all())
            for key, value in to.items():
                pipe.restore(key, 0, value)
            if to:
                pipe.hset(self.keys.key("meta"), "server_id", f"another{self.life}")
            pipe.execute()
        self.restart()

    def step_clock(self, seconds: float) -> None:
        """Its wall clock steps."""
        self.ahead += int(seconds * 1e6)


class Way:
    """The way of one worker to Redis, and what happens on it to what is sent next."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_cut = False
        #: What becomes of the next calls, and notices: ``ok``, ``lost``, ``doubled``, ``late``; a call ``unanswered``,
        #: or ``last``: the way is cut after it.
        self.fates: deque[str] = deque()
        self.notice_fates: deque[str] = deque()
        #: Has something happen in so many seconds: a call arrives after its sender gave up on it, or has died.
        self.later: Callable[[float, Callable[[], Any]], None] = lambda *_: None
        #: Which process of the server it was last connected to.
        self.life = server.life
        #: Called with each script that was carried out: its name, what was asked, the reply, and when that was sent; -1
        #: where it was late.
        self.carried: Callable[[str, Mapping[str, Any], Mapping[str, Any], float], None] = lambda *_: None

    def connect(self) -> None:
        """See that there is a way."""
        if self.is_cut or self.server.is_away:
            raise StoreUnavailable("the coordination Redis is away")
        if self.life != self.server.life:
            self.life = self.server.life
            raise StoreUnavailable("the coordination Redis has closed the connection")


class OpenWay(Way):
    """That of operators: they try again at once."""

    def connect(self) -> None:
        self.life = self.server.life
        super().connect()


class MachineStore(SessionStore):
    """The real one, on such a way."""

    way: Way

    def go(self, way: Way) -> MachineStore:
        """Take this way from now on."""
        self.way = way
        self._scripts = {name: partial(way.server.run, name) for name in SCRIPTS}  # type: ignore[assignment]
        return self

    def _run(self, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        way = self.way
        way.connect()
        sent = way.server.clock.at

        def carry(sent: float = -1.0) -> dict[str, Any]:
            reply = SessionStore._run(self, name, asked)
            way.carried(name, asked, reply, sent)
            return reply

        fate = way.fates.popleft() if way.fates else "ok"
        if fate == "late":
            way.later(LATE_SECONDS, lambda: None if way.server.is_away else carry())
        if fate in ("lost", "late"):
            raise StoreUnavailable("lost on the way")
        reply = carry(sent)
        if fate == "doubled":
            carry()
        way.is_cut = way.is_cut or fate == "last"
        if fate == "unanswered":
            raise StoreUnavailable("the answer was lost on the way")
        return reply

    def send_sync(self, sync: Sync) -> Any:
        try:
            self.way.connect()
        except StoreUnavailable:
            return None
        try:
            reply = self._run("sync", sync.encode())
        except StoreUnavailable:
            reply = None
        return Underway(self.way, reply)

    def synced(self, sent: Any) -> Synced | None:
        reply = sent.answer()
        return None if reply is None else Synced.decode(reply)

    def check_rights(self) -> tuple[str, ...]:
        self.way.connect()
        return ()

    def server_info(self, *sections: str) -> Mapping[str, str]:
        self.way.connect()
        return {}

    def subscribe(self, session: str, timeout: float | None = None) -> Any:
        self.way.connect()
        channels = [] if timeout is None else [self.keys.lease_channel(session, timeout)]
        table = self.keys.table_channel(session)
        return self.way.server.subscribe(self.way, [*channels, self.keys.channel(session), table])

    def ask(self, pubsub: Any) -> None:
        self.way.connect()
        pubsub.ping()

    def notices(self, pubsub: Any, session: str) -> list[Notice]:
        if pubsub.is_broken:
            raise StoreUnavailable("the coordination Redis has closed the connection for notices")
        came, pubsub.inbox = pubsub.inbox, []
        found = [Notice.decode(message.encode()) for message in came if message is not None]
        return [notice for notice in found if notice is not None]
