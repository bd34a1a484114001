"""A namespace in an empty Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .namespace import Namespace


@pytest.fixture
def namespace(redis_url: str) -> Iterator[Namespace]:
    """An empty namespace."""
    namespace = Namespace(redis_url)
    try:
        yield namespace
    finally:
        namespace.close()
