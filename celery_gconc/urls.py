"""Where the coordination Redis is, as its URL says: read, checked, and shown without its passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from redis.connection import parse_url

#: URL schemes of one Redis (or Valkey) as a broker or result backend has them, to what redis-py understands.
SERVER_SCHEMES: Mapping[str, str] = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
    "redis+socket": "unix",
    "socket": "unix",
}

#: URL schemes that name several servers, to the kind of servers and their port where none is given.
GROUP_SCHEMES: Mapping[str, tuple[str, int]] = {
    "sentinel": ("sentinel", 26379),
    "rediscluster": ("cluster", 6379),
    "redisclusters": ("cluster", 6379),
}

#: Query parameters that may be shown.
_HARMLESS = ("db", "master_name", "socket_timeout", "socket_connect_timeout", "protocol")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the coordination Redis is: one server, the Sentinels that know it, or some nodes of a Cluster."""

    kind: str  #: ``server``, ``sentinel`` or ``cluster``
    #: For one server: its URL as redis-py takes it.
    url: str = ""
    #: Host and port of each Sentinel, or of each Cluster node that is known from the start.
    hosts: tuple[tuple[str, int], ...] = ()
    #: The name under which the Sentinels know the master; empty where the URL doesn't say.
    master_name: str = ""
    is_tls: bool = False
    _userinfo: str = ""
    _rest: str = ""

    @property
    def database(self) -> int | None:
        """The number of the database; None where the URL names none."""
        found: int | None = parse_url(self.url or self.node_url("localhost", 1)).get("db")  # type: ignore[no-untyped-call]
        return found

    def node_url(self, host: str, port: int, *, is_tls: bool = False) -> str:
        """The URL, as redis-py takes it, of the node at an address that was found."""
        scheme = "rediss" if self.is_tls or is_tls else "redis"
        address = f"[{host}]" if ":" in host else host
        return f"{scheme}://{self._userinfo}{address}:{port}{self._rest}"


def parse(url: str) -> Place:
    """Read the URL of a coordination Redis.

    Raises:
        ValueError: it can't be understood. The text says why in a few words, and shows nothing of the URL but hosts.
    """
    scheme = scheme_of(url)
    if scheme in SERVER_SCHEMES:
        return _server(f"{SERVER_SCHEMES[scheme]}://{url.partition('://')[2]}")
    if scheme in GROUP_SCHEMES:
        return _group(scheme, url)
    raise ValueError("unknown scheme")


def scheme_of(url: str) -> str:
    """The scheme of a URL; empty where there is none."""
    return url.partition("://")[0].lower() if "://" in url else ""


def masked(url: str) -> str:
    """A URL for people to read: no password. Of one that can't be understood only the scheme."""
    try:
        place = parse(url)
    except ValueError:
        scheme = scheme_of(url)
        return f"{scheme}://..." if scheme.replace("+", "").isalnum() else "..."
    scheme = scheme_of(url)
    if place.kind == "server":
        parts = urlsplit(place.url)
        userinfo, _, host = parts.netloc.rpartition("@")
        path, query = parts.path, parts.query
    else:
        userinfo, (path, query) = place._userinfo.rstrip("@"), _path_and_query(place._rest)
        host = ",".join(f"{_bracketed(name)}:{port}" for name, port in place.hosts)
        if place.master_name:
            query = urlencode({"master_name": place.master_name, **dict(parse_qsl(query))})
    user, colon, _ = userinfo.partition(":") if ":" in userinfo else ("", userinfo, "")
    shown = urlencode([(name, value) for name, value in parse_qsl(query) if name in _HARMLESS])
    userinfo = f"{user}{':' if user or colon == ':' else ''}**@" if userinfo else ""
    return f"{scheme}://{userinfo}{host}{path}{'?' if shown else ''}{shown}"


#: What a name has in it whose value is not for everybody; Celery censors settings by much the same.
SECRET = re.compile(r"(?i)api|token|key|secret|pass|signature|credential")

#: A user's name, and the password after it, up to the last @ before the next URL of several.
_PASSWORD = re.compile(r"(://[^:@/;]*):(?:(?!;[\w+]+://).)*@", re.DOTALL)

_QUERY = re.compile(r"([?&])([^=&;]*)=([^&;]*)")


def without_secrets(value: object) -> str:
    """A URL, or several, of whatever kind, for people to read: no password, wherever in it one stands.

    Where it can't be told what is one, rather too much is left out.
    """
    urls = list(value) if isinstance(value, (list, tuple)) else [value]
    return ", ".join(_PASSWORD.sub(r"\1:**@", _QUERY.sub(_hide_query, str(url))) for url in urls)


def _hide_query(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}=**" if SECRET.search(found[2]) else found[0]


def _server(url: str) -> Place:
    if "://" in url.partition("://")[2]:
        raise ValueError("one server, please: several are for sentinel:// and rediscluster:// URLs")
    _checked_by_redis_py(url)
    return Place("server", url)


def _group(scheme: str, url: str) -> Place:
    kind, default_port = GROUP_SCHEMES[scheme]
    hosts: list[tuple[str, int]] = []
    given: dict[str, str] = {}
    for part in url.split(";"):
        rest = part.partition("://")[2] if "://" in part else part
        if "://" in part and scheme_of(part) != scheme:
            raise ValueError(f"every part must be a {scheme}:// URL")
        netloc, slash, after = _split_netloc(rest)
        userinfo, _, names = netloc.rpartition("@")
        path, query = _path_and_query(slash + after)
        for what, value in (("user and password", userinfo), ("database", path.strip("/")), ("query", query)):
            if value and given.setdefault(what, value) != value:
                raise ValueError(f"its parts name more than one {what}")
        hosts += [_host_and_port(name, default_port) for name in names.split(",") if name.strip()]
    if not hosts:
        raise ValueError("no host")
    return _group_place(kind, scheme, hosts, given)


def _group_place(kind: str, scheme: str, hosts: list[tuple[str, int]], given: Mapping[str, str]) -> Place:
    database = given.get("database", "")
    if database and not database.isdecimal():
        raise ValueError("the database must be a number")
    query = dict(parse_qsl(given.get("query", ""), keep_blank_values=True))
    if kind == "cluster" and (int(database or 0) or query.get("db", "0") != "0"):
        raise ValueError("a Redis Cluster has database 0 only")
    master_name = query.pop("master_name", "")
    if master_name and kind != "sentinel":
        raise ValueError("master_name goes with sentinel:// only")
    rest = (f"/{database}" if database else "") + (f"?{urlencode(query, quote_via=quote)}" if query else "")
    userinfo = given.get("user and password", "")
    place = Place(
        kind, "", tuple(dict.fromkeys(hosts)), master_name, scheme == "redisclusters", userinfo and f"{userinfo}@", rest
    )
    _checked_by_redis_py(place.node_url(*place.hosts[0]))
    return place


def _checked_by_redis_py(url: str) -> None:
    if "#" in url:
        raise ValueError("a '#' is written %23")
    try:
        urlsplit(url).port  # noqa: B018 - reading it checks it
    except ValueError:
        raise ValueError("its host and port can't be read (in a password, '/' is written %2F, and '?' %3F)") from None
    try:
        parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError:
        raise ValueError("a query parameter has a value that it can't have") from None


def _split_netloc(rest: str) -> tuple[str, str, str]:
    """``user:password@host:port``, the first character of what follows, and the rest of it."""
    ends = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    return rest[:ends], rest[ends : ends + 1], rest[ends + 1 :]


def _path_and_query(text: str) -> tuple[str, str]:
    path, _, query = text.partition("?")
    return path, query


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text.strip()}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("a port must be a number from 0 to 65535") from None
    if not host:
        raise ValueError("a host is missing")
    return host, default if port is None else port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
