"""What is checked before a worker opens its first session, and what its log says of one that was opened.

Thread: the link's.
"""

from __future__ import annotations

from collections.abc import Sequence

from celery.utils.log import get_logger

from celery_gconc.errors import SessionRefused
from celery_gconc.protocol.openings import Opened, Stranger
from celery_gconc.protocol.session_store import SessionStore
from celery_gconc.settings import Settings
from celery_gconc.worker.session.identity import Identity

logger = get_logger(__name__)


def check_server(store: SessionStore, settings: Settings) -> None:
    """See that Redis gives us the rights that we need, and keeps what it is given.

    Raises:
        StoreUnusable: a right is missing.
        SessionRefused: it may evict our keys, and it was named for us.
    """
    for text in store.check_rights():
        logger.warning("celery-gconc: the coordination Redis %s: %s", settings.safe_url, text)
    policy = store.server_info("memory").get("maxmemory_policy", "")
    if policy.startswith("allkeys"):
        text = (
            f"the coordination Redis {settings.safe_url} may evict celery-gconc's keys "
            f"(maxmemory-policy is {policy}): set it to noeviction"
        )
        if not settings.inherited_url:
            raise SessionRefused(text)
        logger.warning("celery-gconc: %s", text)


def log_opened(opened: Opened, settings: Settings, identity: Identity) -> None:
    """Say what people should know of a session that was just opened: why nothing starts yet, and who else is there."""
    if opened.shut and opened.lost:
        logger.warning(
            "celery-gconc: Redis has lost data: tasks under limits start in %.1f s, once no worker that it has "
            "forgotten can still be running any",
            opened.shut,
        )
    elif opened.shut:
        logger.info(
            "celery-gconc: namespace %s is new: tasks under limits start in %.1f s", settings.namespace, opened.shut
        )
    if opened.strangers:
        logger.warning("celery-gconc: %s", _of_strangers(opened.strangers, settings, identity))


def log_reopened(opened: Opened, ids: Sequence[str], running: int) -> None:
    """Say that a session has ended, and why: the first of these *ids*. The last is the new one's."""
    logger.warning(
        "celery-gconc: session %s has ended: %s; new session %s reports %d running tasks",
        ids[0],
        "its lease ran out" if opened.lapsed else "Redis was restarted, was replaced or lost data",
        ids[-1],
        running,
    )


def _of_strangers(strangers: tuple[Stranger, ...], settings: Settings, identity: Identity) -> str:
    info = identity.info
    own = Stranger(str(info.get("app")), str(info.get("node")), str(info.get("broker")))
    others = "; ".join(sorted({_named(stranger) for stranger in strangers}))
    return (
        f"namespace {settings.namespace} is shared by apps that have no queue in common, so their tasks count against "
        f"the same limits: {_named(own)}; {others}. If that is not intended, give one of them its own "
        "global_concurrency_key_prefix"
    )


def _named(session: Stranger) -> str:
    """A session's app, as people know it."""
    return f"app {session.app or '(without a name)'} at {session.broker or 'no broker'} ({session.node})"
