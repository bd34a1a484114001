"""The limits that hold at one moment: what each allows, and which of them cover a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from celery_gconc.limits.claims import Limits


class LimitTable(Mapping[str, int]):
    """Each limit's max, by its full name; a limit that isn't in it is unlimited.

    Thread: any, without a lock. A table never changes: another one takes its place. What it remembers are its own
    answers, so two threads that ask the same at once write down the same.
    """

    __slots__ = ("_covering", "_max", "version")

    def __init__(self, limits: Mapping[str, int], version: int) -> None:
        self._max = dict(limits)
        #: Redis raises it with each change; -1 = a worker's own configuration, Redis not heard yet.
        self.version = version
        #: Answers of :meth:`covering`.
        self._covering: dict[Limits, Limits] = {}

    def covering(self, names: Limits) -> Limits:
        """Those of the *names* that are limits."""
        found = self._covering.get(names)
        if found is None:
            limits = self._max
            found = self._covering[names] = tuple([name for name in names if name in limits])
        return found

    def __getitem__(self, limit: str) -> int:
        return self._max[limit]

    def __iter__(self) -> Iterator[str]:
        return iter(self._max)

    def __len__(self) -> int:
        return len(self._max)
