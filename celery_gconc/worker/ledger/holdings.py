"""How many units of each limit this session has: in use, granted and not used yet, or spare.

    Ledger (a start, an end), Exchange (grants) -> Holdings -> Outbox (what goes back)

Spare units pass from task to task as long as Redis could not give them to somebody who came earlier; what may not, or
is spare for too long, goes back.

Thread: any, under the ledger's lock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic

from celery_gconc.clock import now
from celery_gconc.limits.claims import Claims
from celery_gconc.worker.ledger.lines import Line, Lines
from celery_gconc.worker.ledger.outbox import Outbox
from celery_gconc.worker.ledger.request import R
from celery_gconc.worker.ledger.trust import Trust

#: How long, in seconds, units are kept with no task for them, at least (never while another session waits for them).
IDLE_SECONDS = 0.1

#: How long, in seconds, it may take to say so, so that it shares a round trip.
LAZY_SECONDS = 0.02


class Holding:
    """The units of one limit."""

    __slots__ = ("held", "least_spare", "new", "used")

    def __init__(self) -> None:
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


class Holdings(Generic[R]):
    """Owns the units of each limit."""

    def __init__(self, lines: Lines[R], trust: Trust, outbox: Outbox[R]) -> None:
        self.by_limit: dict[str, Holding] = {}
        self._lines, self._trust, self._outbox = lines, trust, outbox
        #: When idle units were last looked for.
        self._looked_at = 0.0

    # -- Starts and ends ---------------------------------------------------------------------------------

    def may_pass(self, claims: Claims, line: Line[R] | None = None) -> bool:
        """Whether spare units may serve the first of a line, or one that comes now: no other of ours is before it."""
        trust, lines, by_limit = self._trust, self._lines, self.by_limit
        for limit, weight in claims:
            holding = by_limit.get(limit)
            if holding is None or holding.held - holding.used - holding.new < weight:
                return False
        if not trust.may_reuse():
            return False
        if not trust.contended and len(lines.by_claims) <= (line is not None):
            return True  # nobody else waits, here or elsewhere
        for limit, _ in claims:
            if limit in trust.contended and (line is None or trust.contended[limit] <= 0):
                return False
            if lines.has_earlier(limit, line):
                return False  # Redis knows the lines of both, and gives them to the first
        return True

    def take(self, claims: Claims) -> bool:
        """A task starts that comes now, with spare units that may serve it; false where there are none."""
        by_limit = self.by_limit
        for limit, weight in claims:
            holding = by_limit.get(limit)
            if holding is None or holding.held - holding.used - holding.new < weight:
                return False
        if (self._trust.contended or self._lines.by_claims) and not self.may_pass(claims):
            return False
        for limit, weight in claims:
            holding = by_limit[limit]
            used = holding.used = holding.used + weight
            spare = holding.held - used - holding.new
            holding.least_spare = min(holding.least_spare, spare)
        return True

    def use(self, claims: Claims, *, is_new: bool) -> None:
        """A task starts: with units that were granted for it, or with spare ones."""
        for limit, weight in claims:
            holding = self.by_limit[limit]
            holding.used += weight
            if is_new:
                holding.new -= weight
            elif (spare := holding.held - holding.used - holding.new) < holding.least_spare:
                holding.least_spare = spare

    def unuse(self, claims: Claims) -> None:
        """A task has ended: its units are spare."""
        for limit, weight in claims:
            self.by_limit[limit].used -= weight

    def adopt(self, before: Claims, claims: Claims) -> None:
        """A task that runs uses other units than before, granted or not."""
        for limit, weight in before:
            holding = self.by_limit[limit]
            holding.used -= weight
            holding.held -= weight
            self._changed(limit, holding)
        for limit, weight in claims:
            holding = self._of(limit)
            holding.used += weight
            holding.held += weight
            self._changed(limit, holding)

    # -- Grants ------------------------------------------------------------------------------------------

    def granted(self, claims: Claims) -> None:
        """Units have come for a request that waits."""
        for limit, weight in claims:
            holding = self._of(limit)
            holding.held += weight
            holding.new += weight

    def drop_new(self, claims: Claims) -> None:
        """Nobody here has use for what was granted."""
        for limit, weight in claims:
            self.by_limit[limit].new -= weight
            self._give_back(limit, weight)

    # -- What goes back ----------------------------------------------------------------------------------

    def settle(self, limits: Iterable[str] | None = None) -> bool:
        """Give back spare units, of all *limits*, that may not pass to a next task of ours; return whether any were."""
        has_given = False
        for limit in list(self.by_limit) if limits is None else limits:
            holding = self.by_limit.get(limit)
            if holding is not None and (spare := holding.spare) > 0 and not self._is_for_us(limit):
                self._give_back(limit, spare)
                has_given = True
        return has_given

    def end(self, claims: Claims) -> None:
        """A task has ended that used more than was granted: its units go back, whoever waits here."""
        self.unuse(claims)
        for limit, weight in claims:
            self._give_back(limit, weight)

    def release_idle(self) -> bool:
        """Give back units that were spare for too long; return whether there were any."""
        has_given = False
        moment = now()
        if moment >= self._looked_at + IDLE_SECONDS:
            for limit, holding in list(self.by_limit.items()):
                if (idle := min(holding.least_spare, holding.spare)) > 0:
                    self._give_back(limit, idle, LAZY_SECONDS)
                    has_given = True
                holding.least_spare = holding.spare
            self._looked_at = moment
        return has_given

    def idle_left(self) -> float | None:
        """In how many seconds some may have been spare for too long; None where none are spare."""
        if not any(holding.spare > 0 for holding in self.by_limit.values()):
            return None
        return self._looked_at + IDLE_SECONDS - now()

    def void(self) -> None:
        """A new session begins: what no task uses is void, and Redis hears only of the rest."""
        for limit, holding in list(self.by_limit.items()):
            holding.held, holding.new, holding.least_spare = holding.used, 0, 0
            if not holding.held:
                del self.by_limit[limit]

    # -- Questions ---------------------------------------------------------------------------------------

    def spare_for(self, claims: Claims) -> int:
        """For how many tasks there are spare units."""
        counts = []
        for limit, weight in claims:
            holding = self.by_limit.get(limit)
            if holding is None:
                return 0
            counts.append(holding.spare // weight)
        return min(counts)

    def used(self, limit: str) -> int:
        """How many units of a limit tasks use here."""
        holding = self.by_limit.get(limit)
        return 0 if holding is None else holding.used

    # -- Its own -----------------------------------------------------------------------------------------

    def _is_for_us(self, limit: str) -> bool:
        """Whether spare units of a limit may go to one of ours, now or when it comes."""
        line = self._lines.first_for(limit)
        if line is None:
            return limit not in self._trust.contended and self._trust.may_reuse()
        return self.may_pass(line.claims, line)

    def _of(self, limit: str) -> Holding:
        holding = self.by_limit.get(limit)
        if holding is None:
            holding = self.by_limit[limit] = Holding()
        return holding

    def _give_back(self, limit: str, count: int, delay: float = 0.0) -> None:
        holding = self.by_limit[limit]
        holding.held -= count
        self._changed(limit, holding, delay)

    def _changed(self, limit: str, holding: Holding, delay: float = 0.0) -> None:
        self._outbox.units_changed(limit, delay)
        holding.least_spare = min(holding.least_spare, holding.spare)
        if not holding.held:
            del self.by_limit[limit]
