"""Every error of this package: one base class, one sentence each on what happened and what to do."""

from __future__ import annotations

from celery.exceptions import ImproperlyConfigured


class GlobalConcurrencyError(Exception):
    """Base class of every error that celery-gconc raises."""


class SettingError(GlobalConcurrencyError, ImproperlyConfigured):
    """A ``global_concurrency_*`` setting or task option breaks its rule; the message names key, value and rule."""


class LimitError(GlobalConcurrencyError, ValueError):
    """A limit's name or value can't be understood; the message says what would be."""


class StoreUnavailable(GlobalConcurrencyError):
    """The coordination Redis didn't answer, or answered that it can't; nothing is known to have changed."""


class StoreUnusable(StoreUnavailable):
    """The coordination Redis can't be used until somebody changes something; the message says what, and how."""


class StoreRefused(GlobalConcurrencyError):
    """A script was asked for something that can't be; nothing was changed, and Redis serves as before."""


class SessionRefused(GlobalConcurrencyError):
    """The namespace doesn't take this worker (other heartbeat settings), or its Redis can't be used (a password)."""
