"""URLs of the coordination Redis as texts: taken apart, checked, and shown without their passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

#: URL schemes of one Redis (or Valkey), to the scheme that Celery has for it.
SERVER_SCHEMES: Mapping[str, str] = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "socket",
    "redis+socket": "socket",
    "socket": "socket",
}

#: URL schemes that name several servers, to the kind of servers and their port where none is given.
GROUP_SCHEMES: Mapping[str, tuple[str, int]] = {
    "sentinel": ("sentinel", 26379),
    "rediscluster": ("cluster", 6379),
    "redisclusters": ("cluster", 6379),
}

#: Query parameters that may be shown, where they are numbers or plain names.
_HARMLESS = {name: re.compile(r"[\d.]+") for name in ("db", "virtual_host", "socket_timeout", "socket_connect_timeout")}
_HARMLESS["master_name"] = re.compile(r".*")

#: Where one of several URLs ends: at a ``;`` before the next one, which has a scheme of its own.
_NEXT_URL = re.compile(r";\s*(?=[\w+]+://)")


@dataclass(frozen=True, slots=True)
class Group:
    """Some of the servers of a group, as a URL names them."""

    kind: str  #: ``sentinel`` or ``cluster``
    hosts: tuple[tuple[str, int], ...]
    is_tls: bool
    userinfo: str
    #: Path and query.
    rest: str

    def node_url(self, host: str, port: int) -> str:
        """The URL of one of its nodes: what the group's URL says of user, password, database, and query."""
        userinfo = f"{self.userinfo}@" if self.userinfo else ""
        return f"{'rediss' if self.is_tls else 'redis'}://{userinfo}{_bracketed(host)}:{port}{self.rest}"


def group(url: str) -> Group | None:
    """A URL whose scheme is one of :data:`GROUP_SCHEMES`, taken apart; None for any other.

    Raises:
        ValueError: it can't be understood. The text says why in a few words, and shows nothing of the URL but hosts.
    """
    scheme = scheme_of(url)
    if scheme not in GROUP_SCHEMES:
        return None
    kind, default_port = GROUP_SCHEMES[scheme]
    hosts: list[tuple[str, int]] = []
    given: dict[str, str] = {}
    for part in url.split(";"):
        rest = part.partition("://")[2] if "://" in part else part
        if "://" in part and scheme_of(part.strip()) != scheme:
            raise ValueError(f"every part must be a {scheme}:// URL")
        netloc, after = _split_netloc(rest)
        userinfo, _, names = netloc.rpartition("@")
        path, _, query = after.partition("?")
        for what, value in (("user and password", userinfo), ("database", path.strip("/")), ("query", query)):
            if value and given.setdefault(what, value) != value:
                raise ValueError(f"its parts name more than one {what}")
        hosts += [_host_and_port(name, default_port) for name in names.split(",") if name.strip()]
    if not hosts:
        raise ValueError("no host")
    database, query = given.get("database", ""), given.get("query", "")
    rest = (f"/{database}" if database else "") + (f"?{query}" if query else "")
    return Group(kind, tuple(dict.fromkeys(hosts)), scheme == "redisclusters", given.get("user and password", ""), rest)


def servers(url: str) -> list[str]:
    """The alternatives that a URL of single servers names, each with the scheme that Celery has for it.

    Raises:
        ValueError: as :func:`group`.
    """
    found = []
    for one in _NEXT_URL.split(url):
        scheme = scheme_of(one)
        if scheme not in SERVER_SCHEMES:
            raise ValueError("unknown scheme")
        if "#" in one:
            raise ValueError("write '#' as %23")
        try:
            urlsplit(one).port  # noqa: B018 - reading it checks it
        except ValueError:
            raise ValueError(
                "its host and port can't be read (in a password, write '/' as %2F and '?' as %3F)"
            ) from None
        found.append(f"{SERVER_SCHEMES[scheme]}://{one.partition('://')[2]}")
    return found


def scheme_of(url: str) -> str:
    """The scheme of a URL; empty where there is none."""
    return url.partition("://")[0].lower() if "://" in url else ""


def masked(url: str) -> str:
    """A URL for people to read: no password. Of one that can't be understood only the scheme."""
    scheme = scheme_of(url)
    try:
        if (found := group(url)) is not None:
            parts = urlsplit(found.node_url(*found.hosts[0]))
            hosts = ",".join(f"{_bracketed(name)}:{port}" for name, port in found.hosts)
            return _shown(scheme, found.userinfo, hosts, parts.path, parts.query)
        servers(url)
    except ValueError:
        return f"{scheme}://..." if scheme.replace("+", "").isalnum() else "..."
    shown = []
    for one in _NEXT_URL.split(url):
        parts = urlsplit(one)
        userinfo, _, host = parts.netloc.rpartition("@")
        shown.append(_shown(parts.scheme, userinfo, host, parts.path, parts.query))
    return ";".join(shown)


def _shown(scheme: str, userinfo: str, hosts: str, path: str, query: str) -> str:
    user, colon, _ = userinfo.partition(":") if ":" in userinfo else ("", userinfo, "")
    harmless = [pair for pair in parse_qsl(query) if pair[0] in _HARMLESS and _HARMLESS[pair[0]].fullmatch(pair[1])]
    shown = urlencode(harmless, quote_via=quote)
    userinfo = f"{user}{':' if user or colon == ':' else ''}**@" if userinfo else ""
    return f"{scheme}://{userinfo}{hosts}{path}{'?' if shown else ''}{shown}"


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


def _split_netloc(rest: str) -> tuple[str, str]:
    """``user:password@host:port``, and what follows it."""
    ends = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    return rest[:ends], rest[ends:]


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
