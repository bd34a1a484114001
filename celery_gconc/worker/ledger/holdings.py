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
from celery_gconc.limits.claims import MAX_ANSWERS, Claims
from celery_gconc.worker.ledger.lines import Line, Lines
from celery_gconc.worker.ledger.meters import Meters
from celery_gconc.worker.ledger.outbox import Outbox
from celery_gconc.worker.ledger.request import R
from celery_gconc.worker.ledger.trust import Trust
from celery_gconc.worker.ledger.units import Holding, Uses

#: How long, in seconds, units are kept with no task for them, at least (never while another session waits for them).
IDLE_SECONDS = 0.1

#: How long, in seconds, it may take to say so, so that it shares a round trip.
LAZY_SECONDS = 0.02


class Holdings(Generic[R]):
    """Owns the units of each limit."""

    def __init__(self, lines: Lines[R], trust: Trust, outbox: Outbox[R], meters: Meters) -> None:
        self.by_limit: dict[str, Holding] = {}
        #: What claims would take, for as long as there are units of the same limits. By identity: that costs less than
        #: to look a tuple of tuples up, and who asks keeps to the same ones.
        self._uses: dict[int, tuple[Claims, Uses]] = {}
        self._lines, self._trust, self._outbox, self._meters = lines, trust, outbox, meters
        #: When idle units were last looked for.
        self._looked_at = 0.0

    # -- Starts and ends ---------------------------------------------------------------------------------

    def uses(self, claims: Claims) -> Uses:
        """Which units claims take, and how many of each, where there are some of each."""
        known = self._uses.get(id(claims))
        if known is not None and known[0] is claims:
            return known[1]
        by_limit = self.by_limit
        uses = tuple([(by_limit[limit], weight) for limit, weight in claims])
        if len(self._uses) >= MAX_ANSWERS:
            self._uses = {}
        self._uses[id(claims)] = (claims, uses)
        return uses

    def take(self, claims: Claims) -> Uses | None:
        """A task starts that comes now, with spare units that may serve it; None where there are none."""
        uses = self._spare(claims)
        trust = self._trust
        if uses is None:
            return None
        if (trust.contended or trust.shares or self._lines.by_claims) and not self._is_next(claims, None):
            return None
        for holding, weight in uses:
            used = holding.used = holding.used + weight
            if (spare := holding.held - used - holding.new) < holding.least_spare:
                holding.least_spare = spare
        return uses

    def may_pass(self, claims: Claims, line: Line[R], moment: float | None = None) -> Uses | None:
        """The spare units that may serve the first of a line: none where another of ours is before it.

        *moment* is now, where that is known.
        """
        uses = self._spare(claims)
        if uses is None or not self._trust.may_reuse(moment):
            return None
        trust = self._trust
        if (trust.contended or trust.shares or len(self._lines.by_claims) > 1) and not self._is_next(claims, line):
            return None
        return uses

    def use(self, uses: Uses, *, is_new: bool = False) -> None:
        """A task starts, with spare units, or with *new* ones, which were granted for it."""
        for holding, weight in uses:
            holding.used += weight
            if is_new:
                holding.new -= weight
            elif (spare := holding.held - holding.used - holding.new) < holding.least_spare:
                holding.least_spare = spare

    def unuse(self, uses: Uses) -> None:
        """A task has ended: its units are spare."""
        for holding, weight in uses:
            holding.used -= weight

    def adopt(self, before: Uses, claims: Claims) -> Uses:
        """A task that runs uses other units than before, granted or not; return those."""
        for holding, weight in before:
            holding.used -= weight
            holding.held -= weight
            self._changed(holding)
        for limit, weight in claims:
            holding = self._of(limit)
            holding.used += weight
            holding.held += weight
            self._changed(holding)
        return self.uses(claims)

    # -- Grants ------------------------------------------------------------------------------------------

    def granted(self, claims: Claims) -> None:
        """Units have come for a request that waits."""
        for limit, weight in claims:
            holding = self._of(limit)
            holding.held += weight
            holding.new += weight

    def keep_new(self, claims: Claims) -> None:
        """What was granted is spare: whom it was for is no longer here, or has started with other units."""
        for limit, weight in claims:
            self.by_limit[limit].new -= weight

    def drop_new(self, claims: Claims) -> None:
        """Nobody here has use for what was granted."""
        for limit, weight in claims:
            holding = self.by_limit[limit]
            holding.new -= weight
            self._give_back(holding, weight)

    # -- What goes back ----------------------------------------------------------------------------------

    def settle(self, limits: Iterable[str] | None = None) -> bool:
        """Give back spare units, of all *limits*, that may not pass to a next task of ours; return whether any were."""
        has_given = False
        for limit in list(self.by_limit) if limits is None else limits:
            holding = self.by_limit.get(limit)
            if holding is None or (spare := holding.held - holding.used - holding.new) <= 0:
                continue
            if (surplus := self._surplus(holding, spare)) > 0:
                self._give_back(holding, surplus)
                has_given = True
        return has_given

    def end(self, uses: Uses) -> None:
        """A task has ended that used more than was granted: its units go back, whoever waits here."""
        self.unuse(uses)
        for holding, weight in uses:
            self._give_back(holding, weight)

    def release_idle(self) -> bool:
        """Give back units that were spare for too long; return whether there were any."""
        has_given = False
        moment = now()
        if moment >= self._looked_at + IDLE_SECONDS:
            for holding in list(self.by_limit.values()):
                if (idle := min(holding.least_spare, holding.spare)) > 0:
                    self._give_back(holding, idle, LAZY_SECONDS)
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
        self._uses = {}

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

    def _spare(self, claims: Claims) -> Uses | None:
        """The units that claims would take, where enough of each are spare."""
        known = self._uses.get(id(claims))
        if known is not None and known[0] is claims:
            uses = known[1]
        elif all(limit in self.by_limit for limit, _ in claims):
            uses = self.uses(claims)
        else:
            return None
        for holding, weight in uses:
            if holding.held - holding.used - holding.new < weight:
                return None
        return uses

    def _is_next(self, claims: Claims, line: Line[R] | None) -> bool:
        """Whether nobody comes before the first of a line, or one that comes now, for any of its limits."""
        contended, shares, lines = self._trust.contended, self._trust.shares, self._lines
        for limit, _ in claims:
            if limit in contended and (line is None or contended[limit] <= 0):
                return False
            if limit in shares and self.by_limit[limit].held > shares[limit]:
                return False
            if lines.has_earlier(limit, line):
                return False  # Redis knows the lines of both, and gives them to the first
        return True

    def _surplus(self, holding: Holding, spare: int) -> int:
        """How many of the spare units of a limit may go to none of ours, now or when it comes."""
        limit, trust, line = holding.limit, self._trust, self._lines.first_for(holding.limit)
        share = trust.shares.get(limit)
        if share is not None and self._meters.is_metered(limit) and not self._meters.reads(limit):
            return spare  # no slot is free, and others have one
        if share is not None and self._meters.reads(limit) and limit not in trust.contended and trust.may_reuse():
            if line is None or holding.held > share:
                return min(spare, max(holding.held - share, 0))
        elif line is None:
            return 0 if share is None and limit not in trust.contended and trust.may_reuse() else spare
        return spare if self.may_pass(line.claims, line) is None else 0

    def _of(self, limit: str) -> Holding:
        holding = self.by_limit.get(limit)
        if holding is None:
            holding = self.by_limit[limit] = Holding(limit)
        return holding

    def _give_back(self, holding: Holding, count: int, delay: float = 0.0) -> None:
        holding.held -= count
        self._changed(holding, delay)

    def _changed(self, holding: Holding, delay: float = 0.0) -> None:
        self._outbox.units_changed(holding.limit, delay)
        holding.least_spare = min(holding.least_spare, holding.spare)
        if not holding.held:
            del self.by_limit[holding.limit]
            self._uses = {}
