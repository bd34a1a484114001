"""The protocol's model is searched by spin: one configuration holds, and a guard that is taken out is missed.

The rest takes minutes: ``make model``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tools import model

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(bool(model.missing()) and not os.environ.get("CI"), reason=model.missing() or "all is there"),
]

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "protocol-model.md"


def run(name: str) -> model.Run:
    return next(run for run in model.all_runs() if run.name == name)


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    """The checker of a small configuration, which is compiled for a second."""
    with model.built(run("lines-max")) as folder:
        yield folder


def test_a_small_configuration_holds_in_all_its_states_and_as_a_mutation_would_not_be_good(built: Path):
    outcome = model.search(run("lines-max"), built)

    assert outcome.is_good, outcome.result
    assert outcome.result == "holds"
    assert outcome.states > 10_000

    unmissed = replace(outcome, run=replace(outcome.run, takes_out="nothing"))
    assert not unmissed.is_good
    assert unmissed.result == "NOT FOUND"


def test_a_guard_that_is_taken_out_is_missed():
    outcome = model.check(run("forgets-unknown-grants"))

    assert outcome.is_good, outcome.result
    assert outcome.found.startswith("a unit is used that Redis doesn't count")


def test_a_configuration_that_is_violated_is_not_good():
    violated = replace(run("starts-without-lease"), takes_out="")

    outcome = model.check(violated)

    assert not outcome.is_good
    assert outcome.result.startswith("VIOLATED: more than max are running")


def test_a_search_that_is_cut_short_says_so(built: Path, monkeypatch):
    monkeypatch.setattr(model, "DEPTH", 100)

    outcome = model.search(run("lines-max"), built)

    assert outcome.failed
    assert not outcome.is_good


def test_every_macro_of_a_run_is_one_that_its_model_knows():
    for each in model.all_runs():
        text = "".join(part.read_text(encoding="utf-8") for part in model.MODELS.glob(f"{each.model}*.pml"))
        for macro in each.macros.split():
            assert re.search(rf"(ifn?def|defined\() ?{macro.split('=')[0]}\b", text), (each.name, macro)


def test_the_page_names_every_run():
    page = PAGE.read_text(encoding="utf-8")

    assert [each.name for each in model.all_runs() if f"{each.name}:" not in page] == []
