"""What Redis answers people, decoded into the values of :mod:`~celery_gconc.protocol.status`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from celery_gconc.limits.claims import limits_of
from celery_gconc.limits.rules import Mark
from celery_gconc.protocol.counted import BUCKETS
from celery_gconc.protocol.messages import claims_of
from celery_gconc.protocol.status import (
    EndedTask,
    Histogram,
    Holder,
    LimitStatus,
    LimitTotals,
    SessionStatus,
    Totals,
    Value,
    Waiter,
    Whereabouts,
)


def _max(value: Any) -> int | None:
    return None if value is None or value < 0 else int(value)


def value_of(reply: Mapping[str, Any]) -> Value:
    """A value, as a script replies it."""
    return Value(_max(reply["max"]), bool(reply["paused"]), str(reply["from"]))


def mark_of(mark: Mapping[str, Any] | None) -> Mark:
    """A mark, as Redis keeps it; an empty one where there is none."""
    if not mark:
        return Mark()
    return Mark(mark.get("by"), _seconds(mark.get("at")), mark.get("reason"), _seconds(mark.get("ends")))


def limit_status_of(item: Mapping[str, Any]) -> LimitStatus:
    """A limit, as a script replies it."""
    override = item["override"] or {}
    made, paused = mark_of(override.get("set")), mark_of(override.get("pause"))
    return LimitStatus(
        limit=item["limit"],
        max=_max(item["max"]),
        paused=item["paused"],
        running=item["held"] - item["idle"],
        waiting=item["waiting"],
        idle=item["idle"],
        configured=item["configured"],
        overridden="max" in override,
        set_by=made.by,
        set_at=made.at,
        reason=made.reason,
        set_until=made.until,
        paused_by=paused.by,
        paused_at=paused.at,
        paused_reason=paused.reason,
        paused_until=paused.until,
        settling=item["settling"],
        parked=item["parked"],
        at_broker=item["at_broker"],
        longest_wait=_seconds(item.get("longest")),
        per_minute=item["ended"],
    )


def with_configured(known: LimitStatus | None, limit: str, maximum: int) -> LimitStatus:
    """A limit that the caller configures, where no live session does."""
    if known is None:
        return LimitStatus(limit, maximum, paused=False, running=0, waiting=0, configured=maximum)
    return replace(known, configured=maximum, max=known.max if known.overridden else maximum)


def session_status_of(item: Mapping[str, Any], configs: Mapping[str, Mapping[str, int]]) -> SessionStatus:
    """A session, as a script replies it; what it is configured with is among *configs*, by their digests."""
    info, stall = json.loads(item["info"]), json.loads(item.get("stall") or "{}")
    return SessionStatus(
        session=item["session"],
        node=str(info.get("node", "?")),
        pid=int(info.get("pid", 0)),
        pool=str(info.get("pool", "?")),
        lease=item["lease"] / 1000,
        permits=item["permits"],
        waiting=item["waiting"],
        room=item["room"],
        since=info.get("since", 0) / 1000,
        version=str(info.get("version", "")),
        celery=str(info.get("celery", "")),
        python=str(info.get("python", "")),
        skew=(info.get("clock", info.get("since", 0)) - info.get("since", 0)) / 1000,
        app=str(info.get("app", "")),
        broker=str(info.get("broker", "")),
        configured=configs[item["config"]],
        interval=item["interval"] / 1000,
        timeout=item["timeout"] / 1000,
        queues=tuple(json.loads(item["queues"]) or ()),
        stalled_slots=int(stall.get("slots", 0)),
        stalled_why=str(stall.get("why", "")),
        stalled_since=_seconds(stall.get("since")),
    )


def holder_of(item: Mapping[str, Any], limit: str) -> Holder:
    """A holder of a *limit*, as a script replies it."""
    claims = claims_of(item["claims"])
    return Holder(
        item["session"],
        item["node"],
        item["id"],
        item["task"],
        item["since"] / 1000,
        limits_of(claims),
        dict(claims).get(limit, 1),
    )


def waiter_of(item: Mapping[str, Any], limit: str) -> Waiter:
    """One that waits for a *limit*, as a script replies it."""
    claims = claims_of(item["claims"])
    return Waiter(
        item["session"],
        item["node"],
        item["id"],
        item["task"],
        item["position"],
        item["waited"] / 1000,
        limits_of(claims),
        dict(claims).get(limit, 1),
    )


def whereabouts_of(item: Mapping[str, Any]) -> Whereabouts:
    """A request that was looked for, as a script replies it."""
    return Whereabouts(
        task_id=item["id"],
        task=item["task"],
        session=item["session"],
        node=item["node"],
        limits=limits_of(claims_of(item["claims"])),
        is_waiting=item["waits"],
        seconds=item["span"] / 1000,
        line=item.get("line"),
        position=item.get("position"),
        room=item["room"],
        full=tuple(item["full"] or ()),
        weights=dict(claims_of(item["claims"])),
    )


def ended_tasks_of(parts: Iterable[Mapping[str, Any]]) -> tuple[EndedTask, ...]:
    """What has ended lately, as a script replies it: in order of the ends."""
    found = [
        EndedTask(part["at"] / 1000 - ago / 1000, waited / 1000, held / 1000, part["ended"] / len(part["samples"]))
        for part in parts
        for ago, waited, held in part["samples"] or ()
    ]
    return tuple(sorted(found, key=lambda sample: sample.ended))


def totals_of(reply: Mapping[str, str]) -> Totals:
    """Totals, as a script replies them."""
    of_all = json.loads(reply.get("", "{}"))
    limits = []
    for limit in sorted(name for name in reply if name):
        told = json.loads(reply[limit])
        wait, hold = _histogram(told["wait"], told["waited"]), _histogram(told["hold"], told["held"])
        limits.append(LimitTotals(limit, int(told["grants"]), wait, hold))
    counters = {
        name: int(of_all.get(name, 0)) for name in ("reclaims", "lease_losses", "redis_errors", "without_redis")
    }
    return Totals(tuple(limits), **counters)


def _histogram(counts: Sequence[int] | Mapping[str, int], milliseconds: float) -> Histogram:
    counted = [int(count) for count in counts] if isinstance(counts, list) else [0] * len(BUCKETS)
    return Histogram(tuple(zip(BUCKETS, counted, strict=False)), milliseconds / 1000)


def _seconds(milliseconds: Any) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
