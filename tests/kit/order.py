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

#: Seconds that a test is taken to need, by its tier. One that is marked ``takes_long(seconds)`` says so itself.
GUESS = {"unit": 0.02, "redis": 0.2, "process": 2.0}


def group_of(nodeid: str) -> str:
    """The group of a test: its file, or its column of tests/lifecycle."""
    column = COLUMN.match(nodeid)
    return column[1] if column else nodeid.partition("::")[0]


class Order:
    """What takes long begins first, so that no process is left alone with it at the end."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Tests are collected: in each of the processes alike."""
        if not hasattr(config, "workerinput"):
            return
        seconds: dict[str, float] = defaultdict(float)
        for item in items:
            takes_long = item.get_closest_marker("takes_long")
            seconds[group_of(item.nodeid)] += takes_long.args[0] if takes_long else GUESS[tier_of(item)]
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
