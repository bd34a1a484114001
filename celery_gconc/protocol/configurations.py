"""How what a worker is configured with, limit to max, is told to Redis: by a digest, and once in pieces.

All workers of a deploy have the same, and the first of them sends it (lua/session/configure.lua).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import islice

#: How many limits one script takes. (At 15 to 20 us each.)
PIECE = 40

#: How many characters of the hash are told.
_HASH_LENGTH = 32


def digest_of(config: Mapping[str, int]) -> str:
    """By what Redis knows a configuration: how many values it has, so that one which is not whole shows, and a hash."""
    text = json.dumps(sorted(config.items()), separators=(",", ":"))
    return f"{len(config)}-{sha256(text.encode()).hexdigest()[:_HASH_LENGTH]}"


def pieces_of(config: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """All of it, :data:`PIECE` limits at a time; everybody sends the same in the same order."""
    items = iter(sorted(config.items()))
    while piece := dict(islice(items, PIECE)):
        yield piece
