"""What each command prints, beside the golden file that holds it: so that a change of words is seen in review.

Sessions stand for workers, and Redis has a clock of its own, so that every run prints the same. After a change of
words: ``pytest tests/cli/test_golden.py --update-golden``, and read the difference.
"""

from __future__ import annotations

import re
import shlex
import socket
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from celery import Celery
from rich.console import Console

from celery_gconc.cli import gconc as command
from celery_gconc.cli.top import View
from celery_gconc.errors import StoreUnavailable
from celery_gconc.protocol.counted import Lately, Record
from celery_gconc.protocol.store import Store
from tests.cli.conftest import said
from tests.store.namespace import Ask, Namespace, Session, give_clock

GOLDEN = Path(__file__).parent / "golden"

#: The terminal's width, in columns.
WIDTH = 100

#: What differs from run to run, and what stands for it.
MASKS = (
    (re.compile(r"(127\.0\.0\.1|localhost):\d+"), r"\1:6379"),
    (re.compile(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d( UTC)?"), r"12:00:00\2"),
    # Each script takes a millisecond, and how often a command looks depends on how fast it is answered.
    (re.compile(r"for 0\.\d s"), "for 0.0 s"),
)


class Shell:
    """Someone at a shell; what is typed and printed is kept."""

    def __init__(self, app: Celery, url: str) -> None:
        self.app, self.url = app, url
        self.namespace = Namespace(url)
        give_clock(self.namespace.store)
        self.namespace.raw.flushall()
        self.is_now()
        self._told: list[str] = []
        self.is_about_forecasts = False

    def is_now(self) -> None:
        """Set the clock of the namespace."""
        self.namespace.raw.hset(self.namespace.keys.key("meta"), "wall", int(time.time() * 1e6))

    def types(self, line: str) -> None:
        """Run a command, and keep what it prints and how it ends."""
        done = said(self.app, *shlex.split(line))
        shown = done.stdout
        shown += "".join(f"[stderr] {told}\n" for told in done.stderr.splitlines())
        shown += f"[exit code {done.exit_code}]\n" if done.exit_code else ""
        self.shows(f"$ celery -A proj gconc {line}", shown)

    def shows(self, title: str, text: str) -> None:
        """Keep what was shown."""
        self._told.append(f"{title}\n" + "".join(f"{line.rstrip()}\n" for line in text.splitlines()))

    def text(self) -> str:
        """All that was kept, without what differs from run to run."""
        text = "\n".join(self._told)
        if self.is_about_forecasts:  # these differ in their last digit
            text = re.sub(r"\d+\.\d(?= )", lambda found: re.sub(r"\d", "9", found[0]), text)
        for pattern, mask in MASKS:
            text = pattern.sub(mask, text)
        return text

    # -- States ------------------------------------------------------------------------------------------

    def limits(self, **limits: int) -> None:
        """Configure limits: ``app``, ``emails`` (a queue), ``pool_db``."""
        names = {"app": "app", "pool_db": "pool:db"}
        self.app.conf.global_concurrency_limits = {
            names.get(name, f"queue:{name}"): value for name, value in limits.items()
        }

    def worker(self, node: str, pid: int) -> Session:
        """A live worker of the app, with eight slots."""
        session = self.namespace.session(
            node.partition("@")[0],
            slots=8,
            interval=5.0,
            timeout=30.0,
            config=self.app.conf.global_concurrency_limits,
            info={"node": node, "pid": pid, "app": "proj", "broker": self.url, "version": "0.1.0"},
            queues=("emails",),
        )
        self.namespace.reopen()
        return session

    def busy(self) -> Session:
        """A worker with two tasks that run, which is all that the limit allows, three in line, and one behind those."""
        self.limits(app=50, emails=2)
        session = self.worker("one@host", 4711)
        for number in range(1, 6):
            task_id = f"0f9e8d7c-0000-4000-8000-00000000000{number}"
            session.sync(asks=[Ask(number, ("app", "queue:emails"), 0.0, task_id, "proj.send")])
        self.tells(session, parked={"queue:emails": 1})
        return session

    def tells(self, session: Session, *, parked: dict[str, int] | None = None, ended: int = 0) -> None:
        """A worker's counters: how many it has parked, and how many tasks have ended, one a second."""
        recent = (
            {"queue:emails": Lately(ended, tuple((float(ended - n), 0.5, 2.0) for n in range(ended)))} if ended else {}
        )
        self.namespace.store.record(session.name, Record({}, recent, 0, 0, 0, parked or {}))


@pytest.fixture
def shell(app: Celery, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A shell whose user, host, width and time zone are always the same; its Redis has the clock of the namespace."""
    # In a zone of this name it is ten o'clock: what ends in two hours ends today, and is told without a date.
    zone = f"UTC{time.gmtime().tm_hour - 10}"
    for name, value in {"COLUMNS": str(WIDTH), "LOGNAME": "ann", "TZ": zone}.items():
        monkeypatch.setenv(name, value)
    time.tzset()
    monkeypatch.setattr("sys.stdin", StringIO())
    monkeypatch.setattr(socket, "gethostname", lambda: "host")
    made = Store.from_settings
    monkeypatch.setattr(Store, "from_settings", lambda *args, **kwargs: give_clock(made(*args, **kwargs)))
    app.main = "proj"
    app.conf.task_queues = None
    app.conf.task_routes = {"proj.send": {"queue": "emails"}}
    at_shell = Shell(app, redis_url)
    try:
        yield at_shell
    finally:
        at_shell.namespace.close()
        monkeypatch.undo()
        time.tzset()


def status(shell: Shell) -> None:
    shell.types("status")
    shell.limits(app=50, emails=2)
    shell.types("set emails 4 --for 2h --reason 'backlog after the outage'")
    shell.types("pause pool:db --reason migration")
    shell.types("status")
    shell.types("reset emails")
    shell.types("resume pool:db")
    shell.busy()
    shell.types("status")
    shell.types("status emails")
    shell.types("set pool:db 3")
    shell.types("status pool:db")


def holders(shell: Shell) -> None:
    shell.types("holders emails")
    shell.busy()
    shell.types("holders emails")
    shell.types("holders emails -n 1")


def waiting(shell: Shell) -> None:
    shell.types("waiting emails")
    shell.busy()
    shell.types("waiting emails")
    shell.types("waiting emails -n 1")


def explain(shell: Shell) -> None:
    shell.types("explain 12345678-0000-4000-8000-000000000000 --timeout 0.1")
    shell.busy()
    shell.types("explain 0f9e8d7c-0000-4000-8000-000000000001 --timeout 0.1")
    shell.types("explain 0f9e8d7c-0000-4000-8000-000000000004 --timeout 0.1")
    shell.types("pause emails --reason 'the mail server is down'")
    shell.types("explain 0f9e8d7c-0000-4000-8000-000000000004 --timeout 0.1")
    shell.app.send_task("proj.send", queue="emails", task_id="0f9e8d7c-0000-4000-8000-000000000009")
    shell.types("explain 0f9e8d7c-0000-4000-8000-000000000009 --timeout 0.1")


def set_(shell: Shell) -> None:
    shell.types("set emails 3")
    shell.busy()
    for line in ("emails 4", "emails 1", "emails 0", "emails unlimited", "emails 2 --for 30m", "emials 3"):
        shell.types(f"set {line}")
    shell.types("set emails 4 --json")


def get(shell: Shell) -> None:
    shell.limits(emails=2)
    shell.types("get emails")
    shell.types("get other")
    shell.types("pause emails --for 2h")
    shell.types("get emails")


def reset(shell: Shell) -> None:
    shell.busy()
    shell.types("set emails 5")
    shell.types("reset emails")
    shell.types("reset emails")


def pause(shell: Shell) -> None:
    shell.types("pause emails")
    shell.types("resume emails")
    shell.busy()
    shell.types("pause emails --for 2h --reason 'the mail server is down'")
    shell.types("set emails 1")


def resume(shell: Shell) -> None:
    shell.busy()
    shell.types("resume emails")
    shell.types("pause emails")
    shell.types("resume emails")


def purge(shell: Shell) -> None:
    shell.types("purge -f emails --timeout 0.1")
    for _ in range(2):
        shell.app.send_task("proj.send", queue="emails")
    shell.types("purge emails --timeout 0.1")
    shell.types("purge -f emails --timeout 0.1")
    shell.busy()
    shell.types("purge -f emails --timeout 0.1")


def doctor(shell: Shell) -> None:
    shell.types("doctor --timeout 0.1")
    shell.busy()
    shell.worker("two@host", 4712)
    shell.app.conf.global_concurrency_limits = {"queue:emails": 2, "pool:dbs": 3}
    shell.types("set app 0")
    shell.is_now()
    shell.types("doctor --timeout 0.1")


def repair(shell: Shell) -> None:
    shell.types("repair")
    shell.namespace.raw.hset(shell.namespace.keys.key("units"), b"app\x1fghost", 1)
    shell.namespace.raw.zadd(shell.namespace.keys.key("waiters"), {b"app\x1f0000000000000001\x1fghost:1": 0})
    shell.types("repair")


def simulate(shell: Shell) -> None:
    shell.is_about_forecasts = True
    shell.types("simulate emails --max 4")
    session = shell.busy()
    shell.tells(session, ended=60)
    shell.types("simulate emails --max 4 --max unlimited")


def exporter(shell: Shell) -> None:
    shell.types("exporter --port 70000")


def top(shell: Shell) -> None:
    shell.types("top")
    shell.busy()
    shell.types("set emails 4 --for 2h --reason 'backlog after the outage'")
    out = StringIO()
    console = Console(file=out, width=80, height=24, color_system=None, force_terminal=True)
    view = View(lambda action: None, f"redis://{shell.url.partition('//')[2]}", console)
    store = shell.namespace.store

    def frame(title: str) -> None:
        console.print(view.render(80, 24))
        shell.shows(f"[{title}]", re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()))
        out.truncate(0)
        out.seek(0)

    frame("before the first answer")
    view.take(store.status())
    frame("all is well")
    view.press("?")
    frame("after ?")
    view.press("x")
    view.press("j")
    view._taken = time.monotonic() - 7.04
    view.take(StoreUnavailable("coordination Redis unavailable: connection refused"))
    frame("after j, and Redis is away")


def errors(shell: Shell) -> None:
    for line in (
        "set emails lots", "set emails -1", "set '' 3", "set emials:x 3", "set queue: 3", "set --jsn 3",
        "set emails 3 --for 5", "set emails 3 --for 0s", f"set {'x' * 600} 3", "staus",
    ):  # fmt: skip
        shell.types(line)
    shell.app.conf.global_concurrency_limits = {"emails": -1}
    shell.types("status")
    shell.app.conf.global_concurrency_limits = {}
    shell.app.conf.global_concurrency_enabled = False
    shell.types("status")
    shell.app.conf.global_concurrency_enabled = True
    shell.app.conf.global_concurrency_redis_url = "redis://127.0.0.1:1/0"
    shell.types("status")
    shell.types("set emails 3")


SCENARIOS: dict[str, Callable[[Shell], None]] = {
    made.__name__.rstrip("_"): made
    for made in (
        status, holders, waiting, explain, set_, get, reset, pause, resume, purge, doctor, repair, simulate, exporter,
        top, errors,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_command_prints_what_its_golden_file_has(name: str, shell: Shell, request: pytest.FixtureRequest):
    if name in command.commands:
        shell.types(f"{name} --help")
    else:
        shell.types("--help")
    SCENARIOS[name](shell)
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(shell.text(), encoding="utf-8")
    assert shell.text() == path.read_text(encoding="utf-8"), "read the difference; then pytest ... --update-golden"


def test_every_command_has_a_golden_file():
    assert set(command.commands) <= set(SCENARIOS)
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(SCENARIOS)
