"""What holds for a limit, and who made it so."""

from __future__ import annotations

from dataclasses import dataclass

from celery_gconc.errors import LimitError
from celery_gconc.limits.name import MAX_SHOWN, shown

#: The greatest max of a limit.
MAX_VALUE = 2**31


@dataclass(frozen=True, slots=True)
class Rule:
    """What a limit allows."""

    #: How many tasks at once; None for no limit.
    max: int | None

    @classmethod
    def parse(cls, value: object) -> Rule:
        """Read a rule as people write it: a whole number, or ``unlimited``.

        Raises:
            LimitError: anything else.
        """
        return cls(parse_max(value))

    def __str__(self) -> str:
        return "unlimited" if self.max is None else str(self.max)


@dataclass(frozen=True, slots=True)
class Mark:
    """Who set or paused a limit, when, why and until when; times are Unix times in seconds by Redis' clock."""

    by: str | None = None
    at: float | None = None
    reason: str | None = None
    until: float | None = None


def parse_max(value: object) -> int | None:
    """Return *value* as a max (an int >= 0), or None for ``unlimited``.

    Raises:
        LimitError: anything else.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() == "unlimited"):
        return None
    rule = f"a max must be a whole number >= 0, or 'unlimited'; got {shown(value)}"
    if isinstance(value, str):
        try:
            value = int(value) if len(value) <= MAX_SHOWN else value  # (it takes its time over a megabyte of digits)
        except ValueError:
            raise LimitError(rule) from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise LimitError(rule)
    if not 0 <= value <= MAX_VALUE:
        raise LimitError(f"a max must be between 0 and {MAX_VALUE}, or 'unlimited'; got {shown(value)}")
    return value
