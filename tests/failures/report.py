"""What a test of a failure says for the page of failure modes: a ``failure`` marker, and the times that were measured.

@pytest.mark.failure(area=..., case=..., limit=..., running=..., waiting=..., takes=...)
def test_...(..., took):
    ...
    took(seconds)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: Names the file to which each measured time is written, one JSON line each; unset, none is kept.
VARIABLE = "GCONC_FAILURE_TIMES"

#: The heartbeat settings of the tests, as Celery configuration. The times on the page were measured with these.
HEARTBEAT: dict[str, object] = {
    "global_concurrency_heartbeat_interval": 0.5,
    "global_concurrency_heartbeat_timeout": 2.5,
}

#: The areas in the order of the page, each with what its failures have in common.
AREAS: dict[str, str] = {
    "Coordination Redis": "The Redis that keeps the permits can't be reached, or does not serve.",
    "Loss of data": "The coordination Redis forgets what it knew, goes back in time, or its clock steps.",
    "Worker": "A worker, its children, its connection or its machine dies or stands still.",
    "Broker": "The broker is lost while the coordination Redis stays.",
    "Topology": "Sentinel, Redis Cluster and Valkey.",
}


@dataclass(frozen=True)
class Failure:
    """One line of the page. What several tests say of one case must be the same."""

    area: str
    case: str
    #: What becomes of the limit, of tasks that run, and of tasks that wait.
    limit: str
    running: str
    waiting: str
    #: The bound that the test asserts, in words; empty where there is nothing to measure.
    takes: str = ""

    def __post_init__(self) -> None:
        for name, said in asdict(self).items():
            assert isinstance(said, str), f"{self.case}: {name} is text"
            assert said or name == "takes", f"{self.case}: {name} is missing"
            assert "|" not in said and "\n" not in said, f"{self.case}: {name} has to fit a cell of a table"

    @classmethod
    def of(cls, marker: Any) -> Failure:
        """Read a ``failure`` marker."""
        assert not marker.args, "a failure marker takes keywords only"
        return cls(**marker.kwargs)


def name_of(item: Any) -> str:
    """The name of a test by which its times are kept: file, function and parameters (pytest-xdist changes node ids)."""
    return f"{item.path.name}::{item.name}"


def record(test: str, seconds: float) -> None:
    """Keep a measured time, where somebody wants them."""
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a") as file:  # several processes write here: one short line at a time
            file.write(json.dumps({"test": test, "seconds": round(float(seconds), 3)}) + "\n")


def recorded(path: Path) -> Mapping[str, list[float]]:
    """The times that were kept in a file, by test."""
    times: dict[str, list[float]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        said = json.loads(line)
        times.setdefault(said["test"], []).append(said["seconds"])
    return times
