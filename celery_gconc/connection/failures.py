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
MOST_SHOWN = 120


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
            return f"write ssl=True into {self.tls}"
        return f"write rediss:// instead of redis:// into {self.url}"

    @property
    def without_tls(self) -> str:
        """How it is not asked for."""
        if self.is_sentinel:
            return f"leave ssl out of {self.tls}"
        is_own = self.tls.startswith("global_concurrency_")
        return f"write redis:// instead of rediss:// into {self.url}" + ("" if is_own else f", and no {self.tls}")


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
        if not self.what:
            return f"{self.subject} doesn't serve: {self.said}"
        said = f" ({self.said})" if self.said else ""
        return f"{self.subject} {self.what}{said}" + (f": {self.todo}" if self.todo else "")


class NobodySaysError(RedisConnectionError):
    """None of several servers could say where our keys are, or is it: Sentinels, nodes of a Cluster, alternatives."""

    def __init__(self, text: str, failures: Sequence[tuple[Any, Exception]], *, of_sentinels: bool = False) -> None:
        super().__init__(f"{text} ({'; '.join(f'{server}: {shown(exc)}' for server, exc in failures)})")
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
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


#: What to do about a command that a server doesn't know.
ALLOW = "let it know that command (rename-command, or what its provider forbids; Redis 5.0 or later)"

_NO_RIGHT = r"NOPERM|no permissions|can't run this command or subcommand"
_UNKNOWN = r"unknown (redis |valkey )?command|unsupported command|command is not available"

#: What exceptions mean by their class alone; each with what that is, what to do, and whether it lasts.
_KINDS: tuple[tuple[type[BaseException], str, str, bool], ...] = (
    (
        UnknownMasterError,
        "was to be found by Sentinels, which know no such master",
        "correct master_name in {url}, or where it is set",
        True,
    ),
    (InvalidResponse, "isn't there; something else answers", "correct the host and port in {url}", True),
    (socket.gaierror, "can't be found", "if that lasts, correct the host's name in {url}", False),
    (PermissionError, "may not be opened by this process", "see to the rights of its socket, or of certificates", True),
)

#: What servers say, by a pattern; what that is, what to do ({url} and {tls} are settings), and whether it lasts.
_SAID: tuple[tuple[str, str, str, bool], ...] = (
    (
        r"NOAUTH|Authentication required|already authenticated|unauthenticated multibulk",
        "wants a password",
        "write it into {secret}: {given_as}",
        True,
    ),
    (
        r"WRONGPASS|invalid username-password|invalid password",
        "refuses the user or the password",
        "write the right ones into {secret}",
        True,
    ),
    (
        r"wrong number of arguments for 'auth'|AUTH with a username",
        "knows no users (Redis has them from 6.0 on)",
        "leave the user's name out of {url}: redis://:<password>@<host>",
        True,
    ),
    (
        r"(?-i:DENIED)|protected mode",
        "is in protected mode and refuses connections from other machines",
        "set a password there (requirepass), and write it into {url}",
        True,
    ),
    (
        r"SELECT is not allowed in cluster",
        "is a Redis Cluster, which has database 0 only",
        "write /0 at the end of {url}",
        True,
    ),
    (r"DB index is out of range|invalid DB index", "has no database of that number", "write another into {url}", True),
    (r"cluster support disabled", "is no Redis Cluster", "write a redis:// or rediss:// URL into {url}", True),
    (
        r"unknown command .?SENTINEL",
        "was to be found by Sentinels, and what answers is none",
        "name Sentinels in {url}; their usual port is 26379",
        True,
    ),
    (
        _NO_RIGHT,
        "doesn't give its user a right that is needed",
        "run there ACL SETUSER <user> {command}",
        True,
    ),
    (
        _UNKNOWN,
        "doesn't know a command that is needed",
        f"{ALLOW}, or name another Redis in global_concurrency_redis_url",
        True,
    ),
    (r"READONLY|read only replica", "is a read-only replica", "if that lasts, name its master in {url}", False),
    (r"OOM|'maxmemory'", "is out of memory", "free some there, or raise its maxmemory", False),
    (r"MISCONF", "can't save its data, and takes no writes", "see to its disk", False),
    (r"NOREPLICAS|Not enough good replicas", "lacks replicas, and takes no writes", "see to its replicas", False),
    (r"max number of clients", "takes no more connections", "raise its maxclients", False),
)

#: The same of what OpenSSL says: the reason of an ssl.SSLError.
_TLS: tuple[tuple[str, str, str, bool], ...] = (
    (
        r"hostname mismatch|ip address mismatch|doesn't match",
        "has a certificate for another name",
        "write the name that is in it into {url}, or ssl_check_hostname=False into {tls}",
        True,
    ),
    (
        r"certificate has expired|not yet valid",
        "has a certificate that isn't valid now",
        "see to it, and to the clocks",
        True,
    ),
    (
        r"certificate.verify.failed",
        "has a certificate that nobody vouches for",
        "name the file of its authority as ssl_ca_certs in {tls}, or ssl_cert_reqs='none' if no check is wanted",
        True,
    ),
    (
        r"alert|certificate required",
        "refuses TLS with us, as it does without the client certificate that it wants",
        "name one that it trusts as ssl_certfile and ssl_keyfile in {tls}",
        True,
    ),
    (
        r"wrong.version.number|http.request|packet.length",
        "speaks no TLS",
        "{without_tls}",
        True,
    ),
    (
        r"x509|pem|no.certificate|key.values|no.start.line|bad.(decrypt|end)",
        "can't be reached by TLS with these certificates",
        "see to the files that ssl_ca_certs, ssl_certfile and ssl_keyfile name in {tls}",
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
    return f"+{found[1].lower()}" if found else "with what the ACL line in the documentation has (Rights in Redis)"


def _of_a_file(said: str, names: Names) -> Failure:
    """A Unix socket that isn't there yet, or a file of certificates: redis-py raises the same for both."""
    if re.search(r"connecting to (unix socket: )?/", said):
        return Failure("isn't there", f"if that lasts, correct the path in {names.url}", is_permanent=False, said=said)
    return Failure(
        "can't be reached by TLS: a file of certificates isn't there",
        f"see to the files that ssl_ca_certs, ssl_certfile and ssl_keyfile name in {names.tls}",
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


def _text(exc: BaseException) -> str:
    return (str(exc).splitlines() or [""])[0]
