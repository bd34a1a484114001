"""The app of the life-cycle tests' workers: tasks that end, fail, wait and die in each way that Celery knows.

They tell the oracle of their start and end under the name of the queue they came through, so that what runs under
that queue's limit can be counted whatever the task.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery, Task
from celery.concurrency.asynpool import AsynPool
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.utils.log import get_logger
from celery.worker.request import Request

from celery_gconc import GlobalConcurrency
from tests.cluster.app import tell

logger = get_logger(__name__)

#: How long, in seconds, a held task waits to be let go.
PATIENCE = 60

app = Celery("lifecycle", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    result_expires=600,
    **json.loads(os.environ.get("TEST_CONF", "{}")),
)
gconc = GlobalConcurrency(app)

# Celery 5.4-5.7 looks for children that its prefork pool lacks every five seconds (AsynPool.timers, no setting); tests
# wait for that, so ten times as often.
AsynPool.timers = property(lambda pool: {pool.maintain_pool: 0.5})

_client: redis.Redis | None = None


def oracle() -> redis.Redis:
    """A client of the oracle's Redis, of this process."""
    global _client
    if _client is None:
        _client = redis.Redis.from_url(os.environ["TEST_ORACLE"])
    return _client


@contextmanager
def told(task: Task, number: int) -> Iterator[None]:
    """Tell the oracle when the block starts and ends."""
    queue = task.request.delivery_info["routing_key"]
    tell("s", number, queue)
    try:
        yield
    finally:
        tell("e", number, queue)


def is_first_run(number: int) -> bool:
    """Whether the task of this number runs for the first time."""
    return oracle().incr(f"runs:{number}") == 1


def wait_to_be_let_go(number: int) -> None:
    """Wait until the test says go, once for each run."""
    ends = time.monotonic() + PATIENCE
    while oracle().blpop([f"go:{number}"], 1) is None:  # redis-py 8 reads no longer than 5 s, and loses what it popped
        if time.monotonic() > ends:
            raise TimeoutError(f"nobody let task {number} go")


@app.task(bind=True)
def nap(self: Task, number: int, seconds: float = 0.0) -> int:
    """Sleep."""
    with told(self, number):
        time.sleep(seconds)
    return number


@app.task(bind=True)
def held(self: Task, number: int) -> int:
    """Run until let go."""
    with told(self, number):
        wait_to_be_let_go(number)
    return number


@app.task(bind=True)
def soft(self: Task, number: int) -> str:
    """Run until the soft time limit, and say so."""
    with told(self, number):
        try:
            wait_to_be_let_go(number)
        except SoftTimeLimitExceeded:
            return "soft limit"
    return "no limit"


@app.task(bind=True)
def fails(self: Task, number: int) -> None:
    """Raise."""
    with told(self, number):
        raise ValueError(number)


@app.task(bind=True)
def ignores(self: Task, number: int) -> None:
    """Raise Ignore."""
    with told(self, number):
        raise Ignore


@app.task(bind=True, acks_late=True)
def rejects(self: Task, number: int, requeue: bool) -> int:
    """Raise Reject when run for the first time."""
    with told(self, number):
        if is_first_run(number):
            raise Reject("no", requeue=requeue)
    return number


@app.task(bind=True, max_retries=2)
def retries(self: Task, number: int, countdown: float) -> int:
    """Retry once; the result is how many retries it took."""
    with told(self, number):
        if self.request.retries == 0:
            raise self.retry(countdown=countdown)
    return self.request.retries


@app.task(bind=True)
def paced(self: Task, number: int) -> int:
    """Do nothing; its rate limit is set at run time."""
    with told(self, number):
        return number


@app.task(bind=True, acks_late=True)
def late(self: Task, number: int) -> int:
    """Run until let go, acknowledged at the end."""
    with told(self, number):
        wait_to_be_let_go(number)
    return number


@app.task(bind=True, acks_late=True, acks_on_failure_or_timeout=False)
def late_fails(self: Task, number: int) -> None:
    """Raise; its message is rejected."""
    with told(self, number):
        raise ValueError(number)


@app.task(bind=True, acks_late=True, acks_on_failure_or_timeout=False, time_limit=1)
def late_slow(self: Task, number: int) -> int:
    """Run into the hard time limit when run for the first time; its message is queued again."""
    with told(self, number):
        if is_first_run(number):
            wait_to_be_let_go(number)
    return number


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def dies(self: Task, number: int) -> int:
    """Run until let go, and lose the child when run for the first time."""
    with told(self, number):
        if is_first_run(number):
            wait_to_be_let_go(number)
            os.kill(os.getpid(), signal.SIGKILL)
    return number


@app.task(bind=True)
def pid_of(self: Task, number: int, megabytes: int = 0) -> int:
    """Take some memory, and return the pid of the process."""
    with told(self, number):
        kept = bytearray(megabytes * 1024 * 1024)
        kept[::4096] = b"\1" * len(kept[::4096])
    return os.getpid()


@app.task(bind=True)
def replaces(self: Task, number: int) -> None:
    """Put another task in its place."""
    with told(self, number):
        raise self.replace(nap.si(number + 1).set(queue=self.request.delivery_info["routing_key"]))


@app.task(bind=True)
def adds(self: Task, numbers: list[int], number: int) -> int:
    """The sum: a chord's callback."""
    with told(self, number):
        return sum(numbers)


@app.task(bind=True)
def adds_one(self: Task, number: int) -> int:
    """A link of a chain."""
    with told(self, number):
        return number + 1


@app.task(bind=True)
def after_error(self: Task, task_id: str, number: int) -> str:
    """An error callback of the old form, which Celery sends as a task."""
    with told(self, number):
        return task_id


class Watched(Request):
    """A request class of the user's, which sees failures and timeouts in the worker's main process."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Log it."""
        logger.warning("watched: failure of %s", self.id)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """Log it."""
        logger.warning("watched: timeout of %s", self.id)
        return super().on_timeout(soft, timeout)

    def on_accepted(self, pid: int, time_accepted: float) -> Any:
        """Log it."""
        logger.warning("watched: accepted %s", self.id)
        return super().on_accepted(pid, time_accepted)


@app.task(bind=True, Request=Watched)
def watched(self: Task, number: int, how: str = "success") -> int:
    """End as told, with a request class of its own."""
    with told(self, number):
        if how == "failure":
            raise ValueError(number)
        if how == "timeout":
            wait_to_be_let_go(number)
    return number


class Clumsy(Request):
    """A request class whose callback has a fault."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Fail."""
        super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        raise RuntimeError("a fault in the user's own callback")


@app.task(bind=True, Request=Clumsy)
def clumsy(self: Task, number: int) -> None:
    """Fail, with a request class that fails too."""
    with told(self, number):
        raise ValueError(number)


class Classic(Task):
    """A class-based task with a limit of its own."""

    name = "tests.lifecycle.app.classic"
    global_concurrency = 1

    def run(self, number: int) -> str:
        """Run until let go."""
        with told(self, number):
            wait_to_be_let_go(number)
        return type(self).__name__


classic = app.register_task(Classic())


@app.task(bind=True, global_concurrency="pool:bound")
def bound(self: Task, number: int) -> str:
    """Run until let go, under a limit that the decorator names."""
    with told(self, number):
        wait_to_be_let_go(number)
    return str(self.request.id)


@app.task(bind=True, global_concurrency="pool:inner")
def inner(self: Task, number: int) -> int:
    """What another task calls directly: it has no request then."""
    tell("s", number, "inner")
    tell("e", number, "inner")
    return number


@app.task(bind=True)
def calls(self: Task, number: int) -> list[int]:
    """Call a limited task directly, and apply it here."""
    with told(self, number):
        return [inner(number + 1), inner.apply((number + 2,)).get(disable_sync_subtasks=False)]


app.conf.beat_schedule = (
    {
        "tick": {
            "task": nap.name,
            "schedule": 0.3,
            "args": (7,),
            "options": {"queue": os.environ["TEST_TICKS"], "expires": 30},
        }
    }
    if "TEST_TICKS" in os.environ
    else {}
)
