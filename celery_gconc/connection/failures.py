"""What it means that the coordination Redis can't be used: whether waiting helps, and what somebody has to change.

An exception of redis-py, or of the system -> failure_of -> Failure
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import AuthenticationError, InvalidResponse, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

#: How much of what a server says is shown, in characters.
MAX_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Names:
    """The settings that a message about a connection names: those that the user has made."""

    #: The one that the URL comes from.
    url: str = "global_concurrency_redis_url"
    #: Whether it is about the broker itself, not about a coordination Redis that may be another.
    is_broker: bool = False
    #: Whether it is about Sentinels, which are talked to with options of their own.
    is_sentinel: bool = False

    @property
    def secret(self) -> str:
        """The one that has the user and the password."""
        return f"sentinel_kwargs in {self.options}" if self.is_sentinel else self.url

    @property
    def given_as(self) -> str:
        """How a password stands there."""
        return "password=..." if self.is_sentinel else "redis://:<password>@<host>, or redis://<user>:<password>@<host>"

    @property
    def tls(self) -> str:
        """The one that says how TLS is spoken."""
        if self.is_sentinel:
            return self.secret
        if self.url.startswith("broker"):
            return "broker_use_ssl"
        return "redis_backend_use_ssl" if self.url == "result_backend" else "global_concurrency_redis_options"

    @property
    def other(self) -> str:
        """The one that names another Redis, where this one can't serve."""
        return self.url if self.is_broker else "global_concurrency_redis_url"

    @property
    def options(self) -> str:
        """The one that has the prefix of all keys (``global_keyprefix``)."""
        if self.url.startswith("broker"):
            return "broker_transport_options"
        is_backend = self.url == "result_backend"
        return "result_backend_transport_options" if is_backend else "global_concurrency_redis_options"

    def fill(self, todo: str, **more: str) -> str:
        """An advice with these settings in it."""
        known = {name: getattr(self, name) for name in ("url", "secret", "given_as", "tls", "without_tls")}
        return todo.format(**known, **more)

    @property
    def with_tls(self) -> str:
        """How TLS is asked for."""
        if self.is_sentinel:
            return f"set ssl=True in {self.tls}"
        return f"use rediss:// instead of redis:// in {self.url}"

    @property
    def without_tls(self) -> str:
        """How it is not asked for."""
        if self.is_sentinel:
            return f"remove ssl from {self.tls}"
        is_own = self.tls.startswith("global_concurrency_")
        return f"use redis:// instead of rediss:// in {self.url}" + ("" if is_own else f", and remove {self.tls}")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a connection doesn't work."""

    #: Completes a sentence that begins with the subject; empty where nothing more is known than what was said.
    what: str
    #: What somebody has to do; empty where waiting is all.
    todo: str = ""
    #: Whether it can't work until somebody has changed something; else it only doesn't work now.
    is_permanent: bool = True
    #: What the server or the system said.
    said: str = ""
    #: Who it is about.
    subject: str = "the coordination Redis"

    def __str__(self) -> str:
        said = in_words(self.said)
        if not self.what:
            return f"{self.subject.removeprefix('the ')} unavailable: {said}"
        said = f" ({said})" if said else ""
        return f"{self.subject} {self.what}{said}" + (f": {self.todo}" if self.todo else "")


class NobodySaysError(RedisConnectionError):
    """None of several servers could say where our keys are, or is it: Sentinels, nodes of a Cluster, alternatives."""

    def __init__(self, text: str, failures: Sequence[tuple[Any, Exception]], *, of_sentinels: bool = False) -> None:
        super().__init__(f"{text} ({'; '.join(f'{server}: {in_words(shown(exc))}' for server, exc in failures)})")
        #: Each of them, and what it failed with.
        self.failures = tuple(failures)
        self.of_sentinels = of_sentinels


class UnknownMasterError(RedisError):
    """A Sentinel knows no master of that name."""


def failure_of(exc: BaseException, names: Names) -> Failure:
    """What an exception of a call, or of connecting, means."""
    names = names_for(exc, names)
    if isinstance(exc, NobodySaysError):
        return _of_several(exc, names)
    return _of_server(exc, names)


def names_for(exc: BaseException, names: Names) -> Names:
    """The settings to name for an error that may have come from Sentinels."""
    return replace(names, is_sentinel=isinstance(exc, NobodySaysError) and exc.of_sentinels)


def is_about_rights(exc: BaseException) -> bool:
    """Whether a right is missing, or a command: what else is missing can be asked then."""
    return isinstance(exc, ResponseError) and re.search(f"(?i){_NO_RIGHT}|{_UNKNOWN}", _text(exc)) is not None


def is_command_unknown(exc: BaseException) -> bool:
    """Whether the server knows no such command: it was renamed or taken away, or the server is too old."""
    return isinstance(exc, ResponseError) and re.search(f"(?i){_UNKNOWN}", _text(exc)) is not None


def is_dumb(exc: BaseException) -> bool:
    """Whether a connection failed in a way that doesn't say why: cut, or silent, as by a server that waits for TLS."""
    if isinstance(exc, NobodySaysError):
        return any(is_dumb(cause) for _, cause in exc.failures)
    plain = (ResponseError, AuthenticationError, socket.gaierror, FileNotFoundError, ConnectionRefusedError)
    return not any(isinstance(link, plain) for link in _chain(exc))


def shown(exc: BaseException) -> str:
    """What an exception says, in one line, without what was sent."""
    text = _text(exc).partition(", with args beginning with")[0].rstrip(" .")
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


#: What to do about a command that a server doesn't know.
ALLOW = "enable it there (check rename-command and the provider's restrictions; Redis 5.0 or later is needed)"

#: How redis-py 5.0-8.1 ("Error 111 connecting to host:6379. Connection refused") and the system begin.
_NOT_CONNECTED = re.compile(r"(?:Error (?:-?\d+ )?connecting to (?:unix socket: )?\S+\. |\[Errno -?\d+\] )(\w)")

_NO_RIGHT = r"NOPERM|no permissions|can't run this command or subcommand"
_UNKNOWN = r"unknown (redis |valkey )?command|unsupported command|command is not available"

#: What exceptions mean by their class alone; each with what that is, what to do, and whether it lasts.
_KINDS: tuple[tuple[type[BaseException], str, str, bool], ...] = (
    (
        UnknownMasterError,
        "can't be found: its Sentinels know no master of that name",
        "correct master_name in {url}, or where it is set",
        True,
    ),
    (InvalidResponse, "isn't at that address; something else answers", "correct the host and port in {url}", True),
    (socket.gaierror, "can't be found", "if this persists, correct the host name in {url}", False),
    (PermissionError, "can't be opened by this process", "check the permissions of its socket or certificates", True),
)

#: What servers say, by a pattern; what that is, what to do ({url} and {tls} are settings), and whether it lasts.
_SAID: tuple[tuple[str, str, str, bool], ...] = (
    (
        r"NOAUTH|Authentication required|already authenticated|unauthenticated multibulk",
        "requires a password",
        "set it in {secret}: {given_as}",
        True,
    ),
    (
        r"WRONGPASS|invalid username-password|invalid password",
        "rejects the user or the password",
        "correct them in {secret}",
        True,
    ),
    (
        r"wrong number of arguments for 'auth'|AUTH with a username",
        "doesn't support users (Redis does from 6.0 on)",
        "remove the user name from {url}: redis://:<password>@<host>",
        True,
    ),
    (
        r"(?-i:DENIED)|protected mode",
        "is in protected mode and refuses connections from other machines",
        "set a password there (requirepass), and in {url}",
        True,
    ),
    (
        r"SELECT is not allowed in cluster",
        "is a Redis Cluster, which only has database 0",
        "end {url} with /0",
        True,
    ),
    (r"DB index is out of range|invalid DB index", "has no database with that number", "choose another in {url}", True),
    (r"cluster support disabled", "is not a Redis Cluster", "use a redis:// or rediss:// URL in {url}", True),
    (
        r"unknown command .?SENTINEL",
        "can't be found: the server that answered is not a Sentinel",
        "name Sentinels in {url}; their usual port is 26379",
        True,
    ),
    (
        _NO_RIGHT,
        "denies its user a right that celery-gconc needs",
        "run ACL SETUSER <user> {command} there",
        True,
    ),
    (
        _UNKNOWN,
        "lacks a command that celery-gconc needs",
        f"{ALLOW}, or name another Redis in global_concurrency_redis_url",
        True,
    ),
    (r"READONLY|read only replica", "is a read-only replica", "if this persists, name its master in {url}", False),
    (r"OOM|'maxmemory'", "is out of memory", "free some there, or raise its maxmemory", False),
    (r"MISCONF", "can't save its data and accepts no writes", "check its disk", False),
    (r"NOREPLICAS|Not enough good replicas", "has too few replicas and accepts no writes", "check its replicas", False),
    (r"max number of clients", "accepts no more connections", "raise its maxclients", False),
)

#: The same of what OpenSSL says: the reason of an ssl.SSLError.
_TLS: tuple[tuple[str, str, str, bool], ...] = (
    (
        r"hostname mismatch|ip address mismatch|doesn't match",
        "has a certificate for another name",
        "use the name in the certificate in {url}, or set ssl_check_hostname=False in {tls}",
        True,
    ),
    (
        r"certificate has expired|not yet valid",
        "has a certificate that has expired or isn't valid yet",
        "renew it, or check the clocks",
        True,
    ),
    (
        r"certificate.verify.failed",
        "has a certificate from an unknown authority",
        "set ssl_ca_certs in {tls} to the authority's file, or ssl_cert_reqs='none' to skip the check",
        True,
    ),
    (
        r"alert|certificate required",
        "refuses our TLS handshake, as it does when it requires a client certificate",
        "set ssl_certfile and ssl_keyfile in {tls} to one that it trusts",
        True,
    ),
    (
        r"wrong.version.number|http.request|packet.length",
        "doesn't use TLS",
        "{without_tls}",
        True,
    ),
    (
        r"x509|pem|no.certificate|key.values|no.start.line|bad.(decrypt|end)",
        "can't be reached over TLS with these certificates",
        "check the files that ssl_ca_certs, ssl_certfile and ssl_keyfile name in {tls}",
        True,
    ),
)


def _of_several(exc: NobodySaysError, names: Names) -> Failure:
    found = [_of_server(cause, names) for _, cause in exc.failures]
    if found and all(one.is_permanent for one in found):
        return Failure(found[0].what, found[0].todo, said=shown(exc))
    return Failure("", said=shown(exc), is_permanent=False)


def _of_server(exc: BaseException, names: Names) -> Failure:
    for link in _chain(exc):
        if (found := _of_one(link, shown(exc), names)) is not None:
            return found
    return Failure("", said=shown(exc), is_permanent=False)


def _of_one(exc: BaseException, said: str, names: Names) -> Failure | None:
    """What one exception of a chain means; *said* is what people are shown."""
    if isinstance(exc, FileNotFoundError):
        return _of_a_file(said, names)
    for kind, what, todo, is_permanent in _KINDS:
        if isinstance(exc, kind):
            return Failure(what, names.fill(todo), is_permanent, said)
    text, table = _text(exc), _SAID if isinstance(exc, RedisError) else ()
    if isinstance(exc, ssl.SSLError):
        text, table = f"{exc.reason or ''} {getattr(exc, 'verify_message', '')}", _TLS
    for pattern, what, todo, is_permanent in table:
        if re.search(pattern, text, re.IGNORECASE):
            return Failure(what, names.fill(todo, command=_command_in(text)), is_permanent, said)
    return None


def _command_in(text: str) -> str:
    """The command that a user may not run, as an ACL names it, where the server says so."""
    found = re.search(r"run the '([\w|]+)'", text)
    return f"+{found[1].lower()}" if found else "with the rights on the documentation page 'Rights in Redis'"


def _of_a_file(said: str, names: Names) -> Failure:
    """A Unix socket that isn't there yet, or a file of certificates: redis-py raises the same for both."""
    if re.search(r"connecting to (unix socket: )?/", said):
        return Failure(
            "isn't there", f"if this persists, correct the path in {names.url}", is_permanent=False, said=said
        )
    return Failure(
        "can't be reached over TLS: a certificate file is missing",
        f"check the files that ssl_ca_certs, ssl_certfile and ssl_keyfile name in {names.tls}",
        said=said,
    )


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """An exception, and those that it came from."""
    seen: set[int] = set()
    link: BaseException | None = exc
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def in_words(said: str) -> str:
    """What a client says of a failed connection, without the number and the address: our messages name the server."""
    return _NOT_CONNECTED.sub(lambda found: found[1].lower(), said)


def _text(exc: BaseException) -> str:
    return (str(exc).splitlines() or [""])[0]
