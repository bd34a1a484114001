"""What users touch: ``GlobalConcurrency(app)``, which adds the consumer step and the commands, and the Python API."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import click
from celery import Celery

from . import control
from .bootstep import GlobalConcurrencyStep, configured_limits, full_name
from .errors import SettingError
from .limits import parse_limit, parse_max
from .settings import Settings, check_pending, hide_url
from .status import Change, Status
from .store import Store

T = TypeVar("T")


class GlobalConcurrency:
    """Global concurrency limits for a Celery app.

    ``GlobalConcurrency(app)`` makes every worker of *app* keep to the limits in ``app.conf`` and in its tasks'
    ``global_concurrency=`` options, over all workers that share the coordination Redis. It may be called more than
    once; it opens no connection.

    The methods read and change limits from any process, with no worker alive. They connect when called, take at
    most a few seconds, and raise :class:`~celery_gconc.errors.StoreUnavailable` where Redis can't be reached.
    A limit is named as at the shell: ``"emails"`` (a queue), ``"task:proj.tasks.sync"``, ``"pool:db"``, ``"app"``.

    Raises:
        SettingError: a ``global_concurrency_*`` setting that is known by now breaks its rule. In a ``celery``
            command that is one line on stderr, and exit code 1.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app
        # For what shows the configuration with no worker, as `celery report` does.
        app.on_after_configure.connect(_hide_url, weak=False)
        try:
            check_pending(app)
        except SettingError as exc:
            if click.get_current_context(silent=True) is None:
                raise
            # The celery command prints a traceback for any Exception while it loads the app.
            raise SystemExit(f"Error: celery-gconc: {exc}") from None
        app.steps["consumer"].add(GlobalConcurrencyStep)
        self._store: Store | None = None

    @property
    def settings(self) -> Settings:
        """The app's settings, checked. Loads its configuration."""
        return Settings.from_app(self.app)

    def get(self, limit: str) -> int | None:
        """The max of a limit that holds now; None if it is unlimited.

        A pause is not part of it: see :meth:`status`. While no worker is alive, the caller's own configuration counts.
        """
        name = self._name(limit)
        status = self._do(lambda store: store.status(name, self._config()))
        return status[name].max if name in status else None

    def set(self, limit: str, max: int | str | None, *, reason: str | None = None) -> Change:
        """Set the max of a limit at run time, for the whole cluster; ``None`` or ``"unlimited"`` lifts it.

        It holds until it is set again or reset, through restarts and deploys. Raising it starts waiting tasks at
        once. Lowering it never ends a task: those above the new max run to their end.
        """
        name, value = self._name(limit), parse_max(max)
        return self._do(lambda store: store.set(name, value, by=control.caller(), reason=reason, config=self._config()))

    def reset(self, limit: str) -> Change:
        """Forget what was set at run time: the configured value holds again. A pause stays."""
        name = self._name(limit)
        return self._do(lambda store: store.reset(name, by=control.caller(), config=self._config()))

    def pause(self, limit: str) -> Change:
        """Start no more tasks of a limit; those that run go on. Its value stays for :meth:`resume`."""
        name = self._name(limit)
        return self._do(lambda store: store.pause(name, True, by=control.caller(), config=self._config()))

    def resume(self, limit: str) -> Change:
        """End a pause."""
        name = self._name(limit)
        return self._do(lambda store: store.pause(name, False, by=control.caller(), config=self._config()))

    def status(self, limit: str | None = None) -> Status:
        """All limits and live workers at one instant, or one limit's."""
        name = None if limit is None else self._name(limit)
        return self._do(lambda store: store.status(name, self._config()))

    def close(self) -> None:
        """Close the connections that the methods above opened. The next call opens new ones."""
        store, self._store = self._store, None
        if store is not None:
            with suppress(Exception):
                store.close()

    def _name(self, limit: str) -> str:
        return full_name(self.app, parse_limit(limit))

    def _config(self) -> dict[str, int]:
        return configured_limits(self.app, self.settings)

    def _do(self, function: Callable[[Store], T]) -> T:
        if self._store is None:
            self._store = Store.from_settings(self.settings)
        return function(self._store)


def _hide_url(source: Any, **kwargs: Any) -> None:
    hide_url(source)
