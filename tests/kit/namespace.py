"""What tests do with a namespace as a whole: begin one, wait until Redis serves it, and until workers know a change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import redis

from celery_gconc.errors import StoreUnavailable
from celery_gconc.protocol.session_store import SessionStore
from tests.kit.servers import wait_until

T = TypeVar("T")


def empty_namespace(url: str) -> None:
    """Delete everything on a server, and begin a namespace."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
    begin_namespace(url)


def begin_namespace(url: str, namespace: str = "gconc") -> None:
    """Begin a namespace in which nothing waits for those who may have lived before."""
    store = SessionStore(url, namespace)
    with redis.Redis.from_url(url) as client:
        info = {"node": "first", "pid": 1, "pool": "solo", "app": "", "broker": ""}
        store.open("first", interval=1.0, timeout=3.0, info=info, config={}, room=0)
        store.close_session("first")
        client.hdel(store.keys.key("meta"), "closed_until")
    store.close()


def change_is_known(url: str, namespace: str = "gconc") -> None:
    """Wait until each worker goes by the limits that hold: until then an idle permit may start one more task there."""
    key = f"{{{namespace}}}:v2:"

    def is_known() -> bool:
        version = int(client.hget(f"{key}meta", "version") or 0)
        sessions = [session.decode() for session in client.zrange(f"{key}sessions", 0, -1)]
        return all(int(client.zscore(f"{key}stated", one) or 0) == version for one in sessions)

    with redis.Redis.from_url(url) as client:
        wait_until(is_known, what="all workers know the limits")


def served(store: SessionStore, function: Callable[[SessionStore], T]) -> T:
    """Call until the store is served, as a worker's link does."""
    found: list[T] = []

    def is_served() -> bool:
        try:
            found.append(function(store))
        except StoreUnavailable:
            return False
        return True

    wait_until(is_served, what="the coordination Redis serves")
    return found[0]
