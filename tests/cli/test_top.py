"""``celery gconc top`` in a real terminal: what it shows, what its keys do, and that the terminal is as before."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from celery_gconc import Operations
from celery_gconc.cli.keyboard import keyboard
from tests.cli.conftest import Gconc
from tests.conftest import unavailable
from tests.kit.namespace import empty_namespace
from tests.kit.servers import ROOT, RedisServer, redis_server, wait_until
from tests.kit.tiers import starts
from tests.kit.workers import Cluster

TOP = f"{sys.executable} -m celery -A tests.cluster.app gconc top --interval 0.2"


class Pane:
    """A shell in a terminal of its own: a tmux server with one pane."""

    def __init__(self, environ: dict[str, str], width: int, height: int) -> None:
        self._socket = f"gconc-{uuid.uuid4().hex}"
        size = ("-x", str(width), "-y", str(height))
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "env", "PS1=prompt ", "/bin/sh", env=environ)

    def _tmux(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        command = ["tmux", "-L", self._socket, *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=True).stdout

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names for them."""
        self._tmux("send-keys", *keys)

    def enter(self, line: str) -> None:
        """Type a line."""
        self._tmux("send-keys", "-l", line)
        self.press("Enter")

    def text(self, *, styled: bool = False) -> str:
        """What is seen."""
        return self._tmux("capture-pane", "-p", *(("-e",) if styled else ()))

    def row(self, limit: str) -> str:
        """The line that begins with a limit, marked or not; nothing where there is none."""
        return next((line for line in self.text().splitlines() if line[2:].startswith(f"{limit} ")), "")

    def shows(self, *texts: str) -> str:
        """Wait until all these texts are seen at once."""
        try:
            return str(wait_until(lambda: self._with(texts), what=f"the terminal shows {texts}"))
        except AssertionError as exc:
            raise AssertionError(f"{exc}:\n{self.text()}") from None

    def _with(self, texts: tuple[str, ...]) -> str:
        seen = self.text()
        return seen if all(text in seen for text in texts) else ""

    def resize(self, width: int, height: int) -> None:
        """Make the terminal larger or smaller."""
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def flags(self) -> dict[str, str]:
        """Whether the alternate screen is on, and the cursor seen."""
        words = self._tmux("display-message", "-p", "#{alternate_on} #{cursor_flag}").split()
        return dict(zip(("alternate", "cursor"), words, strict=True))

    def pid(self) -> int:
        """The process that the shell has started."""
        shell = psutil.Process(int(self._tmux("display-message", "-p", "#{pane_pid}")))
        return int(wait_until(shell.children, what="the shell has a child")[0].pid)

    def is_as_before(self, code: int) -> None:
        """Check that the shell has the terminal again, as it was before, with this exit code."""
        self.shows("prompt")
        self.enter("echo ended=$?; stty -a | grep -oE -- '-?(icanon|isig|echo) ' | tr -d '\\n'; echo .")
        self.shows(f"ended={code}", "isig icanon echo .")
        assert self.flags() == {"alternate": "0", "cursor": "1"}

    def close(self) -> None:
        """End the terminal and all that runs in it."""
        self._tmux("kill-server")


def terminal_of(
    broker: str, width: int = 80, height: int = 24, env: dict[str, str] | None = None, **conf: object
) -> Pane:
    """A terminal in the project's folder, with none of the settings of the one that the tests are started from."""
    settings = ("TMUX", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    environ = {name: value for name, value in os.environ.items() if name not in settings}
    environ |= {"TEST_BROKER": broker, "TEST_CONF": json.dumps(conf), "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT)}
    pane = Pane({**environ, **(env or {})}, width, height)
    pane.enter(f"cd {ROOT}; clear")
    return pane


@pytest.fixture(scope="module")
def _tmux() -> None:
    if shutil.which("tmux") is None:
        unavailable("no tmux on this machine")


@pytest.fixture
@starts("process")
def terminal(redis_url: str, _tmux: None) -> Iterator[Callable[..., Pane]]:
    """Opens terminals: *conf* is the app's configuration."""
    opened: list[Pane] = []

    def open_(width: int = 80, height: int = 24, broker: str = redis_url, **options: object) -> Pane:
        opened.append(terminal_of(broker, width, height, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield open_
    for pane in opened:
        pane.close()


#: What a top is started with that is watched.
LIMITS = {"queue:emails": 4, "app": 50}


@pytest.fixture
def watched(terminal: Callable[..., Pane]) -> Pane:
    """A terminal of 80 by 24 in which top has begun, with two limits configured."""
    pane = terminal(global_concurrency_limits=LIMITS)
    pane.enter(TOP)
    pane.shows("gconc top", "queue:emails", "q quit")
    return pane


@pytest.fixture(scope="module")
@starts("process")
def standing(redis_process: RedisServer, _tmux: None) -> Iterator[Pane]:
    """The same, for tests that don't end top."""
    pane = terminal_of(redis_process.url, global_concurrency_limits=LIMITS)
    pane.enter(TOP)
    yield pane
    pane.close()


@pytest.fixture
def shared(redis_url: str, standing: Pane) -> Pane:
    """It, with the first limit selected, and nothing changed."""
    standing.shows("gconc top", "q quit")
    standing.press("g")
    standing.shows("> app", "0/50", "app: 50, as configured")
    return standing


def test_keys_change_the_selected_limit_and_the_view_says_who_did_what(watched: Pane, operations: Operations):
    watched.shows("> app", "0/50", "no workers", "app: 50, as configured")
    watched.press("j")
    watched.shows("> queue:emails", "queue:emails: 4, as configured")
    watched.press("+")
    watched.shows("0/5", "queue:emails: set to 5 by ", "(configured: 4)", "queue:emails: was 4 (configured), now 5")
    assert operations.get("emails") == 5
    watched.press("-", "-")
    watched.shows("0/3", "queue:emails: was 4, now 3")
    assert operations.get("emails") == 3
    watched.press("p")
    watched.shows("paused", "queue:emails: paused by ")
    assert operations.status("emails")["queue:emails"].paused
    watched.press("p")
    wait_until(lambda: "open" in watched.row("queue:emails"), what="resumed")
    assert not operations.status("emails")["queue:emails"].paused
    watched.press("r")
    watched.shows("0/4", "queue:emails: was 3, now 4 (configured)")
    assert not operations.status("emails")["queue:emails"].overridden
    watched.press("k")
    watched.shows("> app")
    watched.press("Down")
    watched.shows("> queue:emails")
    watched.press("Up")
    watched.shows("> app")
    watched.press("q")
    watched.is_as_before(0)


def test_an_end_and_a_reason_stay_when_a_value_is_raised(shared: Pane, operations: Operations):
    operations.set("app", 10, duration=7200, reason="backlog")
    until = operations.status("app")["app"].set_until
    shared.shows("0/10", '"backlog"')
    shared.press("+")
    shared.shows("0/11")
    found = operations.status("app")["app"]
    assert found.reason == "backlog"
    assert found.set_until == pytest.approx(until, abs=2)


def test_a_limit_is_not_lowered_below_0_and_an_unlimited_one_not_raised(shared: Pane, operations: Operations):
    operations.set("app", 1)
    shared.shows("0/1 ")
    shared.press("-", "-")
    shared.shows("app is already 0")
    operations.set("app", None)
    shared.shows("0/- ")
    shared.press("+")
    shared.shows("app is unlimited; set a max with")
    assert operations.get("app") is None


def test_help_names_the_keys_and_any_key_leaves_it(shared: Pane):
    shared.press("?")
    shared.shows("pause or resume the selected limit", "STATE")
    shared.press("j")
    assert "pause the selected limit" not in shared.shows("> app", "queue:emails")


@pytest.mark.parametrize("keys", [("C-c",), ("C-z", "Q")])
def test_ctrl_c_gives_the_terminal_back_and_ctrl_z_is_ignored(watched: Pane, keys: tuple[str, ...]):
    assert watched.flags() == {"alternate": "1", "cursor": "0"}
    watched.press(*keys)
    watched.is_as_before(0)


def test_sigterm_gives_the_terminal_back(watched: Pane):
    os.kill(watched.pid(), signal.SIGTERM)
    watched.is_as_before(143)


@pytest.mark.parametrize(("number", "ending"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_in_the_middle_of_a_finalizer_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, ending: type[BaseException]
):
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(number)

    controlling, terminal = pty.openpty()
    with os.fdopen(controlling, "rb"), os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with keyboard() as keys:
            Finalized()
            with pytest.raises(ending):
                keys.read(60.0)


def test_when_redis_goes_away_it_says_so_and_goes_on_when_it_is_back(terminal: Callable[..., Pane]):
    with redis_server() as server:
        empty_namespace(server.url)
        pane = terminal(broker=server.url, global_concurrency_limits={"queue:emails": 4})
        pane.enter(TOP)
        pane.shows("> queue:emails")
    pane.shows("NO UPDATE for ", "connection refused", "> queue:emails")
    pane.press("+")
    pane.press("?")
    pane.shows("pause or resume the selected limit")  # keys are answered meanwhile
    pane.press("j")
    with redis_server(server.port):
        wait_until(lambda: "NO UPDATE" not in pane.text(), what="it is back")
        pane.shows("> queue:emails")
        pane.press("q")
        pane.is_as_before(0)


def test_a_redis_that_hangs_keeps_nobody_from_leaving(terminal: Callable[..., Pane]):
    with redis_server() as server:
        pane = terminal(broker=server.url, global_concurrency_limits={"queue:emails": 4})
        pane.enter(TOP)
        pane.shows("> queue:emails")
        server.process.send_signal(signal.SIGSTOP)
        pane.shows("NO UPDATE")
        pane.press("q")
        pane.is_as_before(0)
        server.process.send_signal(signal.SIGCONT)


def test_every_line_fits_the_terminal_also_after_its_size_has_changed(terminal: Callable[..., Pane]):
    limits = {f"task:proj.a_rather_long_module_name.task_{number:02}": number for number in range(30)}
    pane = terminal(80, 24, global_concurrency_limits=limits)
    pane.enter(TOP)
    heading, *_ = (line for line in pane.shows("> task:", "q quit").splitlines() if "LIMIT" in line)
    assert heading.split() == ["LIMIT", "RUN/MAX", "WAITING", "LONGEST", "/MIN", "STATE", "FROM"]
    assert "task:proj.a_rather_long_module_name.task_00: 0, as configured" in pane.text()
    pane.press("G", "k")  # (the last is a task of the app's own)
    pane.shows("task_29: 29, as configured", "gconc top", "0/29 ", "q quit")
    pane.press("g")
    pane.resize(50, 12)
    small = pane.shows("task_00: 0, as", "LIMIT", "j/k select", "> tas…k_00 ")
    assert "░" not in small
    pane.resize(120, 40)
    pane.shows("task:proj.a_rather_long_module_name.task_25 ", "░", "q quit")


def test_the_bars_go_before_a_name_is_shortened_and_then_its_middle_does(terminal: Callable[..., Pane]):
    names = {length: f"task:{'m' * (length - 7)}_{length}" for length in (21, 31)}
    pane = terminal(82, 24, global_concurrency_limits=dict.fromkeys(names.values(), 3))
    pane.enter(TOP)
    pane.shows(f"  {names[31]} ", f"> {names[21]} ", "q quit")  # (a task of the app has a limit, too)
    assert "░" not in pane.text()
    pane.resize(110, 24)
    pane.shows(names[31], "░")
    pane.resize(70, 24)
    wait_until(lambda: re.search(r"  task:m+…m+_31 +0/3 ", pane.text()), what="the middle of a name is left out")
    pane.shows(f"> {names[21]} ")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 12), (80, 6)])
def test_the_keys_are_on_the_screen_however_long_reasons_and_names_are(
    terminal: Callable[..., Pane], operations: Operations, width: int, height: int
):
    limits = [f"queue:q{number:02}" for number in range(17)]
    pane = terminal(width, height, global_concurrency_limits=dict.fromkeys(limits, 4))
    pane.enter(TOP)
    pane.shows("> queue:q00", "j/k select")
    pane.press("j", "j", "j")
    for maximum, reason in ((7, "the provider is down, see INC-4711"), (17, "word " * 60), (27, "word " * 50_000)):
        operations.pause("q03", reason=reason)
        operations.set("q03", maximum, duration=7200, reason=reason)
        notes = (f"queue:q03: set to {maximum} by ", "queue:q03: paused by ")
        pane.shows("> queue:q03", "gconc top", "LIMIT", "j/k select", f"0/{maximum}", *(notes if height > 6 else ()))
        pane.press("+")
        message = f"queue:q03: was {maximum}, paused, now {maximum + 1}, paused"
        seen = [line for line in pane.shows("> queue:q03", message, "j/k select").splitlines() if line]
        assert (seen[-2], seen[-1][:10]) == (message, "j/k select")


@pytest.mark.parametrize("how", [{"NO_COLOR": "1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_it_can_be_read_without_colours_and_in_ascii(terminal: Callable[..., Pane], how: dict[str, str]):
    pane = terminal(100, env=how, global_concurrency_limits={"queue:emails": 4})
    pane.enter(TOP)
    pane.shows("> queue:emails", "0/4", "q quit")
    if "NO_COLOR" in how:
        assert "\x1b[" not in pane.text(styled=True)
    else:
        assert ".........." in pane.row("queue:emails")


def test_what_real_workers_run_is_seen_and_a_raise_starts_more(
    terminal: Callable[..., Pane], make_cluster: Callable[..., Cluster]
):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2})
    cluster.start("one", pool="threads", concurrency=4)
    pane = terminal(100, global_concurrency_limits={"queue:emails": 2})
    pane.enter(TOP)
    cluster.send("nap", 6, 60.0)
    pane.shows("1 worker", "2/2", "full", "██████████")
    pane.press("+")
    pane.shows("3/3")
    wait_until(lambda: cluster.oracle.count("s") == 3, what="one more has started")


def test_with_nothing_limited_it_says_what_to_do(terminal: Callable[..., Pane], redis_url: str, tmp_path: Path):
    (tmp_path / "proj.py").write_text(f"from celery import Celery\napp = Celery('proj', broker={redis_url!r})\n")
    pane = terminal(env={"PYTHONPATH": str(tmp_path)})
    pane.enter(TOP.replace("tests.cluster.app", "proj"))
    pane.shows("No limits are set. Set one with: celery -A <app> gconc set", "q quit")
    pane.press("p", "+", "j", "q")
    pane.is_as_before(0)


def test_where_there_is_no_terminal_it_says_what_to_use(gconc: Gconc):
    done = gconc("top")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "top needs a terminal; use status, or top --json" in done.stderr
    assert "0.01 is not in the range" in gconc("top", "--interval", "0.01").stderr
    assert "nan is not a number" in gconc("top", "--json", "--interval", "nan").stderr


@pytest.mark.process
def test_json_is_a_line_for_each_look_until_it_is_interrupted(redis_url: str):
    environ = {**os.environ, "TEST_BROKER": redis_url, "TEST_CONF": '{"global_concurrency_limits": {"app": 3}}'}
    command = [*TOP.split(), "--json"]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert [look["limits"][0]["max"] for look in looks] == [3, 3]
    assert looks[0]["at"] < looks[1]["at"]
