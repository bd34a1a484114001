"""The coordination Redis of an app that names none: its broker's, or its result backend's.

kombu and Celery themselves read their settings here, and nothing is connected:

    broker_url, broker_use_ssl, broker_transport_options -> kombu's channel -> Location
    result_backend, redis_backend_use_ssl, ... -> Celery's backend -> Location
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast
from weakref import WeakKeyDictionary

from celery import Celery
from celery.app.backends import by_url
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import ImproperlyConfigured
from kombu import Connection as BrokerConnection
from kombu.transport.redis import SentinelChannel
from kombu.transport.redis import Transport as RedisTransport
from kombu.utils.url import maybe_sanitize_url
from redis.connection import Connection, SSLConnection

from celery_gconc.connection.location import Location, Server, read, server
from celery_gconc.connection.urls import GROUP_SCHEMES, SERVER_SCHEMES, group, masked, scheme_of, servers

#: Transport options that name where and under what names; the others are about kombu's own work.
_OPTIONS = ("master_name", "sentinel_kwargs", "global_keyprefix")

#: What a connection of the broker's or the backend's is made of that isn't taken over: how long a call may take is ours
#: to say, and kombu's blocking reads take longer.
_THEIRS = ("socket_timeout", "hosts", "additional_connection_errors")

#: What was read, and of what.
_known: WeakKeyDictionary[Celery, tuple[Any, Location | None]] = WeakKeyDictionary()


def inherited(app: Celery, options: Mapping[str, Any]) -> Location | None:
    """Where the broker of *app* is, else its result backend; None where neither is a Redis.

    What *options* (``global_concurrency_redis_options``) say wins.

    Raises:
        ValueError: kombu, Celery or redis-py can't understand it. The text names the setting.
    """
    conf = app.conf
    state = [
        getattr(conf, name, None)
        for name in (
            "broker_read_url", "broker_url", "broker_use_ssl", "broker_transport_options", "broker_transport",
            "broker_host", "broker_port", "broker_user", "broker_password", "broker_vhost", "result_backend",
            "redis_backend_use_ssl", "result_backend_transport_options", "redis_host", "redis_port", "redis_db",
            "redis_username", "redis_password", "redis_backend_credential_provider", "redis_client_name",
        )
    ]  # fmt: skip
    asked = [app.backend_cls, *state, dict(options)]
    known = _known.get(app)
    if known is None or known[0] != asked:  # kombu logs a line for some URLs each time that it reads them
        known = _known[app] = (asked, _of_broker(app, options) or _of_backend(app, options))
    return known[1]


def _of_broker(app: Celery, options: Mapping[str, Any]) -> Location | None:
    conf: Any = app.conf
    url = conf.broker_read_url
    source = "broker_url" if url == conf.broker_url else "broker_read_url"
    urls = [url] if isinstance(url, str) else [str(one) for one in url or ()]
    text = ";".join(urls)
    try:
        connection = app.connection_for_read(
            transport_options={name: options[name] for name in _OPTIONS if name in options}
        )
        channels = list(_channels(connection))
    except (ValueError, KeyError, TypeError, ImportError, AttributeError) as exc:
        if not _is_known(text):
            return None  # Celery itself will say what is wrong with it
        raise _refused(source, text, exc) from None
    if not channels:
        return _by_scheme(text, source, conf.broker_transport_options, options)
    try:
        location = _of_channels(channels, options)
    except (ValueError, TypeError, ImportError, AttributeError) as exc:
        raise _refused(source, text, exc) from None
    shown = masked(text) if _is_known(text) else _shown_of(text, connection)
    return _named(location, source, shown)


def _channels(connection: BrokerConnection) -> Iterator[Any]:
    """A channel for each Redis among the broker's alternatives: it knows what it would connect with, and has not yet.

    kombu 5.4-5.7: to make one as kombu does, connects it.
    """
    alternatives = list(connection.alt)
    while True:
        transport = connection.get_transport_cls()
        if isinstance(transport, type) and issubclass(transport, RedisTransport):
            channel: Any = object.__new__(transport.Channel)
            channel.connection = SimpleNamespace(client=_like(connection), default_port=transport.default_port)
            for name, value in (connection.transport_options or {}).items():
                if name in channel.from_transport_options:
                    setattr(channel, name, value)
            yield channel
            if issubclass(transport.Channel, SentinelChannel):
                return  # the alternatives are the Sentinels
        alternatives = alternatives[1:]
        if not alternatives:
            return
        connection.switch(alternatives[0])


def _like(connection: BrokerConnection) -> SimpleNamespace:
    """What a connection says of itself now, before it switches to its next alternative."""
    names = ("hostname", "port", "virtual_host", "userid", "password", "ssl", "alt", "transport_options")
    return SimpleNamespace(
        # kombu up to 5.5 has no credential providers.
        credential_provider=getattr(connection, "credential_provider", None),
        **{name: getattr(connection, name) for name in names},
    )


def _of_channels(channels: list[Any], options: Mapping[str, Any]) -> Location:
    first: Any = channels[0]
    keyprefix = first.global_keyprefix or ""
    if issubclass(type(first), SentinelChannel):
        if not getattr(first, "master_name", None):
            raise ValueError("its Sentinels need broker_transport_options={'master_name': ...}")
        return _of_sentinels(first._sentinel_managed_pool(), first._connparams(), keyprefix, options)
    servers = tuple(
        _server(channel._connparams(), options) for channel in channels if not isinstance(channel, SentinelChannel)
    )
    return Location("server", servers, servers[0], keyprefix=keyprefix)


def _of_backend(app: Celery, options: Mapping[str, Any]) -> Location | None:
    given: Any = app.backend_cls or app.conf.result_backend
    try:
        kind, url = cast("Any", by_url(given, app.loader))  # celery-types says that it gives the class alone
    except Exception:  # noqa: BLE001 - of another backend, and Celery itself will say what is wrong with it
        kind, url = None, None
    text = str(url or given or "")
    source = "result_backend"
    if kind is None or not (isinstance(kind, type) and issubclass(kind, RedisBackend)):
        return _by_scheme(text, source, app.conf.result_backend_transport_options, options)
    try:
        backend: Any = app.backend
        # celery 5.4-5.7: each version puts the prefix before its keys in a way of its own.
        names = backend.task_keyprefix, kind.task_keyprefix
        ours, theirs = (name.decode() if isinstance(name, bytes) else str(name) for name in names)
        keyprefix = str(options.get("global_keyprefix") or ours.removesuffix(theirs))
        if issubclass(kind, SentinelBackend):
            pool = backend._get_pool(**backend.connparams)
            location = _of_sentinels(pool, backend.connparams, keyprefix, options)
            if not location.master_name:
                raise ValueError("its Sentinels need result_backend_transport_options={'master_name': ...}")
        else:
            one = _server(backend.connparams, options)
            location = Location("server", (one,), one, keyprefix=keyprefix)
    except (ValueError, TypeError, ImportError, AttributeError, ImproperlyConfigured) as exc:
        raise _refused(source, text, exc) from None
    return _named(location, source, masked(text) if _is_known(text) else maybe_sanitize_url(text))


def _of_sentinels(pool: Any, made_of: Mapping[str, Any], keyprefix: str, options: Mapping[str, Any]) -> Location:
    """What a pool of redis-py's would ask Sentinels, and the master that they name would be talked to with."""
    sentinels = []
    for one in pool.sentinel_manager.sentinels:
        known = one.connection_pool
        sentinels.append(server(known.connection_class, known.connection_kwargs))
    if own := options.get("sentinel_kwargs"):
        sentinels = [server(Connection, {**own, **dict(zip(("host", "port"), s.address))}) for s in sentinels]  # noqa: B905
    node = _server({**made_of, "connection_class": _plain(pool.connection_class)}, options)
    master_name = str(options.get("master_name") or pool.service_name or "")
    return Location("sentinel", tuple(sentinels), node, master_name, keyprefix)


def _server(made_of: Mapping[str, Any], options: Mapping[str, Any]) -> Server:
    merged = {name: value for name, value in made_of.items() if name not in _THEIRS}
    merged.update({name: value for name, value in options.items() if name not in _OPTIONS})
    return server(merged.pop("connection_class", None) or Connection, merged)


def _plain(connection_class: type) -> type:
    """The class of a connection to a node that was found here, not by redis-py."""
    return SSLConnection if issubclass(connection_class, SSLConnection) else Connection


def _by_scheme(text: str, source: str, theirs: Any, options: Mapping[str, Any]) -> Location | None:
    """Of a transport or backend that Celery doesn't come with: by its URL, where that says that it is a Redis."""
    if not _is_known(text):
        return None
    own = {name: theirs[name] for name in _OPTIONS if isinstance(theirs, Mapping) and name in theirs}
    try:
        return _named(read(text, {**own, **options}), source, masked(text))
    except ValueError as exc:
        raise _refused(source, text, exc) from None


def _is_known(text: str) -> bool:
    scheme = scheme_of(text)
    return scheme in SERVER_SCHEMES or scheme in GROUP_SCHEMES


def _shown_of(text: str, connection: BrokerConnection) -> str:
    return ";".join(maybe_sanitize_url(one) for one in text.split(";")) if "://" in text else str(connection.as_uri())


def _named(location: Location, source: str, shown: str) -> Location:
    return replace(location, source=source, shown=shown)


def _refused(source: str, text: str, exc: Exception) -> ValueError:
    try:
        if _is_known(text) and group(text) is None:
            servers(text)
        why = str(exc)
    except ValueError as wrong:  # so what kombu or Celery say may have a part of the password in it
        why = str(wrong)
    return ValueError(f"{source}={masked(text)!r}: it can't be read: {' '.join(why.split())}")
