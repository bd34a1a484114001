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


STEP = re.compile(r"^  ([a-z 0-9]+): +max (\w+(?:, paused)?); (\d+) running", re.MULTILINE)


@pytest.mark.parametrize("example", ["basic", "resize_live"])
def test_a_readme_names_only_modules_that_exist(example: str) -> None:
    named = re.findall(r"examples\.([\w.]+)", (EXAMPLES / example / "README.md").read_text())
    assert named
    for module in named:
        assert (EXAMPLES / module.replace(".", "/")).with_suffix(".py").exists(), module
