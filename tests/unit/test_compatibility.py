"""The compatibility page says what the life-cycle tests say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lifecycle.matrix import COLUMNS, Column, Feature, reason

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "explanation" / "compatibility.md"


@pytest.mark.process
def test_the_compatibility_page_is_what_the_tests_say():
    result = subprocess.run(
        [sys.executable, "-m", "tests.compatibility", "--print"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout == PAGE.read_text(), "run `python -m tests.compatibility`, and look at what has changed"


def test_a_feature_is_tested_on_each_pool_over_redis_and_on_prefork_over_rabbitmq_unless_it_says_otherwise():
    said = Feature("anything", "running", not_on={"solo": "It has none."})
    assert [str(column) for column in said.columns()] == [
        "prefork-redis",
        "prefork-rabbitmq",
        "threads-redis",
        "gevent-redis",
        "eventlet-redis",
    ]
    said = Feature("anything", "running", broker_matters=True)
    assert said.columns() == list(COLUMNS)
    said = Feature("anything", "running", brokers_are_alike=True, pools_are_alike=True)
    assert [str(column) for column in said.columns()] == ["prefork-redis"]


def test_a_reason_may_be_given_for_a_pool_a_broker_or_one_column():
    column = Column("gevent", "redis")
    assert reason({"gevent-redis": "a", "gevent": "b", "redis": "c"}, column) == "a"
    assert reason({"gevent": "b", "redis": "c"}, column) == "b"
    assert reason({"redis": "c"}, column) == "c"
    assert reason({"solo": "d"}, column) is None


def test_a_feature_marker_with_an_unknown_pool_is_refused():
    with pytest.raises(AssertionError, match="no such pool or broker"):
        Feature("anything", "running", not_on={"fibers": "?"})
