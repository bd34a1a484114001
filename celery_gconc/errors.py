"""Every error of this package: one base class, one sentence each on what happened and what to do."""

from __future__ import annotations

from celery.exceptions import ImproperlyConfigured


class GlobalConcurrencyError(Exception):
    """Base class of every error that celery-gconc raises."""


class SettingError(GlobalConcurrencyError, ImproperlyConfigured):
    """A ``global_concurrency_*`` setting or task option breaks its rule; the message names key, value and rule."""


class LimitError(GlobalConcurrencyError, ValueError):
    """A limit's name or value is invalid; the message says what is valid."""


class StoreUnavailable(GlobalConcurrencyError):
    """The coordination Redis didn't answer, or failed; a change may or may not have been applied."""


class StoreUnusable(StoreUnavailable):
    """The coordination Redis can't be used until its configuration is fixed; the message says what to fix, and how."""


class StoreRefused(GlobalConcurrencyError):
    """A script was asked for something impossible; nothing was changed, and Redis works as before."""


class SessionRefused(GlobalConcurrencyError):
    """A worker may not run: its namespace or its Redis refuses it; the message says why."""
