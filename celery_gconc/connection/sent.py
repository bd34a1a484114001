"""A call that was sent, and whose answer is read when it has come: for a thread that must not wait.

    Client.send -> Sent;  an event loop (it can be read) -> Sent.is_answered -> Sent.answer

Thread: one at a time.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError


class Sent:
    """One call. It has a connection of its pool until :meth:`answer` or :meth:`give_up`."""

    def __init__(self, pool: Any, command: Sequence[Any]) -> None:
        """Send a command; waits for nothing where :func:`can_send_at_once`.

        Raises:
            RedisError, OSError: it was not sent, or that is not known.
        """
        self._pool = pool
        self._ends = time.monotonic() + pool.connection_kwargs["socket_timeout"]
        self._connection = _take(pool)
        try:
            # (No health check: that is a round trip.)
            self._connection.send_command(*command, check_health=False)
        except BaseException:
            self.give_up()
            raise

    @property
    def socket(self) -> socket.socket:
        """What an event loop waits for: it can be read when the answer has come, or the connection was lost."""
        # redis-py has no public way to the socket of a connection (tried: 5.0 to 8.1), kombu uses the same one.
        found: socket.socket = self._connection._sock
        return found

    def is_answered(self) -> bool:
        """Whether some of the answer has come, or the connection was lost; never waits."""
        try:
            return bool(self._connection.can_read(timeout=0))
        except (RedisError, OSError):
            return True

    def answer(self) -> Any:
        """The answer; waits for what is missing of it, until the call's time is over.

        Raises:
            RedisError, OSError: the server refused, or nobody knows whether the call was carried out.
        """
        connection = self._connection
        try:
            if not connection.can_read(timeout=max(self._ends - time.monotonic(), 0)):
                raise RedisTimeoutError("Timeout reading from socket")
            found = connection.read_response()
        except BaseException:
            self.give_up()
            raise
        self._pool.release(connection)
        return found

    def give_up(self) -> None:
        """Close the connection: an answer that comes later is nobody's."""
        self._connection.disconnect()
        self._pool.release(self._connection)


def can_send_at_once(pool: Any) -> bool:
    """Whether a pool has an open connection at hand that owes nothing: else sending would mean to connect."""
    available = getattr(pool, "_available_connections", ())  # redis-py 5.0-8.1: no public way
    if not available or getattr(available[-1], "_sock", None) is None:
        return False
    try:
        return not available[-1].can_read(timeout=0)
    except (RedisError, OSError):
        return False


def _take(pool: Any) -> Any:
    try:
        return pool.get_connection()
    except TypeError:  # redis-py 5.0-5.2 want to know what for
        return pool.get_connection("EVALSHA")
