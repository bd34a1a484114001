"""A namespace in an empty Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .namespace import Namespace


@pytest.fixture
def namespace(redis_url: str) -> Iterator[Namespace]:
    """An empty namespace, which grants at once as that of a Redis does that has been up for a while."""
    namespace = Namespace(redis_url)
    namespace.session("first")
    namespace.store.close_session("first")
    namespace.reopen()
    try:
        yield namespace
    finally:
        namespace.close()
