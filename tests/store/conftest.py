"""A namespace in an empty Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.servers import wait_until

from .namespace import Namespace


@pytest.fixture
def namespace(redis_url: str) -> Iterator[Namespace]:
    """An empty namespace, to which nobody listens (a worker of an earlier test, say, that has only just ended)."""
    namespace = Namespace(redis_url)

    def listens() -> list[bytes]:
        return list(namespace.raw.pubsub_channels("*notices:*"))  # not who waits for results of Celery's, say

    wait_until(lambda: not listens(), what=lambda: f"nobody listens: {listens()}")
    try:
        yield namespace
    finally:
        namespace.close()
