"""What the machine holds the product to: it counts what runs in the pools, and goes by what operators did.

It never asks our code, and never Redis, how many units are in use or may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

#: By limit, the values and the pauses that may hold.
Snapshot = dict[str, tuple[set[Any], set[bool]]]

#: No max.
UNLIMITED = float("inf")


@dataclass
class Setting:
    """What operators have done to a limit: sets, for a loss of data may have forgotten the last of it."""

    configured: float
    #: What was set at run time (None: nothing), and whether it is paused.
    values: set[float | None] = field(default_factory=lambda: {None})
    pauses: set[bool] = field(default_factory=lambda: {False})

    @property
    def maxima(self) -> set[float]:
        """What may hold."""
        found = {self.configured if value is None else value for value in self.values}
        if True in self.pauses:
            found = found | {0} if False in self.pauses else {0}
        return found


class Operators:
    """What was set, and when."""

    def __init__(self, configured: dict[str, int], limits: Iterable[str]) -> None:
        self.settings = {limit: Setting(configured.get(limit, UNLIMITED)) for limit in limits}
        #: By limit: from when on which maxima may hold.
        self._history: dict[str, list[tuple[float, set[float]]]] = {
            limit: [(0.0, setting.maxima)] for limit, setting in self.settings.items()
        }
        #: The same by what was done.
        self._done: dict[str, list[tuple[float, set[float | None], set[bool]]]] = {
            limit: [(0.0, set(setting.values), set(setting.pauses))] for limit, setting in self.settings.items()
        }

    def note(self, limit: str, at: float) -> None:
        """Something has changed."""
        setting = self.settings[limit]
        self._history[limit].append((at, setting.maxima))
        self._done[limit].append((at, set(setting.values), set(setting.pauses)))

    def greatest(self, limit: str, since: float) -> float:
        """The highest max that may have held at any time since then."""
        return max(self._maxima(limit, since))

    def least(self, limit: str, since: float) -> float:
        """The lowest max above 0 that may have held at any time since then: a heavier task counts as much as that."""
        return min((maximum for maximum in self._maxima(limit, since) if maximum > 0), default=UNLIMITED)

    def least_now(self, limit: str) -> float:
        """The lowest max that may hold now."""
        return min(self.settings[limit].maxima)

    def _maxima(self, limit: str, since: float) -> Iterator[float]:
        history = self._history[limit]
        first = max(index for index, (at, _) in enumerate(history) if at <= since or index == 0)
        for _, maxima in history[first:]:
            yield from maxima

    def may_be_forgotten(self, at: float, since: float, others: Snapshot | None = None) -> None:
        """Redis has lost its data, or has older data: what holds is what some worker heard last, or what the data say.

        Workers have heard nothing older than of *since*.
        """
        for limit, setting in self.settings.items():
            for when, values, pauses in self._done[limit][::-1]:
                setting.values |= values
                setting.pauses |= pauses
                if when <= since:
                    break
            values, pauses = others[limit] if others is not None else ({None}, {False})
            setting.values |= values
            setting.pauses |= pauses
            self.note(limit, at)

    def copy(self) -> Snapshot:
        """What a snapshot has of it."""
        return {limit: (set(of.values), set(of.pauses)) for limit, of in self.settings.items()}
