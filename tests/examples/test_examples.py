"""The examples do what their README says, on real workers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def numbers(pattern: str, text: str) -> list[int]:
    """The groups of *pattern*, found once in *text*, as numbers."""
    found = re.search(pattern, text)
    assert found, text
    return [int(group) for group in found.groups()]


def test_basic_runs_20_tasks_and_never_more_than_its_limits_allow(start_workers: Callable, run: Callable) -> None:
    start_workers("examples.basic.app")
    done = run("examples.basic.send")
    assert done.returncode == 0, done.stderr
    assert numbers(r"(\d+) tasks ran, at most (\d+) at once", done.stdout) == [20, 4]
    assert numbers(r"basic\.sync: 5 ran, at most (\d+) at once", done.stdout)[0] <= 2
    assert numbers(r"basic\.report: 3 ran, at most (\d+) at once", done.stdout)[0] == 1


def test_resize_live_shows_each_value_hold(start_workers: Callable, run: Callable) -> None:
    start_workers("examples.resize_live.app")
    done = run("examples.resize_live.resize")
    assert done.returncode == 0, done.stderr
    told = {step: (maximum, int(running)) for step, maximum, running in STEP.findall(done.stdout)}
    maxima = {step: maximum for step, (maximum, _) in told.items()}
    assert maxima == {
        "as configured": "2",
        "set to 6": "6",
        "paused": "6, paused",
        "resumed": "6",
        "set to 1": "1",
        "reset": "2",
        "unlimited": "unlimited",
    }
    assert told["paused"][1] == 0
    assert all(running <= int(maximum) for maximum, running in told.values() if maximum.isdigit())
    assert "all 130 tasks are done" in done.stdout
    assert done.stdout.endswith("queue:emails: was unlimited, is 2 (configured)\n")


def test_fencing_has_the_store_refuse_a_writer_that_lost_its_lease(start_workers: Callable, run: Callable) -> None:
    start_workers("examples.fencing.app", "one", "two")
    done = run("examples.fencing.stale")
    assert done.returncode == 0, done.stderr
    (old,) = numbers(r"old: has permit (\d+)", done.stdout)
    (new,) = numbers(r"new: has permit (\d+)", done.stdout)
    assert new > old
    assert "new: the store took its value\nold: goes on; the store refused its value" in done.stdout
    assert done.stdout.endswith(f"the store has 'new', of permit {new}\n")


STEP = re.compile(r"^  ([a-z 0-9]+): +max (\w+(?:, paused)?); (\d+) running", re.MULTILINE)


@pytest.mark.parametrize("example", ["basic", "fencing", "resize_live"])
def test_a_readme_names_only_modules_that_exist(example: str) -> None:
    named = re.findall(r"examples\.([\w.]+)", (EXAMPLES / example / "README.md").read_text())
    assert named
    for module in named:
        assert (EXAMPLES / module.replace(".", "/")).with_suffix(".py").exists(), module
