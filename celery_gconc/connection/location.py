"""Where the coordination Redis is, and with what redis-py connects to it: read from what our own settings say.

URL and options -> Location.  (``inherited`` makes the same of Celery's broker and result backend.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kombu.utils.imports import symbol_by_name
from kombu.utils.url import parse_ssl_cert_reqs, url_to_parts
from redis.connection import URL_QUERY_ARGUMENT_PARSERS, Connection, SSLConnection, UnixDomainSocketConnection

from celery_gconc.connection.urls import group, masked, servers

#: Host and port.
Address = tuple[str, int]

#: Options of redis-py that have no say here: they would change how replies are read, send a call twice in silence, or
#: choose what is ours to choose.
_NO_SAY = frozenset({
    "decode_responses", "encoding", "encoding_errors", "encoder_class", "charset", "errors", "protocol", "parser_class",
    "legacy_responses", "retry", "retry_on_timeout", "retry_on_error", "supported_errors", "health_check_interval",
    "single_connection_client", "auto_close_connection_pool", "max_connections", "cache", "cache_config",
    "maint_notifications_config", "event_dispatcher",
})  # fmt: skip

#: Options of a connection by TCP that one by a Unix socket doesn't have.
_TCP_ONLY = ("host", "port", "socket_connect_timeout", "socket_keepalive", "socket_keepalive_options", "socket_type")


@dataclass(frozen=True, slots=True)
class Server:
    """One server, and what redis-py's connections to it are made of."""

    connection_class: type
    #: Host and port, or path, and all else that the connection takes.
    options: Mapping[str, Any] = field(repr=False)
    #: Whether somebody has told us of it just now, and may tell of another one later.
    is_found: bool = False

    def at(self, address: Address) -> Server:
        """The server at an address that was found, which is talked to in the same way."""
        kind, options = self.connection_class, dict(self.options)
        if issubclass(kind, UnixDomainSocketConnection):
            kind = Connection
            del options["path"]
        return Server(kind, {**options, "host": address[0], "port": address[1]}, is_found=True)

    @property
    def address(self) -> Address:
        """Host and port; of a Unix socket its path and 0."""
        return str(self.options.get("path") or self.options["host"]), int(self.options.get("port", 0))

    def __str__(self) -> str:
        host, port = self.address
        return f"{host}:{port}" if port else host


@dataclass(frozen=True, slots=True)
class Location:
    """Where the coordination Redis is: one server, the Sentinels that know it, or some nodes of a Cluster."""

    kind: str  #: ``server``, ``sentinel`` or ``cluster``
    #: The server and its alternatives, in their order; the Sentinels; or the nodes that are known from the start.
    servers: tuple[Server, ...]
    #: What a node that is found is talked to with.
    node: Server
    #: The name under which the Sentinels know the master.
    master_name: str = ""
    #: What all keys and channels begin with, before our own prefix.
    keyprefix: str = ""
    #: For people to read.
    shown: str = ""
    #: The setting that names it.
    source: str = "global_concurrency_redis_url"

    @property
    def database(self) -> int:
        """The number of the database."""
        return int(self.node.options.get("db") or 0)


def read(url: str, options: Mapping[str, Any]) -> Location:
    """What ``global_concurrency_redis_url`` and ``..._options`` name, in Celery's spellings and in redis-py's.

    What the URL says wins. Where neither says anything of ``ssl_cert_reqs``, certificates are verified.

    Raises:
        ValueError: it can't be understood. The text says why in a few words, and shows nothing of the URL but hosts.
    """
    given = dict(options)
    keyprefix = str(given.pop("global_keyprefix", None) or "")
    sentinel_options = given.pop("sentinel_kwargs", None) or {}
    master_name = given.pop("master_name", None)
    named = {"keyprefix": keyprefix, "shown": masked(url)}
    found = group(url)
    if found is None:
        alternatives = tuple(_server(one, given) for one in servers(url))
        return Location("server", alternatives, alternatives[0], **named)
    node = _server(servers(found.node_url(*found.hosts[0]))[0], given)
    rest = dict(node.options)
    in_url = rest.pop("master_name", "")
    node = replace(node, options=rest)
    if found.kind == "sentinel":
        asked = server(Connection, sentinel_options)
        sentinels = tuple(replace(asked, options={**asked.options, "host": h, "port": p}) for h, p in found.hosts)
        return Location("sentinel", sentinels, node, str(in_url or master_name or ""), **named)
    if rest.get("db"):
        raise ValueError("a Redis Cluster only has database 0")
    if in_url:
        raise ValueError("master_name is for sentinel:// URLs only")
    return Location("cluster", tuple(node.at(one) for one in found.hosts), node, **named)


def server(connection_class: type, given: Mapping[str, Any]) -> Server:
    """A server, of what a connection to it was, or would be, made of: what has no say here is left out."""
    if given.get("connection_pool") is not None:
        raise ValueError("connection_pool is not supported: celery-gconc makes its connections from the other options")
    options = {name: value for name, value in given.items() if name not in _NO_SAY and value is not None}
    tls = options.pop("ssl", None)
    options.update(tls if isinstance(tls, Mapping) else {})
    # Given like broker_use_ssl, with which a redis:// URL has TLS too.
    has_tls = bool(tls) or any(name.startswith("ssl_") for name in options)
    if issubclass(connection_class, UnixDomainSocketConnection):
        options = {name: value for name, value in options.items() if name not in _TCP_ONLY}
    elif has_tls and not issubclass(connection_class, SSLConnection):
        connection_class = SSLConnection
    if isinstance(options.get("ssl_cert_reqs"), str):
        options["ssl_cert_reqs"] = _cert_reqs(options["ssl_cert_reqs"])
    if not options.get("socket_timeout", True):
        del options["socket_timeout"]  # 0 would not wait at all
    if (provider := options.get("credential_provider")) is not None:
        options["credential_provider"] = _made(provider) if isinstance(provider, str) else provider
        options = {name: value for name, value in options.items() if name not in ("username", "password")}
    return Server(connection_class, options)


def _server(url: str, options: Mapping[str, Any]) -> Server:
    """The server that one URL names."""
    parts = url_to_parts(url)
    query = dict(parts.query)
    database = query.pop("virtual_host", None) or query.get("db")
    parsers: Mapping[str, Any] = URL_QUERY_ARGUMENT_PARSERS
    try:
        given = {name: parsers.get(name, str)(value) for name, value in query.items()}
    except ValueError:
        raise ValueError("a query parameter has an invalid value") from None
    if parts.scheme == "socket":
        given["path"] = f"/{parts.path or ''}"
    else:
        given.update(host=parts.hostname or "localhost", port=parts.port or 6379)
        database = database or (parts.path or "").strip("/")
    if database:
        if not str(database).strip("/").isdecimal():
            raise ValueError("the database must be a number")
        given["db"] = int(str(database).strip("/"))
    given.update({name: value for name in ("username", "password") if (value := getattr(parts, name))})
    kind = {"socket": UnixDomainSocketConnection, "rediss": SSLConnection}.get(parts.scheme, Connection)
    merged = {**options, **given}
    return server(merged.pop("connection_class", None) or kind, merged)


def _cert_reqs(text: str) -> Any:
    try:
        return parse_ssl_cert_reqs(text)
    except KeyError:
        raise ValueError("ssl_cert_reqs must be none, optional or required, or Celery's CERT_NONE and so on") from None


def _made(provider: str) -> Any:
    try:
        return symbol_by_name(provider)()
    except (ImportError, AttributeError, ValueError) as exc:
        raise ValueError(f"credential_provider: {exc}") from None


def namespace(keyprefix: str, prefix: str) -> str:
    """What tells two namespaces of one Redis apart: the prefix of all that the app has in it, and ours in braces.

    The braces are the Cluster's hash tag, unless the app's prefix has some of its own, which come first.
    """
    return f"{keyprefix}{{{prefix}}}"
