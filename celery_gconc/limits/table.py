"""The limits that hold at one moment: what each allows, and which of them cover a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from celery_gconc.limits.claims import MAX_ANSWERS, Claim, Claims


class LimitTable(Mapping[str, int]):
    """Each limit's max, by its full name; a limit that isn't in it is unlimited.

    Thread: any, without a lock. A table never changes: another one takes its place. What it remembers are its own
    answers, so two threads that ask the same at once write down the same.
    """

    __slots__ = ("_covering", "_max", "_own", "version")

    def __init__(self, limits: Mapping[str, int], version: int) -> None:
        self._max = dict(limits)
        #: Redis raises it with each change; -1 = a worker's own configuration, Redis not heard yet.
        self.version = version
        #: Answers of :meth:`covering`.
        self._covering: dict[int, tuple[Claims, Claims]] = {}
        #: Each of them once.
        self._own: dict[Claims, Claims] = {}

    def covering(self, candidates: Claims) -> Claims:
        """Those of the *candidates* that are on limits which have a max, and none of them above it.

        So a task that is heavier than a max takes all of it, and runs alone.
        """
        # By identity: that costs less than to look a tuple of tuples up, and who asks keeps to the same ones.
        known = self._covering.get(id(candidates))
        if known is not None and known[0] is candidates:
            return known[1]
        maxima = self._max
        found = tuple([_within(claim, maxima[claim.limit]) for claim in candidates if claim.limit in maxima])
        found = self._own.setdefault(found, found)
        if len(self._covering) >= MAX_ANSWERS:
            self._covering = {}
        self._covering[id(candidates)] = (candidates, found)
        return found

    def __getitem__(self, limit: str) -> int:
        return self._max[limit]

    def __iter__(self) -> Iterator[str]:
        return iter(self._max)

    def __len__(self) -> int:
        return len(self._max)


def _within(claim: Claim, maximum: int) -> Claim:
    return claim if claim.weight <= maximum or maximum == 0 else Claim(claim.limit, maximum)
