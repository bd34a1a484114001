"""The servers behind the coordination Redis: how a client of one is made, and how the one with our keys is found.

This is the only module that makes redis-py clients.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from celery_gconc.connection.failures import NobodySaysError, UnknownMasterError
from celery_gconc.connection.location import Address, Location, Server
from celery_gconc.errors import SettingError

#: How long, in seconds, connecting may take.
CONNECT_TIMEOUT = 2.0

#: How long, in seconds, connecting to a server that is only asked where our keys are may take, and its answer.
ASK_TIMEOUT = 1.0

#: How many times longer Sentinels aren't asked again, as one didn't answer.
LOOK_AGAIN_FACTOR = 9


class Nodes:
    """Makes plain clients, and knows those that may have open connections."""

    def __init__(self, location: Location, call_timeout: float) -> None:
        self._place = location
        self._defaults = {"socket_timeout": call_timeout, "socket_connect_timeout": CONNECT_TIMEOUT}
        self._pools: WeakSet[Any] = WeakSet()
        self._check_options()

    def make(self, server: Server, **defaults: Any) -> Any:
        """A client of one server. *defaults* are for what nobody has said."""
        given = {**self._defaults, **defaults, **server.options}
        if "path" in given:
            given.pop("socket_connect_timeout", None)
        begin = given.get("redis_connect_func") or greet
        given["redis_connect_func"] = ConnectOnce(begin) if server.is_found else begin
        # One protocol for all servers; and redis-py >= 6 would retry silently by default.
        given.update(protocol=2, retry=Retry(NoBackoff(), 0))
        made: Any = redis.Redis(connection_pool=redis.ConnectionPool(server.connection_class, **given))
        made.auto_close_connection_pool = True
        self._pools.add(made.connection_pool)
        return made

    def found(self, address: Address) -> Server:
        """The node of ours at an address that somebody has told us."""
        return self._place.node.at(address)

    @property
    def user(self) -> str:
        """The name of the user that is given."""
        return str(self._place.node.options.get("username") or "default")

    def forget_in_child(self) -> None:
        """In a forked child: close this side of every connection."""
        # redis-py 5.0-8.1: there is no public list of a pool's connections.
        for pool in list(self._pools):
            known = [*getattr(pool, "_available_connections", ()), *getattr(pool, "_in_use_connections", ())]
            for connection in known:
                if (sock := getattr(connection, "_sock", None)) is not None:
                    with suppress(OSError):
                        os.close(sock.detach())

    def _check_options(self) -> None:
        """redis-py itself finds an option that it doesn't know only when it connects."""
        of_node = self._place.servers if self._place.kind == "server" else (self.found(("localhost", 1)),)
        for server in (*of_node, *self._place.servers):
            pool = self.make(server).connection_pool
            try:
                pool.connection_class(**pool.connection_kwargs)
            except (TypeError, ValueError, RedisError) as exc:
                raise SettingError(
                    f"{self._place.source} or global_concurrency_redis_options: "
                    f"the Redis client rejects its options: {exc}"
                ) from None


class ConnectedBeforeError(RedisConnectionError):
    """A connection was closed by the other side, and would be connected again to the same address."""


def greet(connection: Any) -> None:
    """Begin to talk over a new connection. A password that the server doesn't want is left out.

    (By RESP3 a server that has none takes any; kombu speaks that with redis-py 8.)
    """
    try:
        connection.on_connect()
    except AuthenticationError as exc:
        if not re.search("without any password configured|no password is set", str(exc)):
            raise
        given = connection.username, connection.password, connection.credential_provider
        connection.username = connection.password = connection.credential_provider = None
        try:
            connection.on_connect()
        finally:  # it may want one when it is connected again
            connection.username, connection.password, connection.credential_provider = given


class ConnectOnce:
    """What redis-py calls when a connection was made, for each connection of a pool."""

    def __init__(self, begin: Callable[[Any], None]) -> None:
        self._known: WeakSet[Any] = WeakSet()
        self._begin = begin

    def __call__(self, connection: Any) -> None:
        """Begin to talk; but only once."""
        if connection in self._known:
            raise ConnectedBeforeError("the connection was closed")
        self._known.add(connection)
        self._begin(connection)


class Finder:
    """Knows where our keys are. This one: on the only server that there is."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def find(self) -> Server:
        """The node that has our keys.

        Raises:
            RedisError: nobody could say.
        """
        return self._server

    def elsewhere(self) -> Server | None:
        """Where our keys are, if that is no longer where they were found."""
        return None

    def failed(self) -> None:
        """What was found last didn't serve: ask somebody else first, next time."""


class Sentinels(Finder):
    """Asks one Sentinel after the other; first the one that answered last.

    Each knows the number of the last failover that it has heard of (``config-epoch``): one that knows of less than was
    known here already isn't believed while another answers.

    They are asked again every *look_again* seconds. In a planned failover (``SENTINEL FAILOVER``) the old master goes
    on taking writes, which will be lost, for some ten seconds after its successor was named (Redis 7.0).
    """

    def __init__(self, location: Location, nodes: Nodes, look_again: float) -> None:
        self._sentinels = list(location.servers)
        self._master_name = location.master_name
        self._nodes = nodes
        self._look_again, self._next_look = look_again, 0.0
        self._failovers = 0

    def find(self) -> Server:  # noqa: D102 - as above
        failures: list[tuple[Server, Exception]] = []
        outdated = []
        for sentinel in list(self._sentinels):
            try:
                found, failovers = self._ask(sentinel)
            except (RedisError, OSError) as exc:
                failures.append((sentinel, exc))
            else:
                if found is None:
                    failures.append((sentinel, UnknownMasterError(f"knows no master {self._master_name!r}")))
                elif failovers >= self._failovers:
                    return self._believe(found, failovers)
                else:
                    outdated.append((failovers, found))
            self.failed()
        if outdated:  # so all have forgotten: they were set up anew
            failovers, found = max(outdated)
            return self._believe(found, failovers)
        raise NobodySaysError(f"no Sentinel names a master {self._master_name!r}", failures, of_sentinels=True)

    def elsewhere(self) -> Server | None:  # noqa: D102 - as above
        if not self._next_look or time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + self._look_again
        try:
            found, failovers = self._ask(self._sentinels[0])
        except (RedisError, OSError):
            self.failed()
            self._next_look += LOOK_AGAIN_FACTOR * self._look_again  # the master may be well all the same
            return None
        return self._believe(found, failovers) if found is not None and failovers > self._failovers else None

    def failed(self) -> None:  # noqa: D102 - as above
        self._sentinels = self._sentinels[1:] + self._sentinels[:1]

    def _believe(self, found: Address, failovers: int) -> Server:
        self._failovers = failovers
        self._next_look = time.monotonic() + self._look_again
        return self._nodes.found(found)

    def _ask(self, server: Server) -> tuple[Address | None, int]:
        """The address of the master that a Sentinel names, and how many failovers it knows of."""
        made = self._nodes.make(server, socket_timeout=ASK_TIMEOUT, socket_connect_timeout=ASK_TIMEOUT)
        with closing(made) as sentinel:
            # In two words: redis-py parses the answers to commands that it knows, each version in its own way.
            found = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master_name)
            if found is None:
                return None, 0
            state = sentinel.execute_command("SENTINEL", "MASTER", self._master_name)
        items = list(state.items()) if isinstance(state, dict) else list(zip(state[::2], state[1::2], strict=True))
        failovers = next((int(value) for name, value in items if _text(name) == "config-epoch"), 0)
        return (_text(found[0]), int(found[1])), failovers


class Alternatives(Finder):
    """The first of several servers that answers and takes writes, and again an earlier one once it does.

    kombu goes on to the next server of a broker's URL when one is lost. All workers of a namespace shall be at one of
    them, so each prefers the earlier, and looks every *look_again* seconds whether one is there.
    """

    def __init__(self, servers: Iterable[Server], nodes: Nodes, look_again: float) -> None:
        self._servers = [replace(server, is_found=True) for server in servers]
        self._nodes = nodes
        self._look_again, self._next_look = look_again, 0.0
        self._at = 0

    def find(self) -> Server:  # noqa: D102 - as above
        failures: list[tuple[Server, Exception]] = []
        for number, server in enumerate(self._servers):
            if self._serves(server, failures):
                return self._take(number)
        raise NobodySaysError("none of the alternatives is available", failures)

    def elsewhere(self) -> Server | None:  # noqa: D102 - as above
        if not self._at or time.monotonic() < self._next_look:
            return None
        for number in range(self._at):
            if self._serves(self._servers[number], []):
                return self._take(number)
        self._next_look = time.monotonic() + self._look_again  # from here: to ask a silent one has taken its time
        return None

    def _take(self, number: int) -> Server:
        self._at, self._next_look = number, time.monotonic() + self._look_again
        return self._servers[number]

    def _serves(self, server: Server, failures: list[tuple[Server, Exception]]) -> bool:
        made = self._nodes.make(server, socket_timeout=ASK_TIMEOUT, socket_connect_timeout=ASK_TIMEOUT)
        with closing(made) as node:
            try:
                node.execute_command("PING")
                role = node.execute_command("ROLE")
            except (NoPermissionError, ResponseError):
                return True  # it answers, but not everybody may ask it that
            except (RedisError, OSError) as exc:
                failures.append((server, exc))
                return False
        if _text(role[0]) in ("slave", "replica"):
            failures.append((server, RedisError("is a replica")))
            return False
        return True


class ClusterNodes(Finder):
    """Asks one node after the other who owns a slot: those of the URL, and those that it has heard of."""

    def __init__(self, servers: Iterable[Server], slot: int, nodes: Nodes, patience: float) -> None:
        self._seeds = tuple(server.address for server in servers)
        self._hosts = list(self._seeds)
        self._slot = slot
        self._nodes = nodes
        self._patience = patience

    def find(self) -> Server:  # noqa: D102 - as above
        failures: list[tuple[Server, Exception]] = []
        ends = time.monotonic() + self._patience
        for host, port in list(self._hosts):
            try:
                owner = self._ask(host, port)
            except (RedisError, OSError) as exc:
                failures.append((self._nodes.found((host, port)), exc))
            else:
                if owner is not None:
                    return self._nodes.found(owner)
                unknown = RedisError(f"knows no owner of slot {self._slot}")
                failures.append((self._nodes.found((host, port)), unknown))
            self.failed()
            if time.monotonic() >= ends:
                break
        raise NobodySaysError(f"no node says who owns slot {self._slot}", failures)

    def failed(self) -> None:  # noqa: D102 - as above
        self._hosts = self._hosts[1:] + self._hosts[:1]

    def _ask(self, host: str, port: int) -> Address | None:
        with closing(self._nodes.make(self._nodes.found((host, port)))) as node:
            ranges = node.execute_command("CLUSTER", "SLOTS")
        owner, heard = None, []
        for first, last, *servers in ranges:
            addresses = [(_text(server[0]) or host, int(server[1])) for server in servers]
            heard += addresses
            if int(first) <= self._slot <= int(last):
                owner = addresses[0]
        self._hosts = list(dict.fromkeys(((host, port), *self._seeds, *heard)))
        return owner


def _text(reply: bytes | str | None) -> str:
    return reply.decode() if isinstance(reply, bytes) else reply or ""
