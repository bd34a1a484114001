"""What holds for a limit: its max."""

from __future__ import annotations

from celery_gconc.errors import LimitError
from celery_gconc.limits.name import MOST_SHOWN, shown

#: The greatest max of a limit.
MAX_VALUE = 2**31


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
            value = int(value) if len(value) <= MOST_SHOWN else value  # (it takes its time over a megabyte of digits)
        except ValueError:
            raise LimitError(rule) from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise LimitError(rule)
    if not 0 <= value <= MAX_VALUE:
        raise LimitError(f"a max must be between 0 and {MAX_VALUE}, or 'unlimited'; got {shown(value)}")
    return value
