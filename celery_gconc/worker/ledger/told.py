"""What Redis has told of the limit table since the session was opened, in pieces, until it is whole and then on.

    Synced, Notice -> Ledger -> Told -> LimitTable

Thread: any, under the ledger's lock; ``is_whole`` and ``is_urgent`` are read without it.
"""

from __future__ import annotations

from collections.abc import Mapping

from celery_gconc.protocol.changes import Changes


class Told:
    """Owns what was told. What a worker goes by until the first of it is whole, it has from elsewhere."""

    def __init__(self) -> None:
        #: The version up to which it was told; -1: nothing since the session was opened.
        self.known = -1
        #: Whether all was told that holds for a table of that version: before, a limit that isn't there may hold.
        self.is_whole = False
        #: Whether the next sync is one of those that make it whole, or the first by what was whole then.
        self.is_urgent = False
        #: The last version that was whole, when that was (by Redis' clock, in ms), and what operators had set by then.
        #: A Redis that has lost that gets it back.
        self.version = 0
        self.at = 0
        self.overrides: Mapping[str, str] = {}
        self._limits: dict[str, int] = {}
        self._overrides: dict[str, str] = {}

    def opened(self) -> None:
        """A session was opened: from now on all is told anew."""
        self.known, self.is_whole, self.is_urgent = -1, False, True
        self._limits, self._overrides = {}, {}

    def takes(self, changes: Changes) -> bool:
        """Whether these follow on what is known."""
        return changes.before < 0 or changes.before <= self.known < changes.version

    def take(self, changes: Changes, newest: int) -> dict[str, int] | None:
        """Take in changes that follow on what is known; return all limits, once they are whole.

        What is returned is this one's own. *newest* is the version up to which there are changes.
        """
        if changes.before < 0:
            self.opened()
        for row in changes.rows:
            if row.max is None:
                self._limits.pop(row.limit, None)
            else:
                self._limits[row.limit] = row.max
            if row.override:
                self._overrides[row.limit] = row.override
            else:
                self._overrides.pop(row.limit, None)
        self.known = changes.version
        is_behind = self.known < newest
        self.is_urgent = is_behind or not self.is_whole
        self.is_whole = self.is_whole or not is_behind
        if not self.is_whole:
            return None
        self.version, self.at, self.overrides = self.known, changes.at, self._overrides
        return self._limits
