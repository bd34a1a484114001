"""The servers and workers of a run: two proxied ways to the coordination Redis, a broker behind a proxy, the oracle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import redis

from tests.kit.servers import ROOT, RedisServer, free_port, rabbitmq_server, redis_server

from .log import Log
from .plan import QUEUES, WARM
from .schedule import Member, Schedule
from .wire import Wire


class Coordination:
    """The coordination Redis: can be killed and come back on its port, empty or from a snapshot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._dump, self._kept = folder / "dump.rdb", folder / "kept.rdb"
        self.port = free_port()
        self._stack = ExitStack()
        self._server = self._start()
        self.client = redis.Redis(port=self.port, socket_timeout=10)
        self.snapshot()

    def _start(self) -> RedisServer:
        options = ("--dir", str(self._folder), "--enable-debug-command", "local")
        return self._stack.enter_context(redis_server(self.port, *options))

    def snapshot(self) -> None:
        """Save what it holds now."""
        self.client.save()
        shutil.copy(self._dump, self._kept)

    def kill(self) -> None:
        """SIGKILL."""
        self._server.process.kill()
        self._server.process.wait(5)
        self._stack.close()

    def back(self, *, empty: bool) -> None:
        """Start again: with nothing, or with the last snapshot."""
        self._dump.unlink(missing_ok=True)
        if not empty:
            shutil.copy(self._kept, self._dump)
        self._server = self._start()

    def reload(self) -> None:
        """Go back to the snapshot without a restart."""
        shutil.copy(self._kept, self._dump)
        self.client.execute_command("DEBUG", "RELOAD", "NOSAVE")

    def freeze(self) -> None:
        """SIGSTOP."""
        self._server.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._server.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self.client.close()
        self.thaw()
        self._stack.close()


class Worker:
    """One worker of the run, through its lives."""

    def __init__(self, world: World, member: Member, side: Wire, *, extended: bool) -> None:
        self.member, self._world, self._side, self._extended = member, world, side, extended
        self.life = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.RLock()  # one fault at a time does something to a worker's process

    @property
    def name(self) -> str:
        """Its name in this life."""
        return f"{self.member.name}.{self.life}"

    @property
    def log(self) -> Path:
        """Its output in this life."""
        return self._world.folder / f"{self.name}.log"

    def start(self) -> None:
        """Begin a life; :meth:`wait_ready` waits for it."""
        self.life += 1
        world, member = self._world, self.member
        command = [
            sys.executable, "-m", "celery", "-A", "tools.chaos.app", "worker", "-n", f"{member.name}@chaos",
            "-P", member.pool, "-c", str(member.slots), "-Q", ",".join(QUEUES),
            "-l", os.environ.get("CHAOS_LEVEL", "INFO"),
            "--without-mingle", "--without-gossip", "--without-heartbeat",
        ]  # fmt: skip
        env = {**world.env(self._extended), "CHAOS_REDIS": f"redis://127.0.0.1:{self._side.port}/0"}
        env["CHAOS_LIFE"] = self.name
        world.oracle.tell("worker", w=self.name, phase="start", slots=member.slots, pool=member.pool)
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        name = self.name
        threading.Thread(target=self._tell_ready, args=(name, self.process, self.log), daemon=True).start()

    def _tell_ready(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        while process.poll() is None:
            if " ready." in log.read_text(errors="replace"):
                self._world.oracle.tell("worker", w=name, phase="ready")
                return
            time.sleep(0.1)

    @property
    def is_ready(self) -> bool:
        """Whether it has connected and takes messages."""
        return self.is_alive and " ready." in self.log.read_text(errors="replace")

    @property
    def is_alive(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """To its whole process group."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL to all of it."""
        assert self.process is not None
        self._world.oracle.tell("worker", w=self.name, phase="dead")
        self.signal(signal.SIGKILL)
        self.process.wait(20)

    def stop(self) -> bool:
        """Warm shutdown; false where it took too long, and was killed."""
        assert self.process is not None
        self._world.oracle.tell("worker", w=self.name, phase="stopping")
        self.process.terminate()
        try:
            self.process.wait(WARM)
            return True
        except subprocess.TimeoutExpired:
            return False
        finally:
            self.kill()

    def children(self) -> list[int]:
        """Its pool children."""
        assert self.process is not None
        try:
            return [child.pid for child in psutil.Process(self.process.pid).children()]
        except psutil.Error:
            return []


class World:
    """Everything that runs. ``close`` ends it all."""

    def __init__(self, schedule: Schedule, folder: Path, *, extended: bool = True, without: str = "") -> None:
        self.schedule, self.folder, self.extended = schedule, folder, extended
        folder.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        try:
            self.oracle_server = self._stack.enter_context(redis_server())
            self.oracle = Log(self.oracle_server.url)
            self._stack.callback(self.oracle.close)
            self.coordination = Coordination(folder / "coordination")
            self._stack.callback(self.coordination.close)
            is_redis = schedule.broker == "redis"
            server = self._stack.enter_context(redis_server() if is_redis else rabbitmq_server())
            self.broker_process = server.process
            self._stack.callback(self.thaw_broker)
            self.direct_broker = server.url
            self.broker_wire = self._wire(server.port)
            self.broker = server.url.replace(f":{server.port}", f":{self.broker_wire.port}")
            #: Side A and side B of the coordination Redis: half of the workers each; who changes limits is on side B.
            self.sides = (self._wire(self.coordination.port), self._wire(self.coordination.port))
            self.workers = {
                member.name: Worker(self, member, self.side_of(member.name),
                                    extended=extended and member.name != without)
                for member in schedule.members
            }  # fmt: skip
        except BaseException:
            self._stack.close()
            raise

    def side_of(self, name: str) -> Wire:
        """The way of a worker to the coordination Redis: every other one is on side A."""
        return self.sides[int(name[1:]) % 2]

    def _wire(self, port: int) -> Wire:
        wire = Wire(port)
        self._stack.callback(wire.close)
        return wire

    def env(self, extended: bool) -> dict[str, str]:
        """The environment of a worker."""
        return {
            **os.environ,
            "CHAOS_BROKER": self.broker,
            "CHAOS_ORACLE": self.oracle_server.url,
            "CHAOS_LIMITS": json.dumps(self.schedule.limits),
            "CHAOS_EXTENSION": "1" if extended else "",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "PYTHONUNBUFFERED": "1",
            "C_FORCE_ROOT": "1",
        }

    def freeze_broker(self) -> None:
        """SIGSTOP to the broker, and what it started."""
        self._signal_broker(signal.SIGSTOP)

    def thaw_broker(self) -> None:
        """SIGCONT."""
        self._signal_broker(signal.SIGCONT)

    def _signal_broker(self, number: int) -> None:
        with suppress(psutil.Error, ProcessLookupError):
            root = psutil.Process(self.broker_process.pid)
            for process in [root, *root.children(recursive=True)]:
                process.send_signal(number)

    def close(self) -> None:
        """End the workers, then the servers."""
        for worker in self.workers.values():
            if worker.process is not None:
                worker.signal(signal.SIGCONT)
                worker.kill()
        self._stack.close()
