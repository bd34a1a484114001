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
    """Marks each test with its tier, and holds it to it."""

    @pytest.hookimpl(tryfirst=True)  # before -m looks at markers
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Tests are collected."""
        for item in items:
            item.add_marker(tier_of(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """A test runs."""
        global _allowed
        _allowed = TIERS.index(tier_of(item))
        try:
            return (yield)
        finally:
            _allowed = None


class Times:
    """Tells how long the tests of each tier took."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._tests: dict[str, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test has ended, here or in another process."""
        tier = next((tier for tier in reversed(TIERS) if tier in report.keywords), None)  # a folder is called unit
        if tier is not None:
            self._seconds[tier] += report.duration
            self._tests[tier].add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say it."""
        told = [
            f"{len(self._tests[tier])} {tier} in {self._seconds[tier]:.0f} s" for tier in TIERS if tier in self._tests
        ]
        if told:
            terminalreporter.write_line(f"tests by what they need: {', '.join(told)}")
