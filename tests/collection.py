"""The tests of a folder as pytest collects them, for the pages that are made from tests."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from tests.kit.servers import ROOT


class _Collector:
    """A pytest plugin that keeps what was collected."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keep the tests."""
        self.items = list(session.items)


def collect_items(*folders: Path) -> list[pytest.Item]:
    """The tests of folders; SystemExit with what pytest said where it can't collect them."""
    collector = _Collector()
    said = io.StringIO()
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", *map(str, folders)]
    with contextlib.redirect_stdout(said):
        code = pytest.main(options, plugins=[collector])
    if code != pytest.ExitCode.OK:
        raise SystemExit(f"the tests can't be collected:\n{said.getvalue()}")
    return collector.items
