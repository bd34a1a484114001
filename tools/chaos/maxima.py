"""Which max may hold for a limit at an instant: a set, as a change may be on its way, or lost in a fault."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from .plan import WINDOW, WINDOW_AFTER_FAULT

UNLIMITED = math.inf


@dataclass(frozen=True, slots=True)
class State:
    """What was set at run time: a max (None: the configured one holds), and a pause."""

    max: float | None = None
    paused: bool = False

    def changed(self, value: str) -> State:
        """After a change: a number, ``unlimited``, ``reset``, ``pause`` or ``resume``."""
        if value in ("pause", "resume"):
            return State(self.max, value == "pause")
        if value == "reset":
            return State(None, self.paused)
        return State(UNLIMITED if value == "unlimited" else float(value), self.paused)

    def effective(self, configured: float) -> float:
        """The max that it gives."""
        if self.paused:
            return 0.0
        return configured if self.max is None else self.max


@dataclass(slots=True)
class _Fading:
    state: State
    since: float
    until: float


@dataclass(slots=True)
class Maxima:
    """One limit's possible states."""

    configured: float
    possible: frozenset[State] = frozenset({State()})
    _before: frozenset[State] = frozenset()
    _began: float = 0.0
    #: Changes that failed: they may have been carried out, or still be.
    _zombies: list[str] = field(default_factory=list)
    _fading: list[_Fading] = field(default_factory=list)
    #: States that hold no more, with when that was.
    _past: list[tuple[float, State]] = field(default_factory=list)

    def begin(self, value: str, time: float) -> None:
        """A change is asked for."""
        self._before, self._began = self.possible, time
        self.possible |= {state.changed(value) for state in self.possible}

    def done(self, value: str, time: float, calm_since: float | None) -> None:
        """The change was confirmed. *calm_since*: since when no fault keeps things away; None: one does."""
        if calm_since is not None and self._began > calm_since + 1:
            self._zombies.clear()
        after = {state.changed(value) for state in self._before}
        after |= {state.changed(zombie) for state in after for zombie in self._zombies}
        self._past = [(when, state) for when, state in self._past if when > time - 60]
        self._past += [(time, state) for state in (self._before | self.possible) - after]
        for state in (self._before | self.possible) - after:
            self._fading.append(_Fading(state, time, time + WINDOW if calm_since is not None else math.inf))
        self.possible = frozenset(after)

    def failed(self, value: str) -> None:
        """It was not confirmed: it may hold, or come to hold."""
        self._zombies.append(value)

    def fault_begins(self, time: float) -> None:
        """From now on notices may not arrive: what fades now stays possible."""
        for fading in self._fading:
            if fading.until >= time:
                fading.until = math.inf

    def fault_ends(self, time: float) -> None:
        """The last such fault is over."""
        for fading in self._fading:
            if fading.until == math.inf:
                fading.until = time + WINDOW_AFTER_FAULT
        self._fading = [fading for fading in self._fading if fading.until >= time]

    def data_lost(self, time: float, also: Iterable[State]) -> None:
        """A change that nobody may have heard of yet is gone; and where nobody was left to tell, all are."""
        self.possible |= {fading.state for fading in self._fading if fading.until >= time} | set(also)

    def most(self, time: float) -> float:
        """The greatest max that may hold for some worker now."""
        states = self.possible | {fading.state for fading in self._fading if fading.until >= time}
        return max(state.effective(self.configured) for state in states)

    def most_since(self, since: float, time: float) -> float:
        """The greatest max that may have held at some instant from *since* (within the last minute) on."""
        past = (state.effective(self.configured) for when, state in self._past if when >= since)
        return max(self.most(time), *past, 0.0)

    def least(self, time: float) -> float:
        """The smallest."""
        states = self.possible | {fading.state for fading in self._fading if fading.until >= time}
        return min(state.effective(self.configured) for state in states)
