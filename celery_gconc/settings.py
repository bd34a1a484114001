"""The ``global_concurrency_*`` settings of a Celery app: read, checked each by its rule, and frozen.

Defaults are applied here, when reading, and never through ``app.add_defaults``: those would win over a config
object with a namespace (Django's ``CELERY_``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu.utils.url import maybe_sanitize_url

from .errors import LimitError, SettingError
from .limits import parse_limit, parse_max

PREFIX = "global_concurrency_"

#: URL schemes of a Redis (or Valkey) as a broker or result backend has them, to what redis-py understands.
_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
    "redis+socket": "unix",
    "socket": "unix",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the settings table: its name without the prefix, default, unit and rule (for docs and errors)."""

    name: str
    default: Any
    rule: str


SETTINGS: dict[str, Setting] = {
    s.name: s
    for s in (
        Setting("limits", {}, "a mapping of limit name to a whole number >= 0"),
        Setting("redis_url", None, "a redis://, rediss://, valkey:// or unix:// URL"),
        Setting("redis_options", {}, "a mapping of options for the Redis client"),
        Setting("key_prefix", "gconc", "1 to 64 letters, digits, '_', '-' or '.'"),
        Setting("heartbeat_interval", 5.0, "seconds, a number >= 0.1"),
        Setting("heartbeat_timeout", 30.0, "seconds, a number of at least 2 x global_concurrency_heartbeat_interval"),
        Setting("commit_interval", 0.0, "seconds, a number >= 0 and below global_concurrency_heartbeat_interval"),
        Setting("consumer_timeout", 1800.0, "seconds, a number >= 1"),
        Setting("on_redis_error", "wait", "'wait' or 'run'"),
        Setting("on_lease_lost", "continue", "'continue' or 'terminate'"),
    )
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one app, valid. Times are in seconds."""

    limits: Mapping[str, int] = field(default_factory=dict)
    redis_url: str = ""
    #: Whether ``redis_url`` was taken from the broker or result backend, not set.
    inherited_url: bool = False
    redis_options: Mapping[str, Any] = field(default_factory=dict)
    key_prefix: str = "gconc"
    heartbeat_interval: float = 5.0
    heartbeat_timeout: float = 30.0
    commit_interval: float = 0.0
    consumer_timeout: float = 1800.0
    on_redis_error: str = "wait"
    on_lease_lost: str = "continue"
    warnings: tuple[str, ...] = ()

    @property
    def safe_url(self) -> str:
        """The coordination Redis for people to read: no password."""
        return str(maybe_sanitize_url(self.redis_url))

    @classmethod
    def from_app(cls, app: Celery) -> Settings:
        """Read and check the settings of *app* (this loads its configuration).

        Raises:
            SettingError: a value breaks its rule, or a ``global_concurrency_`` key is unknown.
        """
        conf = app.conf
        values = _own_keys(conf)
        url = values.pop("redis_url", None)
        inherited = url is None
        if url is None:
            url = _inherited_url(conf)
        return _checked(values, url, inherited)


def check_pending(app: Celery) -> None:
    """Check what is known of *app*'s settings without loading its configuration.

    Loading it here would send ``on_after_configure`` before the app's own receivers (the usual way to add
    periodic tasks) are connected, so a configuration not loaded yet is checked key by key as far as it was
    assigned, and once more, wholly, when the worker starts.

    Raises:
        SettingError: as :meth:`Settings.from_app`.
    """
    if app.configured:  # type: ignore[attr-defined]
        Settings.from_app(app)
        return
    # celery 5.4-5.7: what was assigned to app.conf before it is loaded; there is no public way to look at it.
    values = _own_keys(getattr(app, "_preconf", {}))
    url = values.pop("redis_url", None)
    _checked(values, url or "redis://", url is None)


def _own_keys(conf: Mapping[str, Any]) -> dict[str, Any]:
    """The ``global_concurrency_`` keys of *conf* without their prefix, whatever namespace and case they stand in."""
    values: dict[str, Any] = {}
    for key in list(conf):
        found = re.search(r"(?i)(?:^|_)global_concurrency_(\w+)$", key) if isinstance(key, str) else None
        if found is None:
            continue
        name = found.group(1).lower()
        if name not in SETTINGS:
            known = ", ".join(PREFIX + known for known in SETTINGS)
            raise SettingError(f"{PREFIX}{name}={conf[key]!r}: there is no such setting; those that exist: {known}")
        values[name] = conf[key]
    return values


def _inherited_url(conf: Any) -> str:
    for key in ("broker_read_url", "broker_url", "result_backend"):
        value = getattr(conf, key, None)  # not conf.get(), which doesn't know of CELERY_BROKER_URL and its like
        for url in [value] if isinstance(value, str) else list(value or ()):
            for one in str(url).split(";"):
                if urlsplit(one).scheme in _SCHEMES:
                    return one
    raise SettingError(
        f"{PREFIX}redis_url is not set, and neither the broker nor the result backend is a Redis: "
        f"set it to {SETTINGS['redis_url'].rule}"
    )


def _given(values: Mapping[str, Any], name: str) -> Any:
    value = values.get(name)
    return SETTINGS[name].default if value is None else value


def _refuse(name: str, value: Any, why: str = "") -> SettingError:
    return SettingError(f"{PREFIX}{name}={value!r}: must be {SETTINGS[name].rule}{why}")


def _number(values: Mapping[str, Any], name: str, least: float) -> float:
    value = _given(values, name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < least:
        raise _refuse(name, value)
    return float(value)


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = _given(values, name)
    if not isinstance(value, Mapping):
        raise _refuse(name, value)
    return value


def _limits(values: Mapping[str, Any]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for name, value in _mapping(values, "limits").items():
        try:
            limit, maximum = parse_limit(name), parse_max(value)
        except LimitError as exc:
            raise _refuse("limits", {name: value}, f": {exc}") from None
        if maximum is None:
            raise _refuse("limits", {name: value}, ": leave an unlimited one out")
        if limit in limits:
            raise _refuse("limits", {name: value}, f": {limit} is given twice")
        limits[limit] = maximum
    return limits


def _url(url: Any) -> str:
    if not isinstance(url, str) or urlsplit(url).scheme not in _SCHEMES:
        raise _refuse("redis_url", maybe_sanitize_url(url) if isinstance(url, str) else url)
    scheme, rest = url.split("://", 1)
    return f"{_SCHEMES[scheme]}://{rest}"


def _checked(values: Mapping[str, Any], url: Any, inherited: bool) -> Settings:
    prefix = _given(values, "key_prefix")
    if not isinstance(prefix, str) or not re.fullmatch(r"[\w.-]{1,64}", prefix, re.ASCII):
        raise _refuse("key_prefix", prefix)
    interval = _number(values, "heartbeat_interval", 0.1)
    timeout = _number(values, "heartbeat_timeout", 0.0)
    if timeout < 2 * interval:
        raise _refuse("heartbeat_timeout", timeout, f" ({interval:g}), that is {2 * interval:g}")
    warnings = []
    if timeout < 3 * interval:
        warnings.append(
            f"{PREFIX}heartbeat_timeout={timeout:g} is below 3 x {PREFIX}heartbeat_interval ({interval:g}): "
            "two late heartbeats lose the lease"
        )
    commit = _number(values, "commit_interval", 0.0)
    if commit >= interval:
        raise _refuse("commit_interval", commit)
    for name, choices in (("on_redis_error", ("wait", "run")), ("on_lease_lost", ("continue", "terminate"))):
        if _given(values, name) not in choices:
            raise _refuse(name, _given(values, name))
    return Settings(
        limits=_limits(values),
        redis_url=_url(url),
        inherited_url=inherited,
        redis_options=dict(_mapping(values, "redis_options")),
        key_prefix=prefix,
        heartbeat_interval=interval,
        heartbeat_timeout=timeout,
        commit_interval=commit,
        consumer_timeout=_number(values, "consumer_timeout", 1.0),
        on_redis_error=_given(values, "on_redis_error"),
        on_lease_lost=_given(values, "on_lease_lost"),
        warnings=tuple(warnings),
    )
