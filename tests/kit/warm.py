"""Celery processes that have their imports done: forks of a process that did them once for this pytest.

:func:`popen` and :func:`run` stand for ``subprocess.Popen`` and ``subprocess.run``. What a fork can't be with
certainty is started as ever: another program than ``python -m celery``, green pools (they patch before all imports), an
environment in which something imported, or Python itself, would be another (see :meth:`Zygote.fits`).
``TEST_COLD=1`` has everything started so.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.kit.servers import ROOT
from tests.kit.zygote import EXITED, LONGEST

#: How long, in seconds, its imports may take.
START_TIMEOUT = 60.0

#: How long, in seconds, it may take to end with all that it has forked.
END_TIMEOUT = 20.0

#: Variables that Python, its libraries in C, or the loader look at before any Python runs. (PYTHONPATH is dealt with.)
BEFORE_PYTHON = ("PYTHON", "LD_", "LC_", "LANG", "GLIBC_", "MALLOC_", "OPENSSL_")

#: Options of Popen that a fork can have.
OPTIONS = {"cwd", "env", "stdin", "stdout", "stderr", "start_new_session", "text", "encoding", "errors", "bufsize"}

GREEN = ("gevent", "eventlet")


class Zygote:
    """The process that forks, as this one sees it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # one request and its answer after the other
        self._env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "C_FORCE_ROOT": "1"}
        self._control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            its.set_inheritable(True)
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("zygote.py")), str(its.fileno()), str(ROOT)],
                env={**self._env, "PYTHONPATH": ""}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                pass_fds=[its.fileno()], start_new_session=True,
            )  # fmt: skip
        self._control.settimeout(START_TIMEOUT)
        facts = json.loads(self._control.recv(LONGEST))
        self._read = {*facts["read"]}
        self._modules = {*facts["modules"]}

    def fits(self, command: Sequence[str], env: Mapping[str, str], cwd: str) -> bool:
        """Whether its fork is, as far as anybody can see, what Python would be that was started anew."""
        if list(command[:3]) != [sys.executable, "-m", "celery"] or any(green in " ".join(command) for green in GREEN):
            return False
        looked_at = self._read | {name for name in {*env, *self._env} if name.startswith(BEFORE_PYTHON)}
        if any(env.get(name) != self._env.get(name) for name in looked_at - {"PYTHONPATH"}):
            return False
        paths = {os.path.abspath(path) for path in (cwd, *env.get("PYTHONPATH", "").split(os.pathsep)) if path}
        others = paths - {str(ROOT)}
        return str(ROOT) in paths and not any(self._shadows(path) for path in others)

    def _shadows(self, path: str) -> bool:
        """Whether a folder has a module that is imported already, what Python runs at its start, or entry points."""
        try:
            files = os.listdir(path)
        except OSError:
            return True
        names = {name.partition(".")[0] for name in files}
        taken = self._modules | {"sitecustomize", "usercustomize"}
        return not names.isdisjoint(taken) or any(name.endswith(".dist-info") for name in files)

    def fork(self, job: dict[str, Any], streams: Sequence[int]) -> tuple[int, int]:
        """Have a child run; returns its pid and the pipe that will tell its exit code."""
        told, tells = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._control, [json.dumps({"run": job}).encode()], [*streams, tells])
                return int(self._control.recv(LONGEST)), told
        finally:
            os.close(tells)

    def close(self) -> None:
        """End it, and what it has forked and is still there."""
        self._control.close()
        self._process.wait(END_TIMEOUT)

    def reap(self, pid: int) -> None:
        """Let a dead child go."""
        with self._lock, contextlib.suppress(OSError):
            self._control.send(json.dumps({"reap": pid}).encode())


class WarmPopen(subprocess.Popen):  # type: ignore[type-arg]
    """A ``Popen`` of a fork of the zygote."""

    def __init__(self, zygote: Zygote, command: Sequence[str], **options: Any) -> None:
        self._zygote = zygote
        self._session = bool(options.get("start_new_session"))
        super().__init__(command, **options)

    def _execute_child(self, args, _executable, _preexec, _close, _pass, cwd, env, _info, _flags, _shell,
                       p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *_more) -> None:  # fmt: skip
        sys.audit("subprocess.Popen", args[0], args, cwd, env)
        job = {
            "command": list(args),
            "cwd": str(cwd or os.getcwd()),
            "env": dict(os.environ if env is None else env),
            "session": self._session,
        }
        given = (p2cread, c2pwrite, errwrite)
        streams = [number if stream == -1 else stream for number, stream in enumerate(given)]
        try:
            self.pid, self._told = self._zygote.fork(job, streams)
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        self._ask(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if not self._ask(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def _ask(self, timeout: float | None) -> bool:
        """Whether it has ended, or does within that time (in seconds)."""
        if self.returncode is None:
            ready = select.poll()
            ready.register(self._told, select.POLLIN)
            if not ready.poll(None if timeout is None else max(0.0, timeout) * 1000):
                return False
            with self._waitpid_lock:  # type: ignore[attr-defined]
                if self.returncode is None:
                    told = os.read(self._told, EXITED.size)
                    os.close(self._told)
                    assert told, "the process that forked it is gone"
                    (self.returncode,) = EXITED.unpack(told)
                    self._zygote.reap(self.pid)
        return True


_zygotes: dict[int, Zygote | None] = {}


def zygote() -> Zygote | None:
    """The zygote of this process, if it can have one."""
    if not sys.platform.startswith("linux") or os.environ.get("TEST_COLD"):
        return None
    if os.getpid() not in _zygotes:
        _zygotes[os.getpid()] = Zygote()
    return _zygotes[os.getpid()]


def close() -> None:
    """The tests of this process are done."""
    if its := _zygotes.pop(os.getpid(), None):
        its.close()


def popen(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a process, warm if that makes no difference."""
    its = zygote() if options.keys() <= OPTIONS else None
    env, cwd = options.get("env"), str(options.get("cwd") or os.getcwd())
    if its is not None and its.fits(command, os.environ if env is None else env, cwd):
        return WarmPopen(its, command, **options)
    return subprocess.Popen(command, **options)


def run(command: Sequence[str], *, timeout: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a process to its end, and return its exit code and what it wrote."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    with popen(command, **options) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
