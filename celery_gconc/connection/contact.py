"""What listens at an address, where a connection only ended or stayed silent: a Redis, one that wants TLS, or neither.

Two connections at most, which say no more than PING and a TLS greeting.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import closing, suppress

from redis.connection import SSLConnection
from redis.exceptions import RedisError

from celery_gconc.connection.failures import Failure, Names, failure_of
from celery_gconc.connection.location import Server

#: How long, in seconds, each of the two may take to connect, and to answer.
PATIENCE = 1.0

#: Twice, for a server that waits for more than one is long (RabbitMQ).
_GREETING = b"PING\r\nPING\r\n"

#: What a server that speaks TLS sends to one that doesn't: an alert.
_ALERT = b"\x15\x03"


def look(server: Server, names: Names) -> Failure | None:
    """Why a connection to *server* came to nothing, if that can be seen from what it says."""
    answer = _plain_answer(server)
    if answer[:1] in (b"+", b"-"):
        if _has_tls(server):
            return Failure("doesn't use TLS", names.without_tls)
        found = failure_of(RedisError(_line(answer).lstrip("-")), names)
        return found if found.is_permanent else None
    if answer and not answer.startswith(_ALERT):
        said = f"it said {_line(answer)!r}"
        return Failure(
            "isn't at that address; something else answers", f"correct the host and port in {names.url}", said=said
        )
    return _look_by_tls(server, names)


def _look_by_tls(server: Server, names: Names) -> Failure | None:
    """Whether it speaks TLS, where we don't; and whether it wants a certificate of ours, which it says behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is told it, and nothing believed
    speaks_tls = Failure("uses TLS, and we connected without it", names.with_tls)
    try:
        with closing(_connected(server)) as plain, context.wrap_socket(plain) as wrapped:
            if not _has_tls(server):
                return speaks_tls
            wrapped.recv(1)
    except ssl.SSLError as exc:
        if not _has_tls(server):
            return speaks_tls if "ALERT" in (exc.reason or "") else None
        found = failure_of(exc, names)
        return found if found.is_permanent else None
    except OSError:
        return None
    return None


def _plain_answer(server: Server) -> bytes:
    with suppress(OSError), closing(_connected(server)) as plain:
        plain.sendall(_GREETING)
        return plain.recv(200)
    return b""


def _has_tls(server: Server) -> bool:
    return issubclass(server.connection_class, SSLConnection)


def _connected(server: Server) -> socket.socket:
    host, port = server.address
    if port:
        return socket.create_connection((host, port), PATIENCE)
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(PATIENCE)
    made.connect(host)
    return made


def _line(answer: bytes) -> str:
    return answer.partition(b"\r\n")[0].decode("ascii", "replace")
