"""The queues whose messages wait at the broker rather than here: how many more this session would read, had it units.

    Intake -> Slots -> Meters -> Exchange.collect (hungry);  Holdings asks it which spare units are read against

Thread: any, under the ledger's lock.

A queue is *metered* from when its own limit is found to be full until a read finds nothing: then it is read only
against spare units of that limit, each of which brings one message.
"""

from __future__ import annotations

from celery_gconc.limits.claims import Claims


class Meters:
    """Owns which queues are metered, by their limits, and what Redis was told of that."""

    def __init__(self) -> None:
        #: The limits of all queues that may be. Slots writes it.
        self.queue_limits: frozenset[str] = frozenset()
        #: Of each limit whose queue is, how many more messages of it would be read, had this session units for them.
        self._wanted: dict[str, int] = {}
        #: The same as Redis has it, less the units that have come since.
        self._told: dict[str, int] = {}
        #: How many messages of each wait at the broker, when they were counted last. Slots writes it.
        self.counted: dict[str, int] = {}
        #: Of which units have come since :meth:`take_grown`.
        self.grown: set[str] = set()
        #: Where that may differ by now.
        self._changed: dict[str, None] = {}

    def set(self, limit: str, wanted: int) -> bool:
        """A limit's queue is metered, and so many more of it would be read; return whether Redis is to hear of that.

        It knows how many more could start here: what it is told is whether there are any.
        """
        self._wanted[limit] = wanted
        return self._note(limit)

    def end(self, limit: str) -> bool:
        """A limit's queue is read as any other; return whether Redis is to hear of that."""
        self._wanted.pop(limit, None)
        return self._note(limit)

    def granted(self, claims: Claims) -> bool:
        """Units have come for what would be read; return whether Redis is to hear that more would be."""
        is_news = False
        for limit, _ in claims:
            if limit in self._wanted:
                self.grown.add(limit)
            if self._told.get(limit, 0) > 0:
                self._told[limit] -= 1
                is_news = self._note(limit) or is_news
        return is_news

    def reads(self, limit: str) -> bool:
        """Whether spare units of a limit are kept for messages of its queue that will be read."""
        return self._wanted.get(limit, 0) > 0

    def is_metered(self, limit: str) -> bool:
        """Whether a limit's queue is metered."""
        return limit in self._wanted

    def meters(self, claims: Claims) -> bool:
        """Whether claims are those of messages of a metered queue."""
        return bool(self._wanted) and any(limit in self._wanted for limit, _ in claims)

    @property
    def has_news(self) -> bool:
        """Whether there is something that Redis has to hear."""
        return bool(self._changed)

    def at_broker(self) -> dict[str, int]:
        """How many messages of each metered queue wait at the broker."""
        return {limit: count for limit, count in self.counted.items() if limit in self._wanted}

    def queue_limit(self, claims: Claims) -> str | None:
        """That of the queue whose messages make these claims, where it may be metered."""
        return next((limit for limit, _ in claims if limit in self.queue_limits), None)

    def say(self, *, anew: bool) -> dict[str, int]:
        """What the next sync says: of all that are hungry, or of those that Redis knows otherwise."""
        limits = self._wanted if anew else self._changed
        said = {limit: wanted for limit in limits if (wanted := self._wanted.get(limit, 0)) or not anew}
        if anew:
            self._told = dict(said)
        for limit, wanted in said.items():
            self._told[limit] = wanted
            if not wanted:
                del self._told[limit]
        self._changed.clear()
        return said

    def sync_failed(self) -> None:
        """What was said last may not have arrived: the next statement says all."""
        self._told.clear()

    def clear(self) -> None:
        """Nothing is read any more."""
        for limit in [*self._wanted]:
            self.end(limit)

    def _note(self, limit: str) -> bool:
        is_news = (self._wanted.get(limit, 0) > 0) != (self._told.get(limit, 0) > 0)
        if is_news:
            self._changed[limit] = None
        else:
            self._changed.pop(limit, None)
        return is_news
