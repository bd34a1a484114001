"""Sees to it that queues which are subscribed and not consumed just now live on, at a RabbitMQ.

    AMQPBroker (cancel, consume) -> Keeper -> passive declarations, on a thread and a connection of its own

RabbitMQ deletes a classic queue, with the messages in it, that was neither consumed nor declared for as long as its
expiry says (a policy's, which a client can't see). It doesn't delete a quorum queue while one of its messages is out,
by a consumer that is cancelled or a ``basic.get`` (RabbitMQ 3.10-4.1). A queue that somebody has deleted is declared
anew, as Celery would at a start: what is sent to it meanwhile would be lost.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from typing import Any

from amqp.exceptions import NotFound
from celery.utils.log import get_logger
from kombu import Queue

logger = get_logger(__name__)

#: How often, in seconds, each queue that is not consumed is looked at.
LOOK_SECONDS = 2.0

#: The shortest expiry, in seconds, that a queue survives with certainty: some looks may be late.
MIN_EXPIRY = 5 * LOOK_SECONDS

#: After how many looks with nothing to look at the connection is closed.
IDLE_LOOKS = 15

#: How long, in seconds, the broker has for an answer, and the thread for its end.
ANSWER_SECONDS, END_SECONDS = 10.0, 1.0


class Keeper:
    """Of one consumer's connection. The consumer's thread tells it what to keep; a thread of its own looks."""

    def __init__(self, client: Any, is_subscribed: Callable[[str], bool]) -> None:
        #: The consumer's connection, of which ours is a clone.
        self._client = client
        self._is_subscribed = is_subscribed
        self._queues: dict[str, Queue] = {}
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._connection: Any = None
        self._idle = 0
        self._is_told = False
        #: How often each queue was found to be gone.
        self.lost: Counter[str] = Counter()
        #: How many messages were ready in each queue when it was last looked at. Whoever learns it tells it.
        self.counts: dict[str, int] = {}

    # -- The consumer's thread ---------------------------------------------------------------------------

    def keep(self, queue: Queue) -> None:
        """A queue is not consumed from now on."""
        self._queues[queue.name] = copy(queue)  # of no channel
        if self._thread is None and not self._ended.is_set():
            self._thread = threading.Thread(target=self._loop, name="celery-gconc-keeper", daemon=True)
            self._thread.start()

    def leave(self, name: str) -> None:
        """It is consumed again, or not subscribed any more."""
        self._queues.pop(name, None)
        self.counts.pop(name, None)

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def close(self) -> None:
        """The same; and wait until it is so."""
        self.end()
        if self._thread is not None:
            self._thread.join(END_SECONDS)

    # -- Its own thread ----------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self._try_to_look()
        self._disconnect()

    def _try_to_look(self) -> None:
        try:
            self._look()
        except Exception as exc:  # noqa: BLE001 - whatever a connection raises: the next look tries again
            if not self._is_told:
                what = f"{type(exc).__name__}: {exc}"
                logger.warning(
                    "celery-gconc: queues that are not being consumed may expire, as they can't be kept alive: %s", what
                )
            self._is_told = True
            self._disconnect()
        else:
            self._is_told = False

    def _look(self) -> None:
        queues = [queue for queue in list(self._queues.values()) if self._is_subscribed(queue.name)]
        if not queues:
            self._idle += 1
            if self._idle >= IDLE_LOOKS:
                self._disconnect()
            return
        self._idle = 0
        for queue in queues:
            if not self._ended.is_set() and not self._is_there(queue) and queue.name in self._queues:
                self._restore(queue)

    def _is_there(self, queue: Queue) -> bool:
        """Whether a queue exists; where it is a classic one, its time begins anew."""
        try:
            with self._connected().channel() as channel:
                self.counts[queue.name] = channel.queue_declare(queue.name, passive=True).message_count
        except NotFound:
            return False
        return True

    def _restore(self, queue: Queue) -> None:
        self.lost[queue.name] += 1
        logger.error(
            "celery-gconc: queue %s was deleted or expired while its limit was full; the messages waiting in it are "
            "lost; declaring it again",
            queue.name,
        )
        with self._connected().channel() as channel:
            queue(channel).declare()

    def _connected(self) -> Any:
        if self._connection is None:
            connection = another_connection(self._client, ANSWER_SECONDS)
            connection.connect()
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.release()


def another_connection(client: Any, seconds: float) -> Any:
    """One more connection to a RabbitMQ, not connected yet, that waits so long for each answer at most."""
    connection = client.clone(heartbeat=0)
    bounds = {"read_timeout": seconds, "write_timeout": seconds}
    connection.transport_options = {**connection.transport_options, **bounds}
    return connection
