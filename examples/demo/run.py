"""The course of the demo: workers up, a backlog, three changes of the limit, one crash; then the account of it."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from . import interruption
from .problem import Problem
from .screen import Screen
from .server import redis_server
from .timeline import Timeline
from .witness import Witness
from .workers import NAMES, Workers

#: What the limit is changed to, one after the other.
CHANGES = (8, 2, 4)

#: How long each limit is left to show once the command that sets it has returned, and the recovery; in seconds.
HOLD = 3.5

#: How much longer the first limit is left as it is, in seconds.
FIRST_LOOK = 1.0

#: How long the demo waits at most for a worker that runs just half of what runs, to kill it; in seconds.
CHOOSE = 2.0

#: How long the demo goes on at most after the kill if the limit is not used in full again, in seconds.
AFTER_KILL = 12.0

#: Tasks in the backlog: more than the demo gets through.
BACKLOG = 900

#: How often the witness is heard, in seconds.
TICK = 0.1

#: How long workers may take to start, and a command to be carried out, in seconds.
PATIENCE = 30.0


def run(screen: Screen, hold: float = HOLD) -> Timeline:
    """Run the demo, with *hold* seconds for each limit, and return its timeline.

    Ends every process it started, however it ends.

    Raises:
        Problem: it could not be run.
    """
    namespace = f"gconc-demo-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="gconc-demo-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        screen.say("starting a Redis" if not os.environ.get("REDIS_URL") else "looking for the Redis of REDIS_URL")
        url = stack.enter_context(redis_server(os.environ, folder, namespace))
        # The app reads both when it is imported: here, and in each worker.
        os.environ.update(REDIS_URL=url, GCONC_DEMO_NAMESPACE=namespace)
        workers = stack.enter_context(Workers(os.environ, folder))
        return _Course(screen, workers, Witness(url, namespace), hold).run()


class _Course:
    """One run: what is started in which order, and watched all the while."""

    def __init__(self, screen: Screen, workers: Workers, witness: Witness, hold: float) -> None:
        from . import app

        self._app = app
        self._screen = screen
        self._workers = workers
        self._witness = witness
        self._hold = hold
        self._timeline = Timeline(app.FIRST_LIMIT)
        self._began = 0.0

    def run(self) -> Timeline:
        self._screen.say(f"starting {len(NAMES)} workers")
        self._workers.start()
        self._wait_for_workers()
        self._witness.tell("begin")
        self._began = time.monotonic()
        self._screen.say(f"the limit is {self._app.FIRST_LIMIT}; sending {BACKLOG} tasks")
        self._send()
        self._watch_for(FIRST_LOOK + self._hold)
        for limit in CHANGES:
            self._change(limit)
            self._watch_for(self._hold)
        self._kill()
        self._watch_recovery()
        self._witness.tell("stop")
        self._hear()
        return self._timeline

    def _wait_for_workers(self) -> None:
        for _ in _every(TICK, PATIENCE, "the workers did not start"):
            self._workers.check()
            status = self._app.gconc.status()
            # A namespace that is new grants nothing at first: workers that lived before a loss of data could come back.
            if len(status.sessions) == len(NAMES) and not any(limit.settling for limit in status):
                return

    def _send(self) -> None:
        with self._app.app.producer_pool.acquire(block=True) as producer:
            for number in range(BACKLOG):
                self._app.send_email.apply_async((number,), producer=producer)

    def _change(self, limit: int) -> None:
        was = self._timeline.limit
        self._screen.say(f"$ celery control set_global_concurrency emails {limit}")
        self._witness.tell("announce", limit=limit)
        command = self._workers.set_limit(limit)
        for _ in _every(TICK, PATIENCE, "the control command did not return"):
            self._watch()
            if command.poll() is not None:
                break
        output = command.stdout.read() if command.stdout else ""
        if command.returncode != 0:
            raise Problem(f"the control command failed: {output.strip().splitlines()[-1]}")
        for _ in _every(TICK, PATIENCE, f"the limit did not become {limit}"):
            status = self._app.gconc.status("emails")["queue:emails"]
            if status.max == limit:
                break
        self._witness.tell("change", limit=limit, effective=status.set_at)
        self._hear()
        self._screen.say(f"the limit is {'raised' if limit > was else 'lowered'} from {was} to {limit}")

    def _kill(self) -> None:
        began = self._elapsed()
        for _ in _every(TICK / 5, PATIENCE, "no worker ran a task"):
            self._watch()
            running = sorted(self._timeline.running.values(), key=lambda run: run.began)
            if not running:
                continue
            # One that runs half shows most: the other half goes on. Workers take turns, so one does before long;
            # the one whose tasks began first is giving way, and won't have been granted the other half by now.
            victim = running[0].worker
            count = self._timeline.by_worker()[victim]
            giving_way = count * 2 == self._timeline.limit and running[-1].worker != victim
            if giving_way or self._elapsed() > began + CHOOSE:
                break
        self._workers.kill(victim)
        self._witness.tell("kill", worker=victim)
        self._screen.say(f"$ kill -9 {victim}: it ran {count} of {self._timeline.limit}")

    def _watch_recovery(self) -> None:
        said = False
        for _ in _every(TICK, AFTER_KILL + PATIENCE, "the demo did not end"):
            self._watch()
            timeline = self._timeline
            if timeline.recovery is not None and not said:
                said = True
                self._screen.say(f"{timeline.limit} tasks run again, {timeline.recovery:.1f} s after the kill")
            end = (timeline.killed_at or 0) + AFTER_KILL
            if timeline.recovered_at is not None:
                end = timeline.recovered_at + self._hold
            if self._elapsed() >= end:
                return

    def _watch_for(self, seconds: float) -> None:
        until = self._elapsed() + seconds
        while self._elapsed() < until:
            interruption.check()
            self._watch()
            time.sleep(TICK)

    def _watch(self) -> None:
        self._workers.check()
        self._hear()
        self._screen.show(self._timeline, self._elapsed())

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _hear(self) -> None:
        for event in self._witness.hear():
            self._timeline.hear(event)


def _every(seconds: float, patience: float, complaint: str) -> Iterator[None]:
    """Yield at once and then every so many seconds; raise Problem when patience ends, or if interrupted."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        interruption.check()
        yield
        time.sleep(seconds)
    raise Problem(f"{complaint} within {patience:g} s")
