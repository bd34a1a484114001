"""The load: random tasks, as many under way as the plan says; and who changes limits, both as separate clients."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

from celery import Celery
from kombu import Exchange, Queue

from celery_gconc import GlobalConcurrency, GlobalConcurrencyError

from .log import Log
from .plan import INTERVAL, KINDS, LEASE, OUTSTANDING, PACE, QUEUES, VISIBILITY
from .schedule import Step
from .world import World

#: How often each kind of task is sent.
_WEIGHTS = {"plain": 5, "alone": 2, "pooled": 3, "both": 2, "late": 2, "requeued": 1, "flaky": 1}


def client(world: World) -> Celery:
    """An app that sends to the broker itself, not through the proxy."""
    app = Celery("chaos-client", broker=world.direct_broker, set_as_current=False)
    queues = [Queue(name, Exchange(name), routing_key=name) for name in QUEUES]
    app.conf.update(task_queues=queues, task_default_queue=QUEUES[-1], broker_heartbeat=0)
    if world.direct_broker.startswith("redis"):
        app.conf.broker_transport_options = {"visibility_timeout": VISIBILITY}
    return app


class Load:
    """Sends tasks until :meth:`stop`."""

    def __init__(self, world: World, outstanding: Callable[[], int]) -> None:
        self._world, self._outstanding = world, outstanding
        self._chance = random.Random(f"load {world.schedule.seed}")
        self._log = Log(world.oracle_server.url)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.sent = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when nothing more is being sent."""
        self._ended.set()
        self._thread.join(60)
        self._log.close()

    def _run(self) -> None:
        app = client(self._world)
        with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
            while not self._ended.wait(self._chance.expovariate(PACE)):
                if self._outstanding() < OUTSTANDING * len(self._world.workers):
                    self._send(app, producer)
        app.close()

    def _send(self, app: Celery, producer: object) -> None:
        chance = self._chance
        kind = KINDS[chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]]
        queue = chance.choice(QUEUES)
        seconds = round(min(0.005 * 400 ** chance.random(), 2.0), 3)
        how = chance.random()
        options: dict[str, float] = {}
        excuse = ""
        if how < 0.04:
            options["expires"], excuse = round(chance.uniform(0.3, 2), 2), "expires"
        elif how < 0.08:
            options["countdown"] = round(chance.uniform(0.1, 1.5), 2)
        elif how < 0.11:
            excuse = "revoked"
        name = str(uuid.UUID(int=chance.getrandbits(128)))
        self._log.tell(
            "sent", id=name, task=kind.task, queue=queue, limits=kind.covers(queue), late=kind.late, excuse=excuse,
            eta=options.get("countdown", 0.0),
        )  # fmt: skip
        try:
            app.send_task(kind.task, (seconds,), task_id=name, queue=queue, producer=producer, retry=True, **options)
            self.sent += 1
        except Exception:  # noqa: BLE001 - whether it was sent is not known: nobody waits for it
            self._log.tell("unsent", id=name)
        if excuse == "revoked":
            with suppress(Exception):
                app.control.revoke(name)


class Operator:
    """Changes limits by the Python API, through a proxy of its own side."""

    def __init__(self, world: World) -> None:
        app = client(world)
        app.conf.update(
            global_concurrency_redis_url=f"redis://127.0.0.1:{world.sides[1].port}/0",
            global_concurrency_heartbeat_interval=INTERVAL,
            global_concurrency_heartbeat_timeout=LEASE,
            global_concurrency_limits=json.loads(json.dumps(world.schedule.limits)),
        )
        self._gconc = GlobalConcurrency(app)
        self._log = Log(world.oracle_server.url)
        self.confirmed = self.failed = 0

    def change(self, step: Step) -> None:
        """Carry out a change, and tell the oracle how it went. What ends a standstill is tried again and again."""
        for _ in range(20):
            if self.set(step.target, step.value) or step.value not in ("reset", "resume"):
                return
            time.sleep(0.5)

    def set(self, limit: str, value: str) -> bool:
        """A number, ``unlimited``, ``reset``, ``pause`` or ``resume``; false where Redis did not confirm."""
        self._log.tell("change", limit=limit, value=value, phase="begin")
        try:
            if value in ("reset", "pause", "resume"):
                getattr(self._gconc, value)(limit)
            else:
                self._gconc.set(limit, value)
        except GlobalConcurrencyError as exc:
            self.failed += 1
            self._log.tell("change", limit=limit, value=value, phase="failed", why=str(exc)[:80])
            return False
        self.confirmed += 1
        self._log.tell("change", limit=limit, value=value, phase="done")
        return True

    def close(self) -> None:
        """End."""
        self._gconc.close()
        self._log.close()
