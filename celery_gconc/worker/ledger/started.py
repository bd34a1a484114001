"""The requests that this session has handed to the pool and that have not ended.

    Ledger (a start, an end) -> Started -> Outbox (what is covered anew) and Exchange (a statement)

Thread: any, under the ledger's lock; the length of ``running`` is read without it.
"""

from __future__ import annotations

from typing import Generic

from celery_gconc.limits.claims import Claim, Claims
from celery_gconc.limits.table import LimitTable
from celery_gconc.worker.ledger.holdings import Holdings
from celery_gconc.worker.ledger.outbox import Outbox
from celery_gconc.worker.ledger.permit import Permit
from celery_gconc.worker.ledger.request import R
from celery_gconc.worker.ledger.trust import Trust
from celery_gconc.worker.ledger.units import Uses


class Started(Generic[R]):
    """Owns who runs here, and who of them under which limits."""

    __slots__ = ("_holdings", "_outbox", "_trust", "_unadopted", "changes", "covered", "running")

    def __init__(self, holdings: Holdings[R], trust: Trust, outbox: Outbox[R]) -> None:
        self._holdings = holdings
        self._trust = trust
        self._outbox = outbox
        #: All of them, covered or not, in order of their start.
        self.running: dict[R, None] = {}
        #: Those that have a permit: no more than there are slots, except where a limit begins.
        self.covered: dict[R, None] = {}
        #: How often these have changed.
        self.changes = 0
        #: Those whose permit may not be one of just the limits that cover them now.
        self._unadopted: dict[R, None] = {}

    def start(self, request: R, uses: Uses, moment: float, grant: int = 0) -> None:
        """It goes to the pool with a permit for these units: of a *grant*, or used before."""
        trust = self._trust
        permit = request.permit = Permit(request.claims, uses, trust.next_number, trust.granted_at)
        trust.next_number += 1
        if grant:
            permit.grant = grant
        request.started_at = moment
        self.running[request] = self.covered[request] = None
        self.changes += 1

    def start_unlimited(self, request: R) -> None:
        """It goes to the pool without a permit, whether a limit covers it or not."""
        self.running[request] = self._unadopted[request] = None

    def end(self, request: R) -> Permit | None:
        """It runs no more; return its permit, if it had one."""
        del self.running[request]
        permit = request.permit
        if permit is not None:
            request.permit = None
            del self.covered[request]
            self.changes += 1
            if permit.is_stated or permit.grant:
                self._outbox.has_ended(request, permit)
        if self._unadopted:
            self._unadopted.pop(request, None)
        return permit

    def go_by(self, table: LimitTable) -> None:
        """Another table holds: :meth:`adopt` gives those permits that it covers otherwise."""
        for request in self.running:
            claims = table.covering(request.candidates)
            if request.permit is not None:
                claims = _keeping(request.permit.claims, claims)
            if claims != request.claims:
                request.claims = claims
                self._unadopted[request] = None

    @property
    def is_adopted(self) -> bool:
        """Whether there is nobody to whom :meth:`adopt` may give another permit."""
        return not self._unadopted

    def adopt(self) -> None:
        """Give each request that runs a permit of just the limits that cover it now."""
        unadopted, self._unadopted = self._unadopted, {}
        for request in unadopted:
            permit, claims = request.permit, request.claims
            if not claims or (permit is not None and permit.claims == claims):
                continue  # no limit covers it (any more: then its permit ends with it), or just these do
            if permit is None:
                permit = request.permit = Permit((), ())
                self.covered[request] = None
            permit.uses = self._holdings.adopt(permit.uses, claims)
            permit.claims, permit.is_restated = claims, True
            self.changes += 1


def _keeping(held: Claims, claims: Claims) -> Claims:
    """Claims by another table: of a limit that it has units of, a task that runs keeps as many, whatever the max is."""
    if held == claims:
        return claims
    weights = dict(held)
    return tuple([Claim(limit, weights.get(limit, weight)) for limit, weight in claims])
