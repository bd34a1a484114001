"""What is said of a request that waits in a worker: for which limit, at which position, behind whom, how long."""

from __future__ import annotations

from dataclasses import dataclass, replace

from celery_gconc.diagnosis.explanation import Explanation, TaskState
from celery_gconc.diagnosis.facts import Facts
from celery_gconc.limits.claims import Limits
from celery_gconc.operations.wording import all_of, count_of, nth, since, span, why_closed
from celery_gconc.protocol.status import LimitStatus, Whereabouts


@dataclass(frozen=True, slots=True)
class Wait:
    """A request that waits in a worker: its limits, what Redis has of it, since when, and behind how many there."""

    node: str
    limits: Limits
    found: Whereabouts | None
    seconds: float
    ahead: int


def waits(facts: Facts, wait: Wait, *, has_slot: bool) -> Explanation:
    """It waits in a worker. *has_slot*: a slot is free for it there."""
    full = _what_is_full(facts, wait)
    if full is None:
        return _has_room(facts, wait, has_slot=has_slot)
    weight = wait.found.weights.get(full.limit, 1) if wait.found is not None else 1
    why = why_closed(full, facts.now, facts.longest_lease, weight)
    name, position = _position(facts, wait, full)
    if position is not None:
        line = "line" if name == full.limit else f"the line of {name}"
        text = f"It is waiting for a permit: {why}. It is {nth(position)} in {line}."
        made = replace(_say(facts, wait, TaskState.WAITING, text), position=position)
        expected = facts.expected_wait(full, position)
    else:
        behind = f"behind {count_of(wait.ahead, 'other')} of that worker" if wait.ahead else "not in line yet"
        made = _say(facts, wait, TaskState.PARKED, f"It waits on {wait.node}, {behind}: {why}.")
        expected = facts.expected_wait(full, max(full.waiting, wait.ahead) + 1)  # what others have parked isn't known
    notes = () if has_slot else (f"{wait.node} has no free slot either.",)
    return with_line(facts, replace(made, details=notes), full, expected)


def with_line(facts: Facts, made: Explanation, limit: LimitStatus, expected: float | None) -> Explanation:
    """Add the limit that keeps a task waiting: who holds it, and for about how much longer."""
    holders = facts.line(limit.limit).holders if limit.running else ()
    notes, answer = list(made.details), made.answer
    if made.seconds is not None:
        notes.append(f"It has been waiting for {span(made.seconds)}.")
    if holders:
        named = [
            f"{one.task}[{one.task_id}] on {one.node} (for {span(since(one.since, facts.now))})" for one in holders
        ]
        more = limit.running - sum(one.weight for one in holders)
        notes.append(f"{limit.limit} is held by {'; '.join(named)}{f'; and {more} more' if more > 0 else ''}.")
    if expected is not None:
        then = " and" if made.position is not None else ". It"
        answer = f"{answer[:-1]}{then} should start in about {span(expected)}."
    return replace(made, answer=answer, line=limit.limit, holders=holders, expected_wait=expected, details=tuple(notes))


def _position(facts: Facts, wait: Wait, full: LimitStatus) -> tuple[str, int | None]:
    """In which line it stands, and where. A request's first sync may be under way: then its worker's own order."""
    if wait.found is not None and wait.found.line is not None:
        return wait.found.line, wait.found.position
    in_line = [one for one in facts.line(full.limit).waiting if one.node == wait.node]
    return full.limit, in_line[wait.ahead].position if wait.ahead < len(in_line) else None


def _has_room(facts: Facts, wait: Wait, *, has_slot: bool) -> Explanation:
    """None of its limits keeps it waiting."""
    room = f"{all_of(wait.limits)} {'has' if len(wait.limits) == 1 else 'have'} room"
    if has_slot and wait.limits:
        text = f"It is next: {room}, and its permit is on its way to {wait.node}."
        return _say(facts, wait, TaskState.WAITING, text)
    behind = f", behind {count_of(wait.ahead, 'other')}" if wait.ahead else ""
    end = f"; {room}." if wait.limits else "."
    text = f"It is waiting for a free slot on {wait.node}{behind}: all slots are busy{end}"
    return _say(facts, wait, TaskState.WAITING_FOR_SLOT, text)


def _say(facts: Facts, wait: Wait, state: TaskState, text: str) -> Explanation:
    return facts.say(state, text, node=wait.node, limits=wait.limits, seconds=wait.seconds)


def _what_is_full(facts: Facts, wait: Wait) -> LimitStatus | None:
    """What keeps it waiting: a limit that is paused or has a max of 0, else the one in whose line it stands."""
    found = wait.found
    names = wait.limits if found is None else sorted(found.full, key=lambda name: name != found.line)
    known = [facts.limits[name] for name in names if name in facts.limits]
    full = [limit for limit in known if found is not None or limit.is_closed]
    return min(full, key=lambda limit: not (limit.paused or limit.max == 0), default=None)
