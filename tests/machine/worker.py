"""A worker in the machine: every part of ours is the real one, as ``make_parts`` wires it; its threads are turns.

link_turn: what the link's thread does when it wakes;  consumer_turn: what the event loop does when it comes round;
tick: what the stall watch's thread does four times a second
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError
from kombu import Queue

import celery_gconc.clock
import celery_gconc.worker.intake.subscriptions
import celery_gconc.worker.parts
import celery_gconc.worker.session.link
import celery_gconc.worker.session.session
from celery_gconc.errors import StoreUnavailable
from celery_gconc.settings import Settings
from celery_gconc.worker.parts import make_parts
from celery_gconc.worker.watch.stalls import TICK_SECONDS

from .pool import QUEUES, Children, MachineBroker, Message, Prefork, Queues, Request, TaskConsumer, Threads
from .server import Clock, MachineStore, Server, Way

KINDS = {"prefork": Prefork, "threads": Threads}


class Selector:
    """The link's: never waits, but says for how long it would have."""

    def __init__(self) -> None:
        self._files: dict[int, tuple[Any, Any]] = {}
        self.timeout = 0.0

    def register(self, file: Any, _events: int, data: Any) -> None:
        self._files[id(file)] = (file, data)

    def unregister(self, file: Any) -> None:
        del self._files[id(file)]

    @property
    def ready(self) -> list[tuple[Any, Any]]:
        """What could be read."""
        return [(file, data) for file, data in self._files.values() if _is_ready(file)]

    @property
    def is_ready(self) -> bool:
        """Whether anything could be."""
        return any(_is_ready(file) for file, _ in self._files.values())

    def select(self, timeout: float) -> list[tuple[Any, int]]:
        ready = self.ready
        self.timeout = 0.0 if ready else timeout
        return [(SimpleNamespace(data=data), 1) for _, data in ready]

    def close(self) -> None:
        self._files.clear()


def _is_ready(file: Any) -> bool:
    return bool(file._is_rung if hasattr(file, "ring") else file.is_ready)


class Hub:
    """The event loop's: which descriptors it waits for, and what it does later."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self.timer = SimpleNamespace(_queue=[])
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.readers: dict[Any, tuple[Any, Any]] = {}

    def add_reader(self, file: Any, callback: Any, *args: Any) -> None:
        self.readers[file] = callback, args

    def remove_reader(self, file: Any) -> None:
        self.readers.pop(file, None)

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        self.timers.append((self._clock.at + delay, callback))

    def take_due(self) -> list[Callable[[], None]]:
        """What is to be done by now, each once."""
        due = [timer for timer in self.timers if timer[0] <= self._clock.at]
        self.timers = [timer for timer in self.timers if timer not in due]
        return [callback for _, callback in due]


class _Once:
    """Stands for the stall watch's event: its thread goes round once."""

    def __init__(self) -> None:
        self._waited = False

    def wait(self, _seconds: float) -> bool:
        self._waited = not self._waited
        return not self._waited

    def set(self) -> None:
        """It is closed."""


class Failures(logging.Handler):
    """What workers log where they go on after what nobody could expect."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        super().__init__(logging.ERROR)
        self._failed = failed

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and record.exc_info[1] is not None:
            self._failed(record.exc_info[1])


@contextmanager
def in_machine(clock: Clock, failed: Callable[[BaseException], None]) -> Iterator[None]:
    """Have workers be made of what the machine has in place of the system, and what they log as failed fail it."""
    ids = iter(range(1, 10**9))
    link, parts = celery_gconc.worker.session.link, celery_gconc.worker.parts
    subscriptions = celery_gconc.worker.intake.subscriptions
    logger, failures = logging.getLogger("celery_gconc"), Failures(failed)
    level = logger.level
    with pytest.MonkeyPatch.context() as patch:
        # All else that they log tells of what the machine does to them.
        patch.setattr(logger, "handlers", [failures])
        patch.setattr(logger, "propagate", False)
        logger.setLevel(logging.ERROR)
        patch.setattr(celery_gconc.clock, "_NOW", lambda: clock.at)
        patch.setattr(link, "SessionStore", MachineStore)
        patch.setattr(link, "selectors", SimpleNamespace(DefaultSelector=Selector, EVENT_READ=1))
        patch.setattr(parts, "Children", Children)
        patch.setattr(subscriptions, "broker_of", lambda consumer, _: MachineBroker(consumer))
        secrets = SimpleNamespace(token_hex=lambda _: f"{next(ids) * 7919 % 9973:04d}")
        patch.setattr(celery_gconc.worker.session.session, "secrets", secrets)
        try:
            yield
        finally:
            logger.setLevel(level)


@lru_cache(maxsize=64)
def _app(url: str, interval: float, timeout: float) -> tuple[Celery, Settings]:
    app = Celery("machine", broker="memory://", set_as_current=False)
    app.conf.task_queues = [Queue(name) for name in QUEUES]
    app.conf.update(
        global_concurrency_redis_url=url,
        global_concurrency_heartbeat_interval=interval,
        global_concurrency_heartbeat_timeout=timeout,
    )
    return app, Settings.from_app(app)


class Worker:
    """One of the cluster's."""

    def __init__(
        self,
        name: str,
        url: str,
        server: Server,
        queues: Queues,
        started: Any,
        *,
        kind: str,
        slots: int,
        prefetch: int,
        beats: tuple[float, float],
        is_link_first: bool,
        loop_speaks: bool,
        config: dict[str, int],
    ) -> None:
        self.name, self.clock, self.kind, self.config = name, server.clock, kind, config
        self.interval, self.timeout = beats
        self.is_link_first = is_link_first
        app, settings = _app(url, *beats)
        self.pool: Any = KINDS[kind](slots, lambda request: started(self, request))
        self.tasks = TaskConsumer(queues, self._deliver, prefetch)
        self._hub = hub = Hub(self.clock)
        consumer = SimpleNamespace(
            app=app, pool=self.pool, hub=hub, hostname=name, controller=SimpleNamespace(autoscaler=None),
            event_dispatcher=None, on_task_request=self._start, _update_prefetch_count=lambda _: None,
        )  # fmt: skip
        consumer.task_consumer = self.tasks
        self.parts = parts = make_parts(consumer, settings, config)
        self.link = parts.link
        self.way = Way(server)
        self.link.store.go(self.way)  # type: ignore[attr-defined]
        self.children: Children = self.link._children  # type: ignore[assignment]
        if kind == "prefork":
            self.children.dead = self.pool.dead
        self._selector: Selector = self.link._selector  # type: ignore[assignment]
        lost = self.link._lost

        def lost_contact(exc: Exception) -> None:
            failure = sys.exc_info()[1]
            if not isinstance(failure, StoreUnavailable):
                server.failures.append(failure or exc)  # (it logs this once, and not where it was not connected)
            lost(exc)

        self.link._lost = lost_contact  # type: ignore[method-assign]
        parts.stalls._closed = _Once()  # type: ignore[assignment]
        parts.stalls._has_loop = True
        parts.intake.attach(self.tasks, self.tasks, "machine")
        parts.starter._source = "machine"
        parts.starter.tell_queues()
        parts.starter.register(hub)
        assert parts.turns.speaks, "the product's own choice: no task here runs on the loop's thread"
        if not loop_speaks:
            parts.starter._speaker.stop()  # type: ignore[attr-defined]  # its link says everything, as where there is no loop
        self._bell: Any = parts.turns.bell
        #: What stands still: nothing, its ``loop``, or ``all`` of its process; children of it go on.
        self.frozen = ""
        #: What goes wrong as soon as its link has told its consumer something.
        self.ambush: Any = None
        #: When its link, and its stall watch, are due next.
        self.link_due, self.tick_due = self.clock.at, self.clock.at + TICK_SECONDS
        #: It was told to stop, and has ended.
        self.is_stopping = self.is_over = False
        #: What waits here: delivered, not started, not given back. In order of arrival, by when that was.
        self.arrived: dict[Message, float] = {}
        self.began = self.clock.at

    def __repr__(self) -> str:
        return f"<{self.name} {self.kind} {self.pool.slots}>"

    # -- What it is made to do ---------------------------------------------------------------------------

    @property
    def has_link_work(self) -> bool:
        return self.frozen != "all" and (
            self.clock.at >= self.link_due or self._selector.is_ready or self.children.is_ready
        )

    @property
    def turns(self) -> tuple[Callable[[], bool], Callable[[], bool]]:
        """Its threads, in the order in which they go on where both could: each says whether there was work."""
        return (self.try_link, self.try_consumer) if self.is_link_first else (self.try_consumer, self.try_link)

    def try_link(self) -> bool:
        """The link's thread goes on, if it has work."""
        if has_work := self.has_link_work:
            self.link_turn()
        return has_work

    def try_consumer(self) -> bool:
        """The event loop comes round, if it has work."""
        if has_work := self.has_consumer_work:
            self.consumer_turn()
        return has_work

    def link_turn(self) -> None:
        """The link's thread wakes."""
        link = self.link
        if link._is_over or (link._is_stopping and not self.parts.ledger.running_count):
            link._end()
            self.is_over = True
            return
        self._selector.timeout = 0.0
        was_rung = self._bell._is_rung
        link._turn()
        self.link_due = self.clock.at + max(self._selector.timeout, 0.0)
        if self.ambush is not None and self._bell._is_rung and not was_rung:
            ambush, self.ambush = self.ambush, None
            ambush()

    @property
    def has_consumer_work(self) -> bool:
        if self.frozen == "all" or (self.frozen and self.kind == "prefork"):
            return False
        if self.pool.calls or self.frozen:
            return bool(self.pool.calls)
        is_called = self._bell._is_rung or self._readable or self.timer_due <= self.clock.at
        return bool(is_called or self._next_queue is not None)

    @property
    def timer_due(self) -> float:
        """When its event loop has something to do by a timer; math.inf: it has not, or doesn't turn."""
        is_still = self.is_over or self.frozen
        return math.inf if is_still else min((at for at, _ in self._hub.timers), default=math.inf)

    @property
    def _readable(self) -> list[int]:
        """What its loop waits for and could read."""
        heard = self.parts.starter._heard  # type: ignore[attr-defined]
        return [
            fd for fd, (socket, _) in heard.items() if fd == socket.fileno() in self._hub.readers and socket.is_ready
        ]

    def consumer_turn(self) -> None:
        """The event loop comes round: results, our bell, a message. (Threads call back though it stands still.)"""
        while self.pool.calls:
            self.pool.calls.popleft()()
        if self.frozen:
            return
        if self._bell._is_rung:
            self.parts.starter._on_rung()  # type: ignore[attr-defined]
        for callback in self._hub.take_due():
            callback()
        for fd in self._readable:
            if fd in self._readable:
                callback, args = self._hub.readers[fd]
                callback(*args)
        if (queue := self._next_queue) is not None:
            self.tasks.receive(queue)
        if self.is_stopping and not self.pool.jobs:
            self.parts.link.stop()

    def tick(self) -> None:
        """The stall watch's thread goes round."""
        self.tick_due = self.clock.at + TICK_SECONDS
        if self.frozen != "all":
            self.parts.stalls._watch()

    def stop(self) -> None:
        """A warm shutdown begins."""
        while self.pool.calls:  # what a child has read is its own: no gate gives it back
            self.pool.calls.popleft()()
        self.is_stopping = True
        self.parts.intake.detach()
        self.parts.starter.detach()
        self.parts.gate.close()
        self.tasks.close()
        self.arrived.clear()
        if not self.pool.jobs:
            self.parts.link.stop()

    def die(self) -> None:
        """It is killed, with its children: its sockets are closed, and its messages the broker's again."""
        self.is_over = True
        self.tasks.close()
        self.link.notices.close()
        self._bell.close()
        self.link._bell.close()

    def silence(self) -> None:
        """Nothing comes any more on its connection for notices, and it doesn't know."""
        if (pubsub := self._subscription) is not None:
            pubsub.is_silent = True

    @property
    def _subscription(self) -> Any:
        return self.link.notices._pubsub

    # -- What it is asked for ----------------------------------------------------------------------------

    @property
    def waiting(self) -> dict[Message, float]:
        """What it has in hand and has not started, by when that came."""
        for message in [one for one in self.arrived if one.is_done or one not in self.tasks.unacked]:
            del self.arrived[message]
        return self.arrived

    @property
    def free(self) -> int:
        """Its free slots."""
        return self.pool.slots - len(self.pool.jobs)

    # -- Its own -----------------------------------------------------------------------------------------

    @property
    def _next_queue(self) -> str | None:
        """Where its next message comes from; none before it has heard which limits hold, or that Redis is away."""
        if self.is_stopping or not self.parts.health.tried.is_set():
            return None
        return self.tasks.can_take

    def _deliver(self, message: Message) -> None:
        self.arrived[message] = self.clock.at
        self.parts.gate.admit(Request(message, self.tasks))

    def _start(self, request: Request) -> None:
        try:
            request.execute_using_pool(self.pool)
        except TaskRevokedError:
            pass
