"""What a worker takes from a saturated queue: how much it holds, and how long an uncovered task waits there."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kombu import Connection

from tests.kit.servers import rabbitmq_server, redis_server

from .kit import Load, environment, killed, send, stamps, worker_process

#: Seconds that a covered task takes, and a worker's slots.
SECONDS, CONCURRENCY = 0.005, 4


@dataclass(frozen=True)
class Found:
    """Of one run: messages held at most, and the part of the covered tasks that started before the uncovered one."""

    held: int
    before: float
    seconds: float


@contextlib.contextmanager
def brokers(kind: str) -> Iterator[tuple[str, str]]:
    """A broker and a coordination Redis."""
    with redis_server() as coordination:
        if kind == "redis":
            yield coordination.url, coordination.url
        else:
            with rabbitmq_server() as server:
                yield server.url, coordination.url


def behind_covered(kind: str, limit: str, covered: int = 10_000) -> Found:
    """Send so many tasks under a limit of 1, then one that it doesn't cover (unless it is the queue's), and look."""
    load = Load(f"intake, {kind}, {limit}", "nap", covered, SECONDS, {limit: 1}, concurrency=CONCURRENCY)
    last = Load("the last one", "noop", 1, first=covered)
    with brokers(kind) as (broker, coordination), tempfile.TemporaryDirectory() as log:
        env = environment(load, broker, log, coordination)
        send(load, env)
        send(last, env)
        began, held = time.monotonic(), 0
        with killed([worker_process(load, env, 0)]), Connection(broker) as connection:
            while True:
                starts, ends = stamps(Path(log))
                left = connection.default_channel.queue_declare("celery", passive=True).message_count
                held = max(held, covered + 1 - left - len(starts))
                found = next((moment for moment, number in starts if number == covered), None)
                if found is not None or (limit.startswith("queue:") and len(ends) >= 200):
                    break
                time.sleep(0.05)
        before = sum(1 for moment, _ in starts if found is not None and moment < found) / covered
        return Found(held, before, time.monotonic() - began)
