"""Limit tables, told as Redis tells them."""

from __future__ import annotations

from collections.abc import Mapping

from celery_gconc.protocol.changes import Changed, Changes


def whole(limits: Mapping[str, int], version: int) -> Changes:
    """All of a table."""
    return Changes(-1, version, tuple(Changed(limit, maximum) for limit, maximum in limits.items()))


def leading(before: Mapping[str, int], after: Mapping[str, int], known: int, version: int) -> Changes:
    """What makes one table another; *known* is the version of the first."""
    rows = [Changed(limit, maximum) for limit, maximum in after.items() if before.get(limit) != maximum]
    rows += [Changed(limit, None) for limit in before if limit not in after]
    return Changes(known, version, tuple(rows))
