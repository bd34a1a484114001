"""A client of the coordination Redis: of one server, of a Sentinel's master, or of one node of a Cluster.

    Store -> Client -> the node that has our keys just now

All our keys have one hash tag, so that one node of a Cluster has them all: the three kinds differ only in how that
node is found. It is found at the first call, and anew at the next after each that failed: a master may have been
demoted, a slot moved. A connection to a node that was found connects once, where redis-py would connect it again in
silence: an old master that comes back takes writes until its Sentinels tell it better.

Nothing is sent twice in silence: a call that timed out may have been carried out, and only the caller knows how to
say it again. What a Cluster refused while it moves our slot was surely not carried out; that is sent again, for
:data:`MOVE_SECONDS`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from weakref import WeakSet

from redis.client import PubSub
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from celery_gconc.connection.failures import NobodySaysError, is_dumb
from celery_gconc.connection.location import Location, Server
from celery_gconc.connection.nodes import Alternatives, ClusterNodes, ConnectedBeforeError, Finder, Nodes, Sentinels
from celery_gconc.connection.sent import Sent, can_send_at_once

#: How long, in seconds, a call waits for a slot that is just being moved, and how long between two tries.
MOVE_SECONDS, MOVE_PAUSE = 0.5, 0.02

#: How many nodes one call may be sent on to.
MAX_MOVES = 3

T = TypeVar("T")


def connect(location: Location, key: str, call_timeout: float) -> Client:
    """A client of the coordination Redis at *location*. Opens no connection.

    Args:
        location: where it is.
        key: one of our keys; a Cluster has them all where it has this one.
        call_timeout: how long one call may take, in seconds.

    Raises:
        SettingError: an option that the Redis client doesn't know.
    """
    nodes = Nodes(location, call_timeout)
    finder = Finder(location.servers[0])
    if location.kind == "sentinel":
        finder = Sentinels(location, nodes, look_again=call_timeout)
    elif location.kind == "cluster":
        finder = ClusterNodes(location.servers, key_slot(key.encode()), nodes, call_timeout)
    elif len(location.servers) > 1:
        finder = Alternatives(location.servers, nodes, look_again=call_timeout)
    return Client(nodes, finder)


class Client:
    """What the store talks to. A call runs on the caller's thread; several threads may call, each for itself."""

    def __init__(self, nodes: Nodes, finder: Finder) -> None:
        self._nodes = nodes
        self._finder = finder
        self._node: Any = None
        #: Where the next node is, if somebody said so.
        self._next: Server | None = None
        #: Where the last one was.
        self._found: Server | None = None
        self._subscriptions: WeakSet[PubSub] = WeakSet()

    def register_script(self, text: str) -> Script:
        """A Lua script that runs where our keys are."""
        return Script(self, text)

    def execute(self, *command: Any) -> Any:
        """Run a command on keys of ours, and return redis-py's answer.

        Raises:
            RedisError, OSError: it was not carried out, or that is not known.
        """
        return self._call(lambda node: node.execute_command(*command))

    def send(self, script: Script, keys: Iterable[str], args: Iterable[Any]) -> Sent | None:
        """Send a call of a script, and wait for nothing; None where it would have to (to connect, to find the node).

        Raises:
            RedisError, OSError: it was not sent, or that is not known.
        """
        pool = self._node.connection_pool if self._node is not None else None
        if pool is None or not can_send_at_once(pool):
            return None
        return self._left_if_lost(lambda: Sent(pool, script.command(keys, args)))

    def answer(self, sent: Sent) -> Any:
        """The answer to what was sent; waits for it where it is still to come.

        Raises:
            NoScriptError: it was not carried out, for the server didn't know the script.
            RedisError, OSError: it was not carried out, or that is not known.
        """
        return self._left_if_lost(sent.answer)

    @property
    def user(self) -> str:
        """The name of the user that the client gives; Redis may call it otherwise."""
        return self._nodes.user

    def asked(self, exc: BaseException) -> Server | None:
        """The server that gave no reason for this error, if it came from one."""
        if isinstance(exc, NobodySaysError):
            return next((where for where, cause in exc.failures if is_dumb(cause)), None)
        return self._found

    def try_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands in one round trip, and return each one's answer: redis-py's, or the error that it gave.

        Raises:
            RedisError, OSError: they were not carried out, or that is not known.
        """

        def run(node: Any) -> list[Any]:
            with node.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                answers: list[Any] = pipeline.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, ResponseError) and isinstance(_cluster_error(answer), (MovedError, AskError)):
                    raise answer
            return answers

        found: list[Any] = self._call(run)
        return found

    def info(self, *sections: str) -> dict[str, Any]:
        """``INFO`` of the node that has our keys."""
        found: dict[str, Any] = self._call(lambda node: node.info(*sections))
        return found

    def subscribe(self, *channels: str, timeout: float) -> PubSub:
        """Listen to channels; returns once Redis has confirmed, each in at most *timeout* seconds.

        While a subscription lives, the first call after our keys have moved fails, so that the caller subscribes anew,
        where they are now. (Every node of a Cluster hears what is published on any; but notices shall not depend on a
        node that has nothing of ours.)
        """

        def listen(node: Any) -> PubSub:
            pubsub: PubSub = node.pubsub()
            try:
                pubsub.subscribe(*channels)
                if any(pubsub.get_message(timeout=timeout) is None for _ in channels):
                    raise RedisTimeoutError("it did not confirm a subscription in time")
            except (RedisError, OSError):
                pubsub.close()
                raise
            return pubsub

        pubsub: PubSub = self._call(listen)
        self._subscriptions.add(pubsub)
        return pubsub

    def close(self) -> None:
        """Close every connection. A later call opens new ones."""
        node, self._node, self._next = self._node, None, None
        if node is not None:
            node.close()
            node.connection_pool.disconnect()

    def forget_in_child(self) -> None:
        """In a forked child: close this side of every connection."""
        self._nodes.forget_in_child()

    # -- The node that has our keys ----------------------------------------------------------------------

    def _call(self, function: Callable[[Any], Any]) -> Any:
        return self._left_if_lost(lambda: self._follow(function))

    def _left_if_lost(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except (NoScriptError, NoPermissionError, _MovedAwayError):
            raise
        except (RedisError, OSError):
            self._leave()
            raise

    def _follow(self, function: Callable[[Any], Any]) -> Any:
        """Do something with the node; where a Cluster says that our slot has moved, with that one."""
        ends = time.monotonic() + MOVE_SECONDS
        moves = 0
        while True:
            if (elsewhere := self._finder.elsewhere()) is not None:
                self._go_on(elsewhere)
            node = self._current()
            try:
                return function(node)
            except ConnectedBeforeError:  # so nothing was sent
                moves += 1
                self._leave()
                if moves > MAX_MOVES:
                    raise
            except ResponseError as exc:
                refusal = _cluster_error(exc)
                if isinstance(refusal, MovedError):
                    moves += 1
                    if moves > MAX_MOVES:
                        raise
                    host = refusal.host or str(node.connection_pool.connection_kwargs["host"])
                    self._go_on(self._nodes.found((host, int(refusal.port))))
                elif isinstance(refusal, (AskError, TryAgainError)) and time.monotonic() < ends:
                    # Our slot is on its way to another node. A script names all our keys, and some of them never exist:
                    # until the move is done neither node runs it (the one that ASK names would say TRYAGAIN).
                    time.sleep(MOVE_PAUSE)
                else:
                    raise

    def _go_on(self, to: Server) -> None:
        """To the node that has our keys now."""
        self._leave(to)
        if any(pubsub.connection is not None for pubsub in self._subscriptions):
            raise _MovedAwayError(f"our keys have moved to {to}")

    def _current(self) -> Any:
        node = self._node
        if node is None:
            self._found = self._next or self._finder.find()
            node = self._node = self._nodes.make(self._found)
        return node

    def _leave(self, to: Server | None = None) -> None:
        """Use this node no more: the next call takes the one that is given, or finds one."""
        node, self._node, self._next = self._node, None, to
        if node is not None:
            if to is None:
                self._finder.failed()
            # Those in use are other threads', or a subscription that its owner closes.
            node.connection_pool.disconnect(inuse_connections=False)


class _MovedAwayError(RedisConnectionError):
    """Our keys are elsewhere now, and so the subscription should be."""


def _cluster_error(exc: ResponseError) -> ResponseError:
    """An error as the class that redis-py has for it; its clients up to 5.0 know them only as text."""
    kind, _, rest = str(exc).partition(" ")
    known = {"MOVED": MovedError, "ASK": AskError, "TRYAGAIN": TryAgainError}.get(kind)
    return exc if known is None else known(rest)


class Script:
    """A Lua script, sent once to a server that doesn't know it and named by its digest from then on."""

    def __init__(self, client: Client, text: str) -> None:
        self._client, self.text = client, text
        self._sha = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - Redis names scripts so

    def __call__(self, keys: Iterable[str], args: Iterable[Any]) -> Any:
        """Run it."""
        command = self.command(keys, args)
        try:
            return self._client.execute(*command)
        except NoScriptError:
            # EVAL, not SCRIPT LOAD: it names keys, so a Cluster sends it on to the node that has them.
            return self._client.execute("EVAL", self.text, *command[2:])

    def command(self, keys: Iterable[str], args: Iterable[Any]) -> tuple[Any, ...]:
        """The command that runs it, on a server that knows it."""
        names = list(keys)
        return ("EVALSHA", self._sha, len(names), *names, *args)
