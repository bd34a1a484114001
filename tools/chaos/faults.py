"""Carries out the steps of a schedule, and notes each at the oracle: begun, over."""

from __future__ import annotations

import itertools
import signal
import threading
import time
import traceback
from collections.abc import Callable
from random import Random

import psutil

from celery_gconc import GlobalConcurrencyError
from tests.kit.keys import key
from tests.kit.servers import wait_until

from .plan import INTERVAL
from .schedule import Step
from .world import Worker, World

_CLOCK_STEP = "if redis.call('HEXISTS', KEYS[1], 'time') == 1 then redis.call('HINCRBY', KEYS[1], 'time', ARGV[1]) end"


class Faults:
    """One thread a step; :meth:`carry_out` returns when all are over."""

    def __init__(self, world: World, change: Callable[[Step], None]) -> None:
        self.world, self._change = world, change
        self.errors: list[str] = []
        #: How often each fault was done, and each change was confirmed.
        self.done: dict[str, int] = {}
        self.hung: list[str] = []
        self._numbers = itertools.count(1)
        self._threads: list[threading.Thread] = []
        self._changes = threading.Lock()
        self._coordination = threading.Lock()

    def carry_out(self, step: Step) -> None:
        """Begin a step; it goes on by itself."""
        thread = threading.Thread(target=self._guarded, args=(step,), daemon=True, name=str(step))
        self._threads = [one for one in self._threads if one.is_alive()] + [thread]
        thread.start()

    def wait(self) -> None:
        """Until all that were begun are over."""
        for thread in self._threads:
            thread.join(120)
            if thread.is_alive():
                self.errors.append(f"not over: {thread.name}")

    def _guarded(self, step: Step) -> None:
        try:
            if step.what == "change":
                with self._changes:  # one client: its changes follow each other
                    self._change(step)
            elif step.what == "calm":
                self.world.oracle.tell("calm", phase="begin")
                time.sleep(step.seconds)
                self.world.oracle.tell("calm", phase="end")
            elif step.what == "snapshot":
                with self._coordination:
                    self.world.oracle.tell("mark", name="snapshot")
                    self.world.coordination.snapshot()
            else:
                self._fault(step)
                self.done[step.what] = self.done.get(step.what, 0) + 1
        except GlobalConcurrencyError:
            raise
        except Exception:  # noqa: BLE001 - told in the report: the run is then worth nothing
            self.errors.append(f"{step}\n{traceback.format_exc()}")

    def _fault(self, step: Step) -> None:
        number = next(self._numbers)
        affected = self._affected(step)

        def tell(phase: str) -> None:
            self.world.oracle.tell(
                "fault", name=step.what, phase=phase, number=number, w=affected, seconds=step.seconds
            )

        tell("begin")
        try:
            getattr(self, "_" + step.what.replace("-", "_"))(step)
        finally:
            tell("end")

    def _affected(self, step: Step) -> list[str]:
        if step.target in self.world.workers:
            return [self.world.workers[step.target].name]
        if step.target == "A":
            side = self.world.sides[0]
            return [w.name for w in self.world.workers.values() if self.world.side_of(w.member.name) is side]
        return [w.name for w in self.world.workers.values()]

    # -- Workers -----------------------------------------------------------------------------------------

    def _worker(self, step: Step) -> Worker:
        return self.world.workers[step.target]

    def _kill(self, step: Step) -> None:
        worker = self._worker(step)
        with worker.lock:
            worker.kill()
            time.sleep(step.seconds)
            worker.start()

    def _kill_child(self, step: Step) -> None:
        worker = self._worker(step)
        with worker.lock:
            if worker.is_ready and (pids := sorted(worker.children())):
                child = psutil.Process(Random(step.at).choice(pids))
                child.suspend()  # else a task may begin in it between the word and the deed
                still = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
                wait_until(lambda: child.status() in still, what="the child stands still")
                self.world.oracle.tell("child", w=worker.name, pid=child.pid)
                child.kill()

    def _stop_short(self, step: Step) -> None:
        worker = self._worker(step)
        with worker.lock:
            worker.signal(signal.SIGSTOP)
            time.sleep(step.seconds)
            worker.signal(signal.SIGCONT)

    _stop_long = _stop_short

    def _warm(self, step: Step) -> None:
        worker = self._worker(step)
        with worker.lock:
            if not worker.stop():
                self.hung.append(worker.name)
            worker.start()

    # -- The coordination Redis --------------------------------------------------------------------------

    def _flushall(self, step: Step) -> None:
        with self._coordination:
            self.world.coordination.client.flushall()

    def _kill_empty(self, step: Step) -> None:
        self._restart(step, empty=True)

    def _kill_snapshot(self, step: Step) -> None:
        self._restart(step, empty=False)

    def _restart(self, step: Step, *, empty: bool) -> None:
        with self._coordination:
            self.world.coordination.kill()
            time.sleep(step.seconds)
            self.world.coordination.back(empty=empty)

    def _reload(self, step: Step) -> None:
        with self._coordination:
            self.world.coordination.reload()

    def _freeze(self, step: Step) -> None:
        with self._coordination:
            self.world.coordination.freeze()
            time.sleep(step.seconds)
            self.world.coordination.thaw()

    def _pause(self, step: Step) -> None:
        with self._coordination:
            self.world.coordination.client.client_pause(int(step.seconds * 1000), all=True)
            time.sleep(step.seconds)

    def _script_flush(self, step: Step) -> None:
        with self._coordination:
            self.world.coordination.client.script_flush()

    def _clock_step(self, step: Step) -> None:
        with self._coordination:
            self.world.coordination.client.eval(_CLOCK_STEP, 1, key("meta"), step.value)

    def _client_kill(self, step: Step) -> None:
        with self._coordination:
            for kind in ("normal", "pubsub") if step.target == "both" else (step.target,):
                self.world.coordination.client.client_kill_filter(_type=kind, skipme=True)

    def _cut(self, step: Step) -> None:
        self._on_sides(step, lambda wire: wire.cut())

    def _silence(self, step: Step) -> None:
        self._on_sides(step, lambda wire: wire.silence())

    def _delay(self, step: Step) -> None:
        self._on_sides(step, lambda wire: wire.delay(0.1 * INTERVAL + step.seconds / 20))

    def _partition(self, step: Step) -> None:
        self.world.sides[0].cut()
        time.sleep(step.seconds)
        self.world.sides[0].heal()

    def _on_sides(self, step: Step, do: Callable[..., None]) -> None:
        for wire in self.world.sides:
            do(wire)
        time.sleep(step.seconds)
        for wire in self.world.sides:
            wire.heal()

    # -- The broker --------------------------------------------------------------------------------------

    def _broker_cut(self, step: Step) -> None:
        self.world.broker_wire.cut()
        time.sleep(step.seconds)
        self.world.broker_wire.heal()

    def _broker_freeze(self, step: Step) -> None:
        self.world.freeze_broker()
        time.sleep(step.seconds)
        self.world.thaw_broker()
