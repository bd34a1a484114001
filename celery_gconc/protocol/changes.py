"""Changes of the limit table, as Redis tells them: in the answer to a sync, or in a notice (lua/core/news.lua)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The order of what a row has on the wire.
LIMIT = ("limit", "max", "override")


@dataclass(frozen=True, slots=True)
class Changed:
    """What holds for a limit now."""

    limit: str
    #: Its max; None: it is unlimited.
    max: int | None
    #: What operators have set, as Redis keeps it; empty where that is nothing.
    override: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """What makes a table of one version one of another."""

    #: That of the one, or of any later one; -1: all of it is here, so that what isn't named by these, or by others that
    #: follow on them, is gone.
    before: int
    #: That of the other.
    version: int
    rows: tuple[Changed, ...] = ()
    #: When that one held, by Redis' clock, in ms.
    at: int = field(default=0, compare=False)

    @classmethod
    def decode(cls, told: Mapping[str, Any] | None) -> Changes | None:
        """Read what a script replied or published."""
        if told is None:
            return None
        rows = tuple(
            Changed(str(limit), None if int(maximum) < 0 else int(maximum), str(override))
            for limit, maximum, override in told["rows"] or ()
        )
        return cls(int(told["before"]), int(told["version"]), rows, int(told["at"]))
