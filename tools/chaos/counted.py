"""Promise 3: what Redis counts is what runs; at the end it holds nothing but the sessions of live workers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .log import Event
from .plan import EMPTY
from .records import DIFFERS

if TYPE_CHECKING:
    from .checker import Checker


class Counted:
    """Compares what Redis holds, as read from its keys several times a second, with what the oracle saw run."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._differs: dict[tuple[str, int], float] = {}
        self._last: Event | None = None

    def see(self, event: Event) -> None:
        """Redis' keys were counted: how many holders each limit has, and how much is in the other keys."""
        self._last = event
        checker = self._checker
        if not checker.extended:
            return
        if checker.active or event.time < checker.quiet:
            self._differs.clear()
            return
        for limit, maxima in checker.maxima.items():
            difference = event.holders.get(limit, 0) - len(checker.running[limit])
            is_limited = maxima.most(event.time) < math.inf  # whichever of the states that may hold does
            for sign in (1, -1):
                if difference * sign <= 0 or (sign < 0 and not is_limited):
                    self._differs.pop((limit, sign), None)
                else:
                    self._note(limit, sign, event.time, difference)

    def _note(self, limit: str, sign: int, time: float, difference: int) -> None:
        since = self._differs.setdefault((limit, sign), time)
        if time - since > DIFFERS:
            self._differs[limit, sign] = math.inf
            what, word = ("leak", "more") if sign > 0 else ("uncounted", "fewer")
            text = f"{limit}: for {DIFFERS:g} s Redis counted {word} than ran; last {difference:+d}"
            self._checker.violate(3, what, time, text)

    def is_empty(self, sessions: int) -> bool:
        """Whether Redis held nothing more but *sessions* sessions, the last time."""
        keys = self._last
        return keys is not None and not any(keys.left.values()) and keys.sessions == sessions

    def finish(self, sessions: int) -> None:
        """At the end: what is left is leaked."""
        keys = self._last
        if not self._checker.extended or keys is None or self.is_empty(sessions):
            return
        left = {name: count for name, count in keys.left.items() if count}
        text = f"after {EMPTY:g} s with nothing to do Redis holds {left}, {keys.sessions} sessions of {sessions}"
        self._checker.violate(3, "leak", keys.time, text)
