"""Fixtures: those of the cluster tests, and ``celery gconc`` within this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest
import redis
from celery import Celery
from celery.app.control import Control
from celery.bin.base import CLIContext

from celery_gconc import Operations
from celery_gconc.cli import gconc as command
from tests.cluster.conftest import make_cluster, oracle_url, rabbitmq_url
from tests.kit.workers import SHORT_POLLS

__all__ = ["make_cluster", "oracle_url", "rabbitmq_url"]


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def lines(self) -> list[list[str]]:
        """The words of each line of stdout that isn't empty."""
        return [line.split() for line in self.stdout.splitlines() if line]


Gconc = Callable[..., Said]


def said(app: Celery, *arguments: str) -> Said:
    """Run a command within this process. (click's own runner gives stderr since 8.2 only.)"""
    stdout, stderr = StringIO(), StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
        command.main(list(arguments), prog_name="gconc", obj=CLIContext(app=app, no_color=False, workdir=None))
    return Said(int(ended.value.code or 0), stdout.getvalue(), stderr.getvalue())


@pytest.fixture(autouse=True)
def _no_terminal_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever shell the tests are started from (pytest-xdist sets COLUMNS), the commands see nothing of it."""
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


class _Control(Control):
    """Remote control that hardly waits where nobody hears it."""

    def broadcast(self, *args: Any, timeout: float = 1.0, **more: Any) -> Any:
        with redis.Redis.from_url(self.app.conf.broker_url) as client:
            is_heard = client.pubsub_numpat() > 0
        return super().broadcast(*args, timeout=timeout if is_heard else min(timeout, 0.1), **more)


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """An app whose broker is the Redis of the tests, with nothing limited, and its tasks in no module."""
    made = Celery("shell", broker=redis_url, set_as_current=False)
    made.conf.broker_transport_options = SHORT_POLLS
    made.control = _Control(made)
    made.task(name="proj.sync", shared=False)(_nothing)
    made.task(name="proj.export", shared=False, global_concurrency="pool:db")(_nothing)
    yield made
    made.close()


@pytest.fixture
def gconc(app: Celery) -> Gconc:
    """``celery -A <that app> gconc ...``, within this process."""
    return lambda *arguments: said(app, *arguments)


@pytest.fixture
def operations(app: Celery) -> Iterator[Operations]:
    """What any process may ask."""
    asking = Operations(app)
    yield asking
    asking.close()


def _nothing() -> None:
    """A task that is never run here."""
