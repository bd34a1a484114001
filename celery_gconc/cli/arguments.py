"""What commands take: the name of a limit, its max, a span of time. Bad ones are refused before anything is asked.

Each is a function that click calls with the text, or a type of click's; what it raises is a usage error (exit code 2).
"""

from __future__ import annotations

import math
import re
from typing import Any

import click

from celery_gconc.limits.name import shown
from celery_gconc.operations.arguments import limit_argument, max_argument
from celery_gconc.operations.operations import MAX_DURATION

#: The units of a span of time, in seconds, the largest first.
UNITS = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}

_PART = re.compile(r"(\d+(?:\.\d+)?)([wdhms])", re.ASCII)


class NumberRange(click.FloatRange):
    """A number within bounds. NaN is none: it is neither below nor above them, so that click alone lets it through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


def _limit(text: str) -> str:
    if text.startswith("-"):  # a misspelt option, where numbers below 0 have to be taken for arguments
        raise click.UsageError(f"no such option: {shown(text)}; for a queue with that name, write queue:<name>")
    return limit_argument(text)


def _span(text: str) -> float:
    """A span of time in seconds: numbers, each with a unit, the largest unit first."""
    compact = text.replace(" ", "").lower() if len(text) <= 100 else ""
    parts = _PART.findall(compact)
    units = [unit for _, unit in parts]
    is_whole = "".join(number + unit for number, unit in parts) == compact
    if not parts or not is_whole or units != [unit for unit in UNITS if unit in units]:
        raise click.UsageError(f"a time span looks like 2h, 30m, 90s or 1d12h; got {shown(text)}")
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if not 0.001 <= seconds <= MAX_DURATION:
        raise click.UsageError(f"a time span must be above 0 and at most ten years; got {shown(text)}")
    return seconds


#: The full name of a limit; a whole number or the word ``unlimited``; seconds.
LIMIT, MAX, SPAN = _limit, max_argument, _span
