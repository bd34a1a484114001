"""The ``global_concurrency_*`` settings of a Celery app: read, checked each by its rule, and frozen.

Defaults are applied here, when reading, and never through ``app.add_defaults``: those would win over a config
object with a namespace (Django's ``CELERY_``).
"""

from __future__ import annotations

import math
import re
from collections import UserString
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from celery import Celery
from redis.connection import Connection
from redis.crc import key_slot

from celery_gconc.connection.hidden import HiddenURL, hide_url
from celery_gconc.connection.inherited import inherited
from celery_gconc.connection.location import Location, namespace, read, server
from celery_gconc.connection.urls import SECRET, masked, without_secrets
from celery_gconc.errors import LimitError, SettingError
from celery_gconc.limits.name import parse_limit
from celery_gconc.limits.rules import parse_max
from celery_gconc.lookup import PREFIX, closest, given, likely_meant, own_keys, pending

#: The longest lease, in seconds: after a loss of its data Redis waits for the end of the longest.
MAX_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the settings table: its name without the prefix, default, unit and rule (for docs and errors)."""

    name: str
    default: Any
    rule: str


SETTINGS: dict[str, Setting] = {
    s.name: s
    for s in (
        Setting("enabled", True, "True or False"),
        Setting("limits", {}, "a mapping of limit names to whole numbers >= 0"),
        Setting("redis_url", None, "a redis://, rediss://, valkey://, unix://, sentinel:// or rediscluster:// URL"),
        Setting("redis_options", {}, "a mapping of options for the Redis client"),
        Setting("key_prefix", "gconc", "1 to 64 letters, digits, '_', '-' or '.'"),
        Setting("heartbeat_interval", 5.0, "a number of seconds >= 0.1"),
        Setting(
            "heartbeat_timeout",
            30.0,
            "a number of seconds <= 300, and >= 2 x global_concurrency_heartbeat_interval",
        ),
        Setting("commit_interval", 0.0, "a number of seconds >= 0 and below global_concurrency_heartbeat_interval"),
        Setting("consumer_timeout", 1800.0, "a number of seconds >= 1"),
        Setting("wait_at_broker", False, "True or False"),
        Setting("task_events", True, "True or False"),
        Setting("wait_warning", 60.0, "a number of seconds >= 0 (0: no warning)"),
        Setting("on_redis_error", "wait", "'wait' or 'run'"),
        Setting("on_lease_lost", "continue", "'continue' or 'terminate'"),
    )
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one app, valid. Times are in seconds."""

    #: False: nothing else of this was read.
    enabled: bool = True
    limits: Mapping[str, int] = field(default_factory=dict)
    #: Where the coordination Redis is; None where none is set, and neither broker nor result backend is a Redis.
    location: Location | None = field(default=None, repr=False)
    key_prefix: str = "gconc"
    heartbeat_interval: float = 5.0
    heartbeat_timeout: float = 30.0
    commit_interval: float = 0.0
    consumer_timeout: float = 1800.0
    wait_at_broker: bool = False
    task_events: bool = True
    wait_warning: float = 60.0
    on_redis_error: str = "wait"
    on_lease_lost: str = "continue"
    warnings: tuple[str, ...] = ()
    #: Keys that this app doesn't read and that are likely meant to be ours, each with what is meant.
    misspelt: tuple[tuple[str, str], ...] = ()

    @property
    def redis_source(self) -> str:
        """The setting that names the coordination Redis; empty where none does."""
        return self.location.source if self.location else ""

    @property
    def inherited_url(self) -> bool:
        """Whether the coordination Redis is the broker's or the result backend's, not one that is set for us."""
        return self.redis_source != PREFIX + "redis_url"

    @property
    def safe_url(self) -> str:
        """The coordination Redis for people to read: no password."""
        return self.location.shown if self.location else "..."

    @property
    def namespace(self) -> str:
        """What all keys and channels begin with, but for the schema's number."""
        return namespace(self.location.keyprefix if self.location else "", self.key_prefix)

    @classmethod
    def from_app(cls, app: Celery) -> Settings:
        """Read and check the settings of *app* (this loads its configuration).

        Raises:
            SettingError: a value breaks its rule, or a ``global_concurrency_`` key is unknown.
        """
        conf: Any = app.conf
        conf.finalize()  # its namespace is known only then
        hide_url(conf)
        values = _given(conf)
        if not _is_enabled(values):
            return cls(enabled=False)
        options = _mapping(values, "redis_options")
        location = _named_location(values)
        if location is None:
            _check_options(options)
            try:
                location = inherited(app, options)
            except ValueError as exc:
                raise SettingError(str(exc)) from None
        settings = _checked(values, location)
        return replace(settings, misspelt=tuple(likely_meant(conf, SETTINGS)))

    def check_usable(self) -> None:
        """See that there is a coordination Redis to talk to.

        Raises:
            SettingError: switched off, or no URL is known.
        """
        if not self.enabled:
            raise SettingError(SWITCHED_OFF)
        if self.location is None:
            raise SettingError(NO_REDIS)


#: Why nothing can be asked or changed.
SWITCHED_OFF = f"celery-gconc is switched off: {PREFIX}enabled is False"
NO_REDIS = (
    f"{PREFIX}redis_url is not set, and neither the broker nor the result backend is a Redis: "
    f"set it to {SETTINGS['redis_url'].rule}"
)


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
    values = _given(pending(app))
    if _is_enabled(values):
        _checked(values, _named_location(values))


def _given(conf: Any) -> dict[str, Any]:
    """Our settings as *conf* has them, by their names without the prefix.

    Raises:
        SettingError: there is no such setting.
    """
    values = {
        name: str(value) if isinstance(value, HiddenURL) else value for name, value in given(conf, SETTINGS).items()
    }
    if _is_enabled(values):
        for key, name in own_keys(conf):
            if name not in SETTINGS:
                meant = closest(name, SETTINGS)
                known = ", ".join(PREFIX + known for known in SETTINGS)
                hint = (
                    f"did you mean {key[: -len(name)]}{_in_case(meant, key)}?" if meant else f"the settings are {known}"
                )
                raise SettingError(f"{key}={_shown(name, conf[key])}: there is no such setting; {hint}")
    return values


def _in_case(name: str, key: str) -> str:
    return name.upper() if key.isupper() else name


def _is_enabled(values: Mapping[str, Any]) -> bool:
    enabled = _value(values, "enabled")
    if not isinstance(enabled, bool):
        raise _refuse("enabled", enabled)
    return enabled


def _value(values: Mapping[str, Any], name: str) -> Any:
    value = values.get(name)
    return SETTINGS[name].default if value is None else value


def _refuse(name: str, value: Any, why: str = "") -> SettingError:
    return SettingError(f"{PREFIX}{name}={_shown(name, value)}: must be {SETTINGS[name].rule}{why}")


def _shown(name: str, value: Any) -> str:
    """A value as an error may show it."""
    if "://" in str(value):
        return repr(without_secrets(str(value) if isinstance(value, UserString) else value))
    if name == "redis_options" or (SECRET.search(name) and name != "key_prefix"):
        return f"<{type(value).__name__}>"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _number(values: Mapping[str, Any], name: str, least: float) -> float:
    value = _value(values, name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < least:
        raise _refuse(name, value)
    return float(value)


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = _value(values, name)
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
            raise _refuse("limits", {name: value}, ": leave unlimited limits out")
        if limit in limits:
            raise _refuse("limits", {name: value}, f": {limit} is given twice")
        limits[limit] = maximum
    return limits


def _named_location(values: Mapping[str, Any]) -> Location | None:
    """Where our own settings say that the coordination Redis is; None if they don't."""
    url, options = values.get("redis_url"), _mapping(values, "redis_options")
    if url is None:
        return None
    urls = [url] if isinstance(url, str) else url
    if not isinstance(urls, (list, tuple)) or not urls or not all(isinstance(one, str) for one in urls):
        raise _refuse("redis_url", url)
    text = ";".join(urls)
    try:
        location = read(text, options)
    except ValueError as exc:
        raise _refuse("redis_url", masked(text), f": {exc}") from None
    if location.kind == "sentinel" and not location.master_name:
        how = f"{PREFIX}redis_options={{'master_name': ...}}"
        raise _refuse("redis_url", location.shown, f": a sentinel:// URL needs ?master_name=..., or {how}")
    return location


def _checked(values: Mapping[str, Any], location: Location | None) -> Settings:
    prefix = _value(values, "key_prefix")
    if not isinstance(prefix, str) or not re.fullmatch(r"[\w.-]{1,64}", prefix, re.ASCII):
        raise _refuse("key_prefix", prefix)
    _check_hash_tag(location, prefix)
    interval = _number(values, "heartbeat_interval", 0.1)
    timeout = _number(values, "heartbeat_timeout", 0.0)
    if timeout < 2 * interval:
        raise _refuse("heartbeat_timeout", timeout, f" ({interval:g}), so at least {2 * interval:g}")
    if timeout > MAX_TIMEOUT:
        raise _refuse("heartbeat_timeout", timeout, f" ({interval:g})")
    warnings = []
    if timeout < 3 * interval:
        warnings.append(
            f"{PREFIX}heartbeat_timeout={timeout:g} is below 3 x {PREFIX}heartbeat_interval ({interval:g}): "
            "two late heartbeats cost a worker its lease"
        )
    commit = _number(values, "commit_interval", 0.0)
    if commit >= interval:
        raise _refuse("commit_interval", commit)
    for name, choices in (
        ("wait_at_broker", (True, False)),
        ("task_events", (True, False)),
        ("on_redis_error", ("wait", "run")),
        ("on_lease_lost", ("continue", "terminate")),
    ):
        if _value(values, name) not in choices:
            raise _refuse(name, _value(values, name))
    return Settings(
        limits=_limits(values),
        location=location,
        key_prefix=prefix,
        heartbeat_interval=interval,
        heartbeat_timeout=timeout,
        commit_interval=commit,
        consumer_timeout=_number(values, "consumer_timeout", 1.0),
        wait_at_broker=_value(values, "wait_at_broker"),
        task_events=_value(values, "task_events"),
        wait_warning=_number(values, "wait_warning", 0.0),
        on_redis_error=_value(values, "on_redis_error"),
        on_lease_lost=_value(values, "on_lease_lost"),
        warnings=tuple(warnings),
    )


def _check_options(options: Mapping[str, Any]) -> None:
    """Find what is wrong with ours themselves, before they are joined with those of the broker or the backend."""
    try:
        server(Connection, options)
    except ValueError as exc:
        raise SettingError(f"{PREFIX}redis_options: {exc}") from None


def _check_hash_tag(location: Location | None, prefix: str) -> None:
    """In a Redis Cluster all keys have to be in one slot."""
    if location is None or location.kind != "cluster":
        return
    ours = namespace(location.keyprefix, prefix)
    if key_slot(f"{ours}:a".encode()) != key_slot(f"{ours}:b".encode()):
        raise SettingError(
            f"{PREFIX}redis_options={{'global_keyprefix': {location.keyprefix!r}}}: in a Redis Cluster it can't begin "
            "with '{}', as the keys would have no hash tag: remove the braces, or put a name between them"
        )
