"""The app that the cluster tests' workers run, made by the environment: limits, settings and tasks.

Its tasks tell an oracle what runs: start and end, each with the time of a Redis that celery-gconc doesn't use.
"""

from __future__ import annotations

import json
import os
import signal
import time

import redis
from celery import Celery
from celery.exceptions import Ignore, Reject
from celery.result import allow_join_result

from celery_gconc import GlobalConcurrency, current_permit, signals
from tests.cluster.queues import with_special

app = Celery("cluster", broker=os.environ["TEST_BROKER"], backend=os.environ.get("TEST_BACKEND"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    task_ignore_result=False,
    result_expires=600,
    task_queues=with_special(os.environ.get("TEST_QUEUES", "")),
)
app.conf.update(json.loads(os.environ.get("TEST_CONF", "{}")))
gconc = GlobalConcurrency(app)

_oracle: redis.Redis | None = None
_TELL = """
local t = redis.call('TIME')
redis.call('RPUSH', 'events', cjson.encode({t[1] * 1000000 + t[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4]}))
"""


def oracle() -> redis.Redis:
    """The connection of this process to the oracle."""
    global _oracle
    if _oracle is None:
        _oracle = redis.Redis.from_url(os.environ["TEST_ORACLE"])
    return _oracle


def tell(kind: str, number: int, name: str) -> None:
    """Tell the oracle that a task starts (s) or ends (e)."""
    oracle().eval(_TELL, 0, kind, number, name, os.getpid())


def tell_signal(signal: object, sender: str, **facts: object) -> None:
    """Tell the oracle of a signal of celery-gconc's."""
    names = ("task_id", "limits", "waited", "held", "max", "was")
    told = {name: facts[name] for name in names if name in facts}
    oracle().rpush("signals", json.dumps([getattr(signal, "name", ""), sender, told]))


if os.environ.get("TEST_SIGNALS"):
    for name in signals.__all__:
        getattr(signals, name).connect(tell_signal, weak=False)


def _nap(number: int, seconds: float, name: str) -> int:
    tell("s", number, name)
    try:
        time.sleep(seconds)
    finally:
        tell("e", number, name)
    return number


@app.task
def nap(number: int, seconds: float = 0.05) -> int:
    """Sleep."""
    return _nap(number, seconds, "nap")


def _held(number: int, name: str) -> int:
    tell("s", number, name)
    try:
        while not oracle().exists("let go"):
            time.sleep(0.02)
    finally:
        tell("e", number, name)
    return number


@app.task
def held(number: int) -> int:
    """Run until the oracle lets it go."""
    return _held(number, "held")


@app.task(acks_late=True)
def held_late(number: int) -> int:
    """Run until the oracle lets it go; the message is acknowledged only afterwards."""
    return _held(number, "held_late")


@app.task(global_concurrency=2)
def two(number: int, seconds: float = 0.05) -> int:
    """Sleep, no more than two at once."""
    return _nap(number, seconds, "two")


@app.task(global_concurrency="pool:db")
def pooled(number: int, seconds: float = 0.05) -> int:
    """Sleep, under a limit shared by name."""
    return _nap(number, seconds, "pooled")


@app.task(global_concurrency={"limit": "pool:gpu-gb", "weight": "gigabytes"})
def train(number: int, seconds: float = 0.05, gigabytes: int = 1) -> int:
    """Sleep, and take so much of a shared resource meanwhile."""
    return _nap(number, seconds, "train")


@app.task(acks_late=True)
def late(number: int, seconds: float = 0.05) -> int:
    """Sleep; the message is acknowledged only afterwards."""
    return _nap(number, seconds, "late")


@app.task(bind=True)
def delivery(self, number: int, seconds: float = 0.05) -> int:
    """Sleep, and tell how often the broker had delivered the message before (quorum queues count it)."""
    oracle().hset("delivery counts", number, self.request.get("x-delivery-count") or 0)
    return _nap(number, seconds, "delivery")


@app.task(bind=True, max_retries=1)
def outcome(self, number: int, how: str) -> int:
    """End in the way that is asked for."""
    tell("s", number, how)
    tell("e", number, how)
    if how == "failure":
        raise ValueError(how)
    if how == "ignore":
        raise Ignore
    if how == "reject":
        raise Reject(how, requeue=False)
    if how == "retry" and self.request.retries == 0:
        raise self.retry(countdown=0.2)
    if how == "exit":
        os._exit(3)
    if how == "soft":
        time.sleep(30)
    return number


@app.task
def stubborn(number: int, seconds: float) -> int:
    """Ignore SIGTERM, and go on."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell("s", number, "stubborn")
    deadline = time.time() + seconds
    while time.time() < deadline:
        tell("t", number, "stubborn")  # a tick: still running
        time.sleep(0.005)
    tell("e", number, "stubborn")
    return number


@app.task(bind=True, max_retries=1)
def fenced(self, number: int, then: str = "end") -> None:
    """Tell by which permit it runs; and then retry once, or be called once more directly."""
    permit = current_permit()
    told = permit and [permit.number, list(permit.limits), permit.session, permit.granted_at]
    oracle().rpush("fences", json.dumps([number, told, self.request.headers]))
    if then == "retry" and self.request.retries == 0:
        raise self.retry(countdown=0.1)
    if then == "call":
        fenced(number + 1)


@app.task(bind=True)
def parent(self, number: int, depth: int = 1) -> int:
    """Wait for a child of the same kind, as one should not."""
    tell("s", number, "parent")
    if depth:
        with allow_join_result():
            parent.delay(number + 1, depth - 1).get(timeout=60)
    tell("e", number, "parent")
    return number
