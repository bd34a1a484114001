"""The units of one limit that a session has: how many, and for what.

Thread: any, under the ledger's lock.
"""

from __future__ import annotations


class Holding:
    """The units of one limit."""

    __slots__ = ("held", "least_spare", "limit", "new", "used")

    def __init__(self, limit: str) -> None:
        self.limit = limit
        #: All of them, as Redis knows them but for what the outbox has.
        self.held = 0
        #: Those that tasks use, and those that were granted for requests that have not started yet.
        self.used = self.new = 0
        #: The fewest that were spare at any moment since idle ones were last looked for.
        self.least_spare = 0

    @property
    def spare(self) -> int:
        """Those that no task uses, and nobody was granted."""
        return self.held - self.used - self.new


#: What a task takes: of which units, and how many of each.
Uses = tuple[tuple[Holding, int], ...]
