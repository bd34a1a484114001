"""The state of a limit: one word, the same wherever it is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import celery_gconc
from celery_gconc.cli.rows import BAR, bar, limit_row
from celery_gconc.metrics.prometheus import METRICS, _of_now
from celery_gconc.protocol.status import STATES, LimitStatus, Status, as_json

LIMITS = {
    "paused": LimitStatus("app", 2, paused=True, running=3, waiting=1, settling=True),
    "unlimited": LimitStatus("app", None, paused=False, running=3, waiting=0, settling=True),
    "settling": LimitStatus("app", 2, paused=False, running=3, waiting=1, settling=True),
    "draining": LimitStatus("app", 2, paused=False, running=3, waiting=1),
    "full": LimitStatus("app", 0, paused=False, running=0, waiting=1),
    "open": LimitStatus("app", 2, paused=False, running=1, waiting=0),
}


def test_every_state_is_tried() -> None:
    assert set(LIMITS) == set(STATES)


@pytest.mark.parametrize(("state", "limit"), LIMITS.items(), ids=LIMITS)
def test_the_cli_json_and_metrics_have_the_same_word(state: str, limit: LimitStatus) -> None:
    assert limit.state == state
    told: Any = as_json(Status((limit,)))
    assert told["limits"][0]["state"] == state
    cells = [str(cell) for cell in limit_row(limit, has_bar=False)]
    assert [cell for cell in cells if cell in STATES] == [state]
    assert len(bar(limit)) == BAR
    (metric,) = (metric for metric in _of_now([limit]) if metric.name == "celery_gconc_limit_state")
    assert [sample.labels for sample in metric.samples] == [{"limit": "app", "state": state}]
    assert state in METRICS["celery_gconc_limit_state"].help
    assert limit.is_closed == (state not in ("open", "unlimited"))


def test_the_pages_of_flower_show_the_word_that_json_has() -> None:
    assets = Path(celery_gconc.__file__).parent / "flower" / "assets"
    script = (assets / "gconc.js").read_text(encoding="utf-8")
    assert "limit.state" in script
    assert not re.search(r"return \"(full|draining|settling|paused)\"", script), "it makes a word of its own"
    coloured = set(re.findall(r'data-state="(\w+)"', (assets / "gconc.css").read_text(encoding="utf-8")))
    assert coloured <= set(STATES)


def test_the_pages_name_every_state() -> None:
    docs = Path(celery_gconc.__file__).parents[1] / "docs"
    for page in ("reference/cli.md", "reference/api.md"):
        text = (docs / page).read_text(encoding="utf-8")
        assert all(f"`{state}`" in text or f'`"{state}"`' in text for state in STATES), page
