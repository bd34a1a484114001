"""The servers behind the coordination Redis: how a client of one is made, and how the one with our keys is found.

This is the only module that makes redis-py clients.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from typing import Any
from weakref import WeakSet

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from .errors import SettingError
from .urls import Place

#: How long, in seconds, connecting may take.
CONNECT_TIMEOUT = 2.0

#: How long, in seconds, connecting to a Sentinel may take, and its answer.
SENTINEL_TIMEOUT = 1.0

#: How many times longer Sentinels aren't asked again, as one didn't answer.
LOOK_AGAIN_FACTOR = 9

Address = tuple[str, int]


class Nodes:
    """Makes plain clients, and knows those that may have open connections."""

    def __init__(self, place: Place, options: Mapping[str, Any], call_timeout: float) -> None:
        self._place = place
        self._is_tls = place.kind != "server" and bool(options.get("ssl"))
        self._options: dict[str, Any] = {
            "socket_timeout": call_timeout,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            # redis-py >= 6 retries silently by default.
            "retry": Retry(NoBackoff(), 0),
            **{name: value for name, value in options.items() if place.kind == "server" or name != "ssl"},
        }
        self._pools: WeakSet[Any] = WeakSet()
        self._check_options()

    def make(self, address: Address | None) -> Any:
        """A client of the node at an address (None: of the one server that the URL names)."""
        if address is None:
            made = redis.Redis.from_url(self._place.url, **self._options)
        else:
            url = self._place.node_url(*address, is_tls=self._is_tls)
            made = redis.Redis.from_url(url, **self._options, redis_connect_func=ConnectOnce())
        self._pools.add(made.connection_pool)
        return made

    def forget_in_child(self) -> None:
        """In a forked child: close this side of every connection."""
        forget_sockets(self._pools)

    def _check_options(self) -> None:
        """redis-py itself finds an option that it doesn't know only when it connects."""
        pool = self.make(self._place.hosts[0] if self._place.hosts else None).connection_pool
        try:
            pool.connection_class(**pool.connection_kwargs)
        except (TypeError, ValueError, RedisError) as exc:
            raise SettingError(f"global_concurrency_redis_options: the Redis client doesn't take them: {exc}") from None


class ConnectedBeforeError(RedisConnectionError):
    """A connection was closed by the other side, and would be connected again to the same address."""


class ConnectOnce:
    """What redis-py calls when a connection was made, for each connection of a pool."""

    def __init__(self) -> None:
        self._known: WeakSet[Any] = WeakSet()

    def __call__(self, connection: Any) -> None:
        """Begin to talk; but only once."""
        if connection in self._known:
            raise ConnectedBeforeError("the connection was closed")
        self._known.add(connection)
        connection.on_connect()


def forget_sockets(pools: Iterable[Any]) -> None:
    """In a forked child: close this side of all connections of these pools, without a word to the server."""
    # redis-py 5.0-8.1: there is no public list of a pool's connections.
    for pool in list(pools):
        known = [*getattr(pool, "_available_connections", ()), *getattr(pool, "_in_use_connections", ())]
        for connection in known:
            if (sock := getattr(connection, "_sock", None)) is not None:
                with suppress(OSError):
                    os.close(sock.detach())


class Finder:
    """Knows where our keys are. This one: on the only server that there is."""

    def find(self) -> Address | None:
        """The address of the node (None: there is only one).

        Raises:
            RedisError: nobody could say.
        """
        return None

    def elsewhere(self) -> Address | None:
        """Where our keys are, if that is no longer where they were found."""
        return None

    def failed(self) -> None:
        """What was found last didn't serve: ask somebody else first, next time."""

    def forget_in_child(self) -> None:
        """In a forked child: close this side of every connection."""


class Sentinels(Finder):
    """Asks one Sentinel after the other; first the one that answered last.

    Each knows the number of the last failover that it has heard of (``config-epoch``): one that knows of less than was
    known here already isn't believed while another answers.

    They are asked again every *look_again* seconds. In a planned failover (``SENTINEL FAILOVER``) the old master goes
    on taking writes, which will be lost, for some ten seconds after its successor was named (Redis 7.0).
    """

    def __init__(
        self, hosts: Iterable[Address], master_name: str, options: Mapping[str, Any], look_again: float
    ) -> None:
        self._hosts = list(hosts)
        self._master_name = master_name
        self._look_again, self._next_look = look_again, 0.0
        self._failovers = 0
        self._options: dict[str, Any] = {
            "socket_timeout": SENTINEL_TIMEOUT,
            "socket_connect_timeout": SENTINEL_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
            **options,
        }
        self._pools: WeakSet[Any] = WeakSet()

    def find(self) -> Address:  # noqa: D102 - as above
        why, outdated = [], []
        for host, port in list(self._hosts):
            try:
                found, failovers = self._ask(host, port)
            except (RedisError, OSError) as exc:
                why.append(f"{host}:{port}: {exc}")
            else:
                if found is None:
                    why.append(f"{host}:{port}: knows no master {self._master_name!r}")
                elif failovers >= self._failovers:
                    return self._believe(found, failovers)
                else:
                    outdated.append((failovers, found))
            self.failed()
        if outdated:  # so all have forgotten: they were set up anew
            failovers, found = max(outdated)
            return self._believe(found, failovers)
        raise RedisConnectionError(f"no Sentinel names a master {self._master_name!r} ({'; '.join(why)})")

    def elsewhere(self) -> Address | None:  # noqa: D102 - as above
        if not self._next_look or time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + self._look_again
        try:
            found, failovers = self._ask(*self._hosts[0])
        except (RedisError, OSError):
            self.failed()
            self._next_look += LOOK_AGAIN_FACTOR * self._look_again  # the master may be well all the same
            return None
        return self._believe(found, failovers) if found is not None and failovers > self._failovers else None

    def failed(self) -> None:  # noqa: D102 - as above
        self._hosts = self._hosts[1:] + self._hosts[:1]

    def forget_in_child(self) -> None:  # noqa: D102 - as above
        forget_sockets(self._pools)

    def _believe(self, found: Address, failovers: int) -> Address:
        self._failovers = failovers
        self._next_look = time.monotonic() + self._look_again
        return found

    def _ask(self, host: str, port: int) -> tuple[Address | None, int]:
        """The address of the master that a Sentinel names, and how many failovers it knows of."""
        made: Any = redis.Redis(host, port, **self._options)
        self._pools.add(made.connection_pool)
        with closing(made) as sentinel:
            # In two words: redis-py parses the answers to commands that it knows, each version in its own way.
            found = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master_name)
            if found is None:
                return None, 0
            state = sentinel.execute_command("SENTINEL", "MASTER", self._master_name)
        items = list(state.items()) if isinstance(state, dict) else list(zip(state[::2], state[1::2], strict=True))
        failovers = next((int(value) for name, value in items if _text(name) == "config-epoch"), 0)
        return (_text(found[0]), int(found[1])), failovers


class ClusterNodes(Finder):
    """Asks one node after the other who owns a slot: those of the URL, and those that it has heard of."""

    def __init__(self, hosts: Iterable[Address], slot: int, nodes: Nodes, patience: float) -> None:
        self._seeds = tuple(hosts)
        self._hosts = list(self._seeds)
        self._slot = slot
        self._nodes = nodes
        self._patience = patience

    def find(self) -> Address:  # noqa: D102 - as above
        why = []
        ends = time.monotonic() + self._patience
        for host, port in list(self._hosts):
            try:
                owner = self._ask(host, port)
            except (RedisError, OSError) as exc:
                why.append(f"{host}:{port}: {exc}")
            else:
                if owner is not None:
                    return owner
                why.append(f"{host}:{port}: knows no owner of slot {self._slot}")
            self.failed()
            if time.monotonic() >= ends:
                break
        raise RedisConnectionError(f"no node says who owns slot {self._slot} ({'; '.join(why)})")

    def failed(self) -> None:  # noqa: D102 - as above
        self._hosts = self._hosts[1:] + self._hosts[:1]

    def _ask(self, host: str, port: int) -> Address | None:
        with closing(self._nodes.make((host, port))) as node:
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
