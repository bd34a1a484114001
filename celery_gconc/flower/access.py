"""Who asks something of Flower, what Flower lets them do, and how they are answered."""

from __future__ import annotations

import os
import socket
from base64 import b64decode
from typing import Any
from urllib.parse import urlsplit

from tornado.web import HTTPError, RequestHandler

from celery_gconc.errors import GlobalConcurrencyError, LimitError
from celery_gconc.flower.snapshots import SnapshotCache

READ_ONLY = "Flower is in read-only mode (--read-only)."
NO_LOGIN = (
    "This Flower doesn't require a login. The buttons work once it does (--basic-auth or --auth), or with "
    "FLOWER_UNAUTHENTICATED_API=true in its environment."
)


def options_of(handler: RequestHandler) -> Any:
    """What Flower was started with."""
    application: Any = handler.application
    return application.options


def user_of(handler: RequestHandler) -> str:
    """The name of the user who is logged in; ``flower@host`` where Flower asks for no login."""
    user = handler.current_user
    if isinstance(user, str):  # OAuth: an email address
        return user
    if options_of(handler).basic_auth:
        # Flower has compared it with those that it knows, and keeps only that it was right.
        credentials = handler.request.headers["Authorization"].split()[1]
        if name := b64decode(credentials).decode().partition(":")[0]:
            return name
    return f"flower@{socket.gethostname()}"


def refusal(handler: RequestHandler) -> str:
    """Why nothing may be changed from here, in a sentence; empty if it may. Flower's own buttons go by the same."""
    options = options_of(handler)
    if is_read_only(handler):
        return READ_ONLY
    is_open = os.environ.get("FLOWER_UNAUTHENTICATED_API", "").lower() in {"1", "true", "t", "yes", "y", "on"}
    return "" if options.basic_auth or options.auth or is_open else NO_LOGIN


def is_read_only(handler: RequestHandler) -> bool:
    """Whether Flower was started with ``--read-only`` (since flower 2.1)."""
    return bool(getattr(options_of(handler), "read_only", False))


def refuse_other_sites(handler: RequestHandler) -> None:
    """Refuse a request that a page of another site has its visitor's browser make.

    Flower checks that itself since 2.2; browsers send the name and password of basic authentication along with it.

    Raises:
        HTTPError: 403.
    """
    options = options_of(handler)
    if not (options.basic_auth or options.auth):
        return
    site, origin = handler.request.headers.get("Sec-Fetch-Site"), handler.request.headers.get("Origin")
    if site is None:  # an old browser, or none
        is_same = origin is None or urlsplit(origin).netloc == handler.request.host
    else:
        is_same = site == "same-origin"
    if not is_same:
        raise HTTPError(403, "Cross-site request forbidden")


async def answer_with_snapshot(handler: RequestHandler, cache: SnapshotCache) -> None:
    """Answer a request with what holds now."""
    handler.set_header("Cache-Control", "no-store")
    try:
        handler.write(await cache.snapshot(handler.get_arguments("limit")))
    except GlobalConcurrencyError as exc:
        answer_with_error(handler, exc)


def answer_with_error(handler: RequestHandler, exc: GlobalConcurrencyError) -> None:
    """Answer a request with an error: 400 where what was asked for can't be, 503 where Redis can't be reached."""
    handler.set_status(400 if isinstance(exc, LimitError) else 503)
    handler.write({"error": str(exc)})
