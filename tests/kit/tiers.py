"""What must be running for a test: its tier, by what its fixtures start; held to while it runs, and timed.

``unit``: nothing but this process. ``redis``: servers. ``process``: workers, commands, whatever else.
A test has the highest tier of its fixtures (:func:`starts`), or the one that it is marked with.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

#: From what needs the least to what needs the most.
TIERS = ("unit", "redis", "process")

#: What a test of the tier ``redis`` may start. (openssl makes certificates for one.)
SERVERS = {"redis-server", "valkey-server", "rabbitmq-server", "openssl"}

#: Seconds that a test is taken to need before it has been seen to run, by its tier; and one that ``takes_long``.
GUESS = {"unit": 0.02, "redis": 0.1, "process": 4.0}
GUESS_LONG = 40.0

#: Where the cache of pytest keeps how long each group took in the last run.
KEPT = "gconc/seconds"

_F = TypeVar("_F", bound=Callable[..., Any])
_allowed: int | None = None  # the tier of the test that runs; none between tests


def starts(tier: str) -> Callable[[_F], _F]:
    """Say of a fixture that it starts servers (``redis``), or workers and commands (``process``)."""
    assert tier in TIERS

    def mark(function: _F) -> _F:
        function.tier = tier  # type: ignore[attr-defined]
        return function

    return mark


def tier_of(item: pytest.Item) -> str:
    """The tier of a test."""
    for tier in reversed(TIERS):
        if item.get_closest_marker(tier):
            return tier
    fixtures = getattr(item, "_fixtureinfo", None)
    found = [
        getattr(definitions[-1].func, "tier", "unit")
        for definitions in (fixtures.name2fixturedefs if fixtures else {}).values()
    ]
    return max(found, key=TIERS.index, default="unit")


def group_of(item: pytest.Item) -> str:
    """Which tests stay in one process, where several share the work: those of a file, or of a column of the matrix."""
    if marker := item.get_closest_marker("xdist_group"):
        return str(marker.args[0])
    callspec = getattr(item, "callspec", None)
    column = callspec.params.get("column") if callspec else None  # tests/lifecycle
    return str(column or item.path.relative_to(item.config.rootpath))


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _allowed is None:
        return
    if event == "subprocess.Popen":
        name = Path(os.fsdecode(arguments[0])).name
        needed = 1 if name in SERVERS else 2
    elif event in {"os.fork", "os.posix_spawn"}:
        name, needed = "a process", 2
    else:
        return
    if needed > _allowed:
        raise AssertionError(f"a test of the tier {TIERS[_allowed]} starts {name}: mark it (tests/kit/tiers.py)")


sys.addaudithook(_audit)


class Tiers:
    """Marks each test with its tier and group, and holds it to its tier."""

    @pytest.hookimpl(tryfirst=True)  # before -m looks at markers
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Tests are collected."""
        for item in items:
            item.add_marker(tier_of(item))
            if item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(group_of(item)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """A test runs."""
        global _allowed
        _allowed = TIERS.index(tier_of(item))
        try:
            return (yield)
        finally:
            _allowed = None


class Order:
    """Where several processes share the tests: what takes long comes first, so that none is left alone at the end."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Tests are collected."""
        if not hasattr(config, "workerinput"):
            return
        seconds: dict[str, float] = defaultdict(float)
        for item in items:
            seconds[group_of(item)] += GUESS_LONG if item.get_closest_marker("takes_long") else GUESS[tier_of(item)]
        cache = getattr(config, "cache", None)
        known = cache.get(KEPT, {}) if cache else {}
        seconds.update((group, spent) for group, spent in known.items() if group in seconds)
        items.sort(key=lambda item: (-seconds[group_of(item)], group_of(item)))


class Times:
    """Tells how long the tests of each tier took, and keeps how long each group did for the order of the next run."""

    def __init__(self) -> None:
        self._tiers: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._groups: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test has ended, here or in another process."""
        tier = next((tier for tier in reversed(TIERS) if tier in report.keywords), None)  # a folder is called unit
        if tier is not None:
            self._tiers[tier] += report.duration
            self._counts[tier] += report.when == "call"
        self._groups[report.nodeid.rpartition("@")[2]] += report.duration  # so pytest-xdist names them

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """Say it."""
        told = [f"{tier} {self._counts[tier]} in {self._tiers[tier]:.0f} s" for tier in TIERS if tier in self._tiers]
        if told:
            terminalreporter.write_line(f"tests by what they need: {', '.join(told)}")
        cache = getattr(config, "cache", None)
        if cache and config.getoption("dist", "no") == "loadgroup":
            cache.set(KEPT, {**cache.get(KEPT, {}), **self._groups})
