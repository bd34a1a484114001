"""Which tests stay together, and what begins first, where several processes share them (``pytest -n``).

pytest-xdist's own groups are no groups under pytest 9.2: it writes them into an attribute of a test that is no more
(xdist 3.8.0, ``remote.py``), and hands out single tests; each process then starts whatever a module shares.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import pytest

from tests.kit.tiers import tier_of

#: The columns of tests/lifecycle, in the id of a test: one worker stands for all tests of a column.
COLUMN = re.compile(r"tests/lifecycle/.*\[((?:prefork|threads|gevent|solo|eventlet)-(?:redis|rabbitmq))\b")

#: Seconds that a test is taken to need before it has been seen to run, by its tier; and one that ``takes_long``.
GUESS = {"unit": 0.02, "redis": 0.1, "process": 4.0}
GUESS_LONG = 40.0

#: Where the cache of pytest keeps how long each group took in the last run.
KEPT = "gconc/seconds"


def group_of(nodeid: str) -> str:
    """The group of a test: its file, or its column of tests/lifecycle."""
    column = COLUMN.match(nodeid)
    return column[1] if column else nodeid.partition("::")[0]


class Order:
    """What takes long begins first, so that no process is left alone with it at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._cache = getattr(config, "cache", None)
        self._seconds: dict[str, float] = defaultdict(float)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Tests are collected: in each of the processes alike."""
        if not hasattr(config, "workerinput"):
            return
        seconds: dict[str, float] = defaultdict(float)
        for item in items:
            takes_long = item.get_closest_marker("takes_long")
            seconds[group_of(item.nodeid)] += GUESS_LONG if takes_long else GUESS[tier_of(item)]
        known = self._cache.get(KEPT, {}) if self._cache else {}
        seconds.update((group, spent) for group, spent in known.items() if group in seconds)
        items.sort(key=lambda item: (-seconds[group_of(item.nodeid)], group_of(item.nodeid)))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Hand out whole groups, in the order in which they stand."""
        from xdist.scheduler import LoadScopeScheduling

        class Groups(LoadScopeScheduling):
            def _split_scope(self, nodeid: str) -> str:
                return group_of(nodeid)

        if config.getoption("dist") != "loadgroup":
            return None
        config.option.loadscopereorder = False
        return Groups(config, log)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test has ended, here or in another process."""
        self._seconds[group_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Keep how long each group took, for the next run."""
        if self._cache and session.config.getoption("dist", "no") == "loadgroup":
            self._cache.set(KEPT, {**self._cache.get(KEPT, {}), **self._seconds})
