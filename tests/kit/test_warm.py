"""A warm process is what a cold one would be; where it couldn't be, it is started cold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.kit import warm
from tests.kit.processes import kill
from tests.kit.servers import ROOT, wait_until

CELERY = [sys.executable, "-m", "celery"]

#: What a process can know of itself, said by its app while it is imported; and an end like a worker's.
PROBE = """
import json, logging, os, random, resource, signal, socket, sys, threading, time, warnings
from celery import Celery, _state

handlers = {one.name: str(signal.getsignal(one)).partition(" at ")[0] for one in signal.Signals}
main = sys.modules["__main__"]
facts = {
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "cwd": os.getcwd(), "environ": dict(os.environ),
    "leads": (os.getpid() == os.getsid(0), os.getpid() == os.getpgid(0)), "zone": time.tzname,
    "descriptors": [os.readlink(f"/proc/self/fd/{one}") for one in (0, 2)], "many": len(os.listdir("/proc/self/fd")),
    "streams": [
        (one.encoding, one.errors, one.newlines, one.line_buffering, one.write_through, one.isatty(), one.seekable(),
         one.fileno(), one.mode, one.name, str(one.buffer), str(getattr(one.buffer, "raw", "")).partition("(")[0])
        for one in (sys.stdin, sys.stdout, sys.stderr)
    ],
    "signals": handlers, "blocked": [int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "wakeup": signal.set_wakeup_fd(-1), "umask": os.umask(0o22), "nice": os.nice(0), "flags": str(sys.flags),
    "threads": [one.name for one in threading.enumerate()], "native": threading.get_native_id() == os.getpid(),
    "main": [main.__name__, main.__file__, main.__spec__.name, main is sys.modules["__mp_main__"]],
    "logging": [logging.root.level, str(logging.root.handlers)], "warnings": str(warnings.filters),
    "apps": str(_state.default_app), "tests": [name for name in sys.modules if name.startswith("tests")],
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
}
app = Celery("probe", broker="memory://")
with open(os.environ["TEST_FACTS"], "w") as told:
    json.dump({"facts": facts, "chance": random.random(), "modules": sorted(sys.modules)}, told)
"""

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="all processes are cold here"),
]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "C_FORCE_ROOT": "1", **more}


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    """A folder with an app that tells of its process."""
    (tmp_path / "probe.py").write_text(PROBE)
    return tmp_path


def start(
    probe: Path, *arguments: str, cold: bool = False, stdout: int | None = None, **env: str
) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a command of the probe's app, and name the file of its facts."""
    facts = probe / f"facts-{cold}"
    facts.unlink(missing_ok=True)
    given = environment(TEST_FACTS=str(facts), PYTHONPATH=f"{probe}:{ROOT}", **env)
    popen = subprocess.Popen if cold else warm.popen
    with (probe / "said").open("ab") as said:
        process = popen([*CELERY, "-A", "probe", *arguments], cwd=probe, env=given, stdin=subprocess.DEVNULL,
                        stdout=stdout or said, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    assert isinstance(process, warm.WarmPopen) != cold
    return process, facts


def facts_of(probe: Path, *colds: bool, stdout: int | None = None) -> list[dict]:
    """What processes tell that start at once, warm or cold."""
    started = [start(probe, "report", cold=cold, stdout=stdout, TZ="Asia/Kathmandu") for cold in colds]
    for process, _ in started:
        process.communicate(timeout=60)
        assert process.returncode == 0, (probe / "said").read_text()
    return [json.loads(facts.read_text()) for _, facts in started]


@pytest.mark.parametrize("stdout", [None, subprocess.PIPE, subprocess.DEVNULL])
def test_a_warm_process_knows_of_itself_what_a_cold_one_does(probe, stdout: int | None):
    told, expected = (each["facts"] for each in facts_of(probe, False, True, stdout=stdout))
    for one in (told, expected):  # of a pipe its number
        one["descriptors"] = [name.partition("[")[0] for name in one["descriptors"]]
        assert Path(one["environ"].pop("TEST_FACTS")).parent == probe
    assert told == expected


def test_two_warm_processes_have_random_numbers_of_their_own(probe):
    (one,), (two,) = facts_of(probe, False), facts_of(probe, False)
    assert one["chance"] != two["chance"]


def test_a_warm_worker_has_no_module_that_a_cold_one_has_not(probe):
    source = PROBE.replace("with open", "@signals.worker_ready.connect\ndef tell(**_):\n  with open")
    source = "from celery import signals\n" + source.replace("    json.dump", "      json.dump")
    workers = []
    try:
        for folder, cold in ((probe / "warm", False), (probe / "cold", True)):
            folder.mkdir()
            (folder / "probe.py").write_text(source)
            workers.append(start(folder, "worker", "-c", "1", "--without-mingle", cold=cold))
        for _, facts in workers:
            wait_until(
                lambda facts=facts: facts.exists() and facts.read_text().endswith("}"), 60, "the worker is ready"
            )
    finally:
        for process, _ in workers:
            kill(process)
    modules = [{*json.loads(facts.read_text())["modules"]} for _, facts in workers]
    of_a_redis = {name for name in modules[0] if "redis" in name or "gconc" in name}
    assert modules[0] - modules[1] - of_a_redis == set()


@pytest.mark.parametrize("cold", [False, True])
def test_its_end_is_told_as_popen_tells_it(probe, cold: bool):
    process, _ = start(probe, "no-such-command", cold=cold)
    assert process.wait(60) == 2
    assert "No such command" in (probe / "said").read_text()
    process, facts = start(probe, "worker", "-c", "1", cold=cold)
    assert process.poll() is None
    wait_until(facts.exists, 60, "it has begun")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, what="it is a zombie")
    assert process.wait(5) == process.poll() == -signal.SIGKILL
    wait_until(lambda: not psutil.pid_exists(process.pid), 5, "it was let go")
    process.kill()  # does nothing


def test_what_it_writes_can_be_read(probe):
    env = environment(TEST_FACTS=os.devnull, PYTHONPATH=f"{probe}:{ROOT}")
    done = warm.run([*CELERY, "-A", "probe", "nothing"], cwd=probe, env=env, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such command 'nothing'" in done.stderr
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run([*CELERY, "-A", "probe", "worker", "-P", "solo"], cwd=probe, env=env, timeout=0.5)


@pytest.mark.parametrize(
    ("command", "env", "files"),
    [
        ([sys.executable, "-m", "celery_gconc"], {}, ()),
        ([*CELERY, "worker", "-P", "gevent"], {}, ()),
        ([*CELERY, "worker", "--pool=eventlet"], {}, ()),
        (CELERY, {"PYTHONOPTIMIZE": "1"}, ()),
        (CELERY, {"PYTHONWARNINGS": "error"}, ()),
        (CELERY, {"LD_PRELOAD": "/some/where.so"}, ()),
        (CELERY, {"LC_ALL": "de_DE.UTF-8"}, ()),
        (CELERY, {"CELERY_CUSTOM_WORKER_POOL": "module:Pool"}, ()),
        (CELERY, {"KOMBU_LOG_DEBUG": "1"}, ()),
        (CELERY, {}, ("sitecustomize.py",)),
        (CELERY, {}, ("redis.py",)),
        (CELERY, {}, ("flower", "flower-2.2.0.dist-info")),
    ],
)
def test_what_might_differ_starts_cold(tmp_path: Path, command: list[str], env: dict[str, str], files: tuple[str, ...]):
    zygote = warm.zygote()
    assert zygote is not None
    env = environment(**env, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert zygote.fits([*CELERY, "worker"], environment(PYTHONPATH=f"{tmp_path}:{ROOT}"), str(ROOT))
    for name in files:
        (tmp_path / name).touch()
    assert not zygote.fits(command, env, str(ROOT))


def test_a_python_that_does_not_find_the_package_here_starts_cold(tmp_path: Path):
    zygote = warm.zygote()
    assert zygote is not None
    assert not zygote.fits(CELERY, environment(PYTHONPATH=""), str(tmp_path))


def test_what_tests_leave_behind_ends_with_them(probe):
    code = """if True:
        import os, sys
        from tests.kit import warm
        process = warm.popen(sys.argv[1:], cwd=os.getcwd(), env=dict(os.environ), start_new_session=True)
        assert isinstance(process, warm.WarmPopen)
        print(process.pid, flush=True)
        os._exit(0)
    """
    env = environment(TEST_FACTS=os.devnull, PYTHONPATH=f"{probe}:{ROOT}")
    command = [sys.executable, "-c", code, *CELERY, "-A", "probe", "worker", "-P", "solo"]
    with subprocess.Popen(command, cwd=probe, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as ended:
        assert ended.stdout is not None
        pid = int(ended.stdout.readline())
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 20)
