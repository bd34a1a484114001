"""The list of breakages (tools/mutants.toml) is sound and complete; that each is caught shows `make mutants`."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from celery.worker.control import Panel

from celery_gconc.cli import gconc
from celery_gconc.worker import control
from celery_gconc.worker.pool import KINDS
from tools import mutants

ROOT = mutants.ROOT
MUTANTS = mutants.load()

#: What must be broken by at least one, by kind. "As Celery has it" is a promise of the README's first lines.
KNOWN = {
    "promise": {*re.findall(r"^## \d+\. (.+)$", (ROOT / "docs/explanation/guarantees.md").read_text(), re.MULTILINE)}
    | {"As Celery has it"},
    "guard": {row["name"] for row in json.loads((ROOT / "model/runs.json").read_text())["mutations"]},
    "pool": {*KINDS.values(), "custom"},
    "broker": {"Redis", "RabbitMQ classic", "RabbitMQ quorum", "other"},
    "command": {*gconc.commands},
    "control": {name for name, handler in Panel.data.items() if handler.__module__ == control.__name__},
    "flower": {"API"},
    "metrics": {"Prometheus", "OpenTelemetry"},
}


def is_there(test: str) -> bool:
    """Whether a node id names a test: its function stands in its file or, with a class, in one that it derives from."""
    name, _, rest = test.partition("::")
    path = ROOT / name
    if not path.is_file():
        return False
    if not rest:
        return True
    *classes, function = rest.partition("[")[0].split("::")
    text = path.read_text()
    texts = [one.read_text() for one in path.parent.glob("*.py")] if classes else [text]
    return all(f"class {one}" in text for one in classes) and any(f"def {function}(" in one for one in texts)


def test_each_breakage_has_a_name_of_its_own():
    assert [name for name, count in Counter(one.name for one in MUTANTS).items() if count > 1] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_each_breakage_changes_one_spot_of_the_product_and_names_tests_that_there_are(mutant: mutants.Mutant):
    assert mutant.file.startswith("celery_gconc/")
    assert mutant.broken(ROOT) != (ROOT / mutant.file).read_text()
    assert mutant.tests
    assert [test for test in mutant.tests if not is_there(test)] == []


@pytest.mark.parametrize("kind", KNOWN)
def test_all_that_is_promised_is_broken_by_one(kind: str):
    broken = [text.partition(": ") for one in MUTANTS for text in one.breaks]
    assert {what for what, _, _ in broken} == set(KNOWN)
    assert {name for what, _, name in broken if what == kind} == KNOWN[kind]


def report(what: str = "") -> str:
    """A report as pytest writes it, of two tests of which one has something to tell."""
    cases = f'<testcase name="test_a"/><testcase name="test_b[c d]">{what}</testcase>'
    return f"<testsuites><testsuite>{cases}</testsuite></testsuites>"


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (mutants.Result(1, "", report('<failure message="assert 1"/>')), ("test_b[c d]",)),
        (
            mutants.Result(1, "", report("<error message='failed on setup with \"AssertionError: 1\"'/>")),
            ("test_b[c d]",),
        ),
        (mutants.Result(1, "", report("<error message='failed on teardown with \"OSError\"'/>")), ("test_b[c d]",)),
        (mutants.Result(1, "Stack\n+++++++++ Timeout +++++++++\n"), ("a time-out",)),
        (mutants.Result(1, "", report("<error message='failed on setup with \"ImportError: a\"'/>")), ()),
        (mutants.Result(1, "ERR Error compiling script (new function)", report('<failure message="redis"/>')), ()),
        (mutants.Result(2, "! Interrupted: 1 error during collection !", report()), ()),
        (mutants.Result(4, "ERROR: not found: tests/a.py::test_b"), ()),
        (mutants.Result(0, "2 passed", report()), ()),
    ],
)
def test_a_breakage_is_caught_where_a_test_fails_or_hangs(result: mutants.Result, found: tuple[str, ...]):
    assert mutants.caught(result) == found


def test_a_breakage_that_fits_nowhere_or_twice_is_refused(tmp_path: Path):
    (tmp_path / "twice.py").write_text("a = 1\na = 1\n")
    for text, count in (("a = 1", 2), ("b", 0)):
        mutant = mutants.Mutant("m", (), "twice.py", text, "", ())
        with pytest.raises(ValueError, match=f"occurs {count} times in twice.py"):
            mutant.broken(tmp_path)
    with pytest.raises(ValueError, match="can't be compiled any more"):
        mutants.Mutant("m", (), "twice.py", "a = 1\na", "if a:\na", ()).broken(tmp_path)
