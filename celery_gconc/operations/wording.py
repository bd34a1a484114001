"""How times, counts and the state of a limit are said in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from celery_gconc.protocol.status import LimitStatus, SessionStatus


def span(seconds: float) -> str:
    """A span of time, in the unit that suits it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, smaller, name in ((86400, 3600, "d"), (3600, 60, "h"), (60, 1, "min")):
        if round(seconds / smaller) * smaller >= 2 * unit:  # (two hours less a second are "2 h", not "120 min")
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def since(moment: float | None, now: float) -> float:
    """How many seconds ago a moment was; 0 where it is not known, or later than *now*."""
    return max(now - (moment or now), 0.0)


def stall_note(session: SessionStatus, now: float) -> str | None:
    """A sentence on a worker that starts nothing under limits though slots of it are free; None where it isn't so."""
    if session.stalled_since is None:
        return None
    slots = "1 of its slots is" if session.stalled_slots == 1 else f"{session.stalled_slots} of its slots are"
    return (
        f"{session.node} has not started a limited task for {span(since(session.stalled_since, now))}, "
        f"although {slots} free: {session.stalled_why}"
    )


def unix_time(text: str) -> float | None:
    """An ISO 8601 moment as Unix time in seconds (UTC, where it says no zone); None where it can't be read."""
    try:
        parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=timezone.utc)).timestamp()


def nth(number: int | None) -> str:
    """A position in line."""
    if number is None:
        return "somewhere"
    if number == 1:
        return "next"
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def all_of(names: Sequence[str]) -> str:
    """Names in a sentence: one, two and three."""
    if not names:
        return "nothing"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def some_of(names: Sequence[str], count: int = 5) -> str:
    """The same where there may be many: the first of them, and how many more."""
    more = len(names) - count
    return all_of(names) if more < 2 else f"{', '.join(names[:count])} and {more} more"


def count_of(number: int, what: str) -> str:
    """A number of things."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def why_closed(limit: LimitStatus, now: float, heartbeat_timeout: float, weight: int = 1) -> str:
    """Why a limit has no room for a task of this *weight* that waits for it, as part of a sentence."""
    if limit.paused:
        return f"{limit.limit} {'is' if limit.paused_at is None else 'was'} paused" + _change(
            limit.paused_by, limit.paused_at, limit.paused_reason, limit.paused_until, now
        )
    if limit.state == "settling":
        return (
            f"{limit.limit} is settling (it is new, or Redis lost its data): it grants nothing until every worker has "
            f"reported what it is running, which takes up to {span(heartbeat_timeout)}"
        )
    if limit.max == 0:
        origin = _change(limit.set_by, limit.set_at, limit.reason, limit.set_until, now)
        return f"{limit.limit} has a max of 0" + (f", set{origin}" if limit.overridden else ", as configured")
    return f"{limit.limit} has no max" if limit.max is None else _why_full(limit, limit.max, weight)


def _why_full(limit: LimitStatus, maximum: int, weight: int) -> str:
    if weight > 1 and limit.running <= maximum < limit.running + weight:
        return f"the task takes {weight} of {limit.limit}, and {limit.running} of {maximum} are taken"
    if limit.state == "open":
        taken = f"{limit.running} of {maximum} running"
        return f"{limit.limit} has room ({taken}), but it is reserved for tasks that came earlier"
    return f"{limit.limit} is full ({limit.running} of {maximum} running)"


def _change(by: str | None, at: float | None, reason: str | None, until: float | None, now: float) -> str:
    text = f" by {by}" if by else ""
    text += f" {span(since(at, now))} ago" if at is not None else ""
    text += f", for another {span(until - now)}" if until is not None and until > now else ""
    return text + (f' ("{reason}")' if reason else "")
