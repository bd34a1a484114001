"""A Python that has imported what each Celery process imports, and forks one for each that a test starts.

A script of its own (no module of ``tests`` is in it), run by :mod:`tests.kit.warm`, which decides what may run here.
It has one thread and no socket but the one it was given. What it forks becomes what ``python -m celery`` would be:
its arguments, environment, directory, output, session and signals; Celery then begins in a ``__main__`` of its own.

What comes over the socket (a message each): ``{"run": {...}}`` with the descriptors of stdin, stdout, stderr and of a
pipe, answered with a pid; its exit code is written to that pipe. ``{"reap": pid}`` lets a dead one go: until then it
is a zombie, as under a ``subprocess.Popen`` that nobody has asked.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import site
import socket
import struct
import sys
import time
import types
from typing import Any

#: What is imported: of all this, a worker with a prefork pool on Redis imports every module at its start.
PRELOADED = (
    "celery.bin.celery",
    "celery.apps.worker",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.backends.redis",
    "celery.concurrency.prefork",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.utils.debug",
    "celery.utils.static",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.loops",
    "celery.worker.pidbox",
    "celery.worker.strategy",
    "kombu.transport.redis",
    "celery_gconc.extension",
    "celery_gconc.worker.step",
)

#: The most bytes of one message. An environment has some ten thousand.
LONGEST = 1 << 20

EXITED = struct.Struct("i")


class _Watched(type(os.environ)):
    """An ``os.environ`` that notes which variables are looked at."""

    read: set[str] = set()  # noqa: RUF012

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return super().__getitem__(name)


def preload() -> set[str]:
    """Import it all; returns the variables of the environment that were looked at meanwhile."""
    plain = os.environ.__class__
    os.environ.__class__ = _Watched
    try:
        for name in PRELOADED:
            importlib.import_module(name)
    finally:
        os.environ.__class__ = plain
    read = set(_Watched.read)
    if site.ENABLE_USER_SITE:
        read.add("HOME")
    gc.collect()
    gc.freeze()  # for good: a collection, and the one at the end above all, would write to pages that all share
    return read


class Zygote:
    """Forks, and tells how they ended."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pipes: dict[int, int] = {}  # of those that have not ended, by pid
        self._rang, bell = os.pipe()
        for end in (self._rang, bell):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(bell)

    def serve(self) -> dict[str, Any] | None:
        """Do what is asked until nobody can ask any more. In a fork it returns what to become."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._rang, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._rang in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._rang, 512)
                    self._look()
                if self._control in ready:
                    message, descriptors, _, _ = socket.recv_fds(self._control, LONGEST, 4)
                    if not message:
                        self._end_all()
                        return None
                    if job := self._do(json.loads(message), descriptors):
                        return job

    def _do(self, asked: dict[str, Any], descriptors: list[int]) -> dict[str, Any] | None:
        if "reap" in asked:
            os.waitpid(asked["reap"], 0)
            return None
        pid = os.fork()
        if pid == 0:
            return {**asked["run"], "streams": descriptors[:3]}
        *streams, self._pipes[pid] = descriptors
        for descriptor in streams:
            os.close(descriptor)
        self._control.send(str(pid).encode())
        return None

    def _look(self) -> None:
        for pid in list(self._pipes):
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                pipe = self._pipes.pop(pid)
                with contextlib.suppress(BrokenPipeError):
                    os.write(pipe, EXITED.pack(code))
                os.close(pipe)

    def _end_all(self) -> None:
        """The tests are gone: what they have left goes with them."""
        for pid in self._pipes:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if os.getpgid(pid) == pid else os.kill)(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()


def become(job: dict[str, Any], base: list[str]) -> None:
    """Be the process that is asked for, as far as it is before its first line of Python."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if job["session"]:
        os.setsid()
    for number, stream in enumerate(job["streams"]):
        os.dup2(stream, number)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(descriptor)
    _open_streams()
    os.environ.clear()
    os.environ.update(job["env"])
    time.tzset()
    os.chdir(job["cwd"])
    given = [os.path.abspath(path) for path in job["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [os.getcwd(), *dict.fromkeys([*given, *base])]
    sys.orig_argv[:] = job["command"]
    sys.argv[:] = job["command"][2:]
    importlib.invalidate_caches()
    sys.modules["__main__"] = sys.modules["__mp_main__"] = types.ModuleType("__main__")


def _open_streams() -> None:
    """Have sys.stdin, stdout and stderr be what Python makes of the descriptors as they are now: files or pipes."""
    for number, (stream, name) in enumerate(((sys.stdin, "stdin"), (sys.stdout, "stdout"), (sys.stderr, "stderr"))):
        is_raw = isinstance(stream.buffer, io.RawIOBase)
        buffer = open(number, stream.buffer.mode, buffering=0 if is_raw else -1, closefd=False)
        (buffer if is_raw else buffer.raw).name = f"<{name}>"
        stream.__init__(
            buffer, encoding=stream.encoding, errors=stream.errors, newline="\n" if number else None,
            line_buffering=stream.line_buffering, write_through=stream.write_through,
        )  # fmt: skip


def main() -> dict[str, Any] | None:
    """Import, tell what fits, serve; in a fork, be ready to run."""
    control, root = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    base = sys.path[1:]
    sys.path[:] = [root, *base]
    read = preload()
    roots = {name.partition(".")[0] for name in sys.modules}
    control.send(json.dumps({"read": sorted(read), "modules": sorted(roots)}).encode())
    job = Zygote(control).serve()
    if job is not None:
        control.detach()
        become(job, base)
    return job


if __name__ == "__main__" and (job := main()):
    runpy._run_module_as_main(job["command"][2])
