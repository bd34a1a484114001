"""What must hold of the keys after each script, whatever workers do: read from the keys themselves.

Units change only by what sessions state and are granted. No grant above a max, no waiter beside free units, nobody
overtaken, nothing of a session that has ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from celery_gconc.protocol.messages import GRANT, ROW, WANT
from celery_gconc.protocol.scripts import TURNS
from tests.store.namespace import State

from .pool import LIMITS
from .server import Ran


@dataclass(frozen=True)
class Granted:
    """What was granted: a row of the keys."""

    session: str
    number: int
    set: int
    weights: dict[str, int]
    task_id: str

    @classmethod
    def decode(cls, member: str) -> Granted:
        """As it stands there."""
        session, number, text = member.split(":", 2)
        row = json.loads(text)
        weights = dict(row[GRANT.index("claims")])
        return cls(session, int(number), row[GRANT.index("set")], weights, row[len(GRANT)])

    @property
    def want(self) -> str:
        """The id of the want that it was for."""
        return f"{self.session}:{self.set}"


class Keys:
    """Those of one namespace, and what they were before."""

    def __init__(self) -> None:
        self.state: State | None = None
        self._grants: dict[str, Granted] = {}
        self._seen = b""

    def forget(self) -> None:
        """They have changed by no script."""
        self.state = None

    def look(self, ran: Ran) -> None:
        """A script has run."""
        before, grants_before = self.state, self._grants
        if before is not None and ran.keys == self._seen:
            return  # leases may end later, and all else is as it was when it was looked at
        self.state = state = State.decode(ran.keys, ran.leases)
        self._seen, self._grants = ran.keys, _grants(ran.keys)
        self._look_whole(state)
        self._look_at_flags(state)
        self._look_at_waiters(state)
        if before is None:
            return
        granted = [grant for member, grant in self._grants.items() if member not in grants_before]
        self._look_at_units(before, grants_before.values(), state, granted, ran)
        self._look_at_max(state, granted)
        self._look_at_order(before, state, granted, ran)

    def _look_whole(self, state: State) -> None:
        """Every want is where its record says, and nowhere else; none, and no unit, is of a session that ended."""
        for id, record in state.wants.items():
            stands, held_back = (
                [limit for limit in LIMITS if id in ids.get(limit, [])] for ids in (state.lines, state.reserved)
            )
            limits = [limit for limit in LIMITS if limit in _weights(record)]
            assert _owner(id) in state.leases, f"{id} of a session that ended"
            assert record["r"], f"{id} waits for nobody"
            arrivals = [request[0] for request in record["r"]]
            assert arrivals == sorted(arrivals), f"{id}: not first come first"
            assert stands == [record["at"]], id
            assert record["at"] in limits
            assert held_back == (limits if record["k"] >= TURNS else []), id
        for ids_of in (state.lines, state.reserved):
            assert all(id in state.wants for ids in ids_of.values() for id in ids)
        assert state.rolled == len(state.wants)
        for limit, units in state.units.items():
            assert units.keys() <= state.leases.keys(), f"{units} of {limit}: one is of a session that ended"
            assert min(units.values()) > 0, f"{units} of {limit}"
        assert state.held == {limit: sum(units.values()) for limit, units in state.units.items()}

    def _look_at_flags(self, state: State) -> None:
        """A limit is contended just while somebody waits for it, and by whom: else no holder would be told."""
        for limit in LIMITS:
            waiting = {_owner(id) for id in state.lines.get(limit, []) + state.reserved.get(limit, [])}
            flag = state.contended.get(limit)
            assert bool(flag) == bool(waiting), f"{limit} is contended by {flag}, but waited for by {waiting}"
            assert flag in (None, "*") or waiting == {flag}, f"{limit}: {flag} is not all of {waiting}"

    def _look_at_waiters(self, state: State) -> None:
        """Never stuck: who has room, and enough units free in each limit, doesn't stand in line."""
        if state.is_shut or state.is_serving:
            return
        for limit, ids in state.lines.items():
            for id in ids:
                if state.rooms[_owner(id)] > 0:
                    weights = _weights(state.wants[id])
                    is_free = all(self._is_free(state, one, weight, id) for one, weight in weights.items())
                    assert not is_free, f"{id} has room and waits for {limit}, though {weights} are free"

    def _is_free(self, state: State, limit: str, weight: int, id: str) -> bool:
        """Whether so many units are free, and held back for none before it; nor wanted by a heavier one before it."""
        maximum = state.maxima.get(limit)
        if maximum is None:
            return True
        reserved, line = (self._before(state, ids.get(limit, []), id) for ids in (state.reserved, state.lines))
        free = maximum - state.held.get(limit, 0) - sum(_weights(state.wants[one])[limit] for one in reserved[:1])
        is_held_up = any(_weights(state.wants[one])[limit] > free for one in line[:1])
        return limit not in state.settling and weight <= free and not is_held_up

    def _before(self, state: State, ids: Iterable[str], id: str) -> list[str]:
        """Those of them that have room, and came before this one."""
        position = _position(state, id)
        return [one for one in ids if state.rooms[_owner(one)] > 0 and _position(state, one) < position]

    def _look_at_units(
        self, before: State, grants: Iterable[Granted], state: State, granted: list[Granted], ran: Ran
    ) -> None:
        """A session has what it had and was granted; the one that calls what it says, and what it can't know of yet."""
        told = ran.asked if ran.name in ("sync", "open") and ran.is_ok else {"session": None}
        caller, since = told["session"], told.get("granted", 0)
        for limit in LIMITS:
            had, has = before.units.get(limit, {}), state.units.get(limit, {})
            for session in {*had, *has}:
                expected = had.get(session, 0)
                if session == caller:
                    if limit in told["units"] or told.get("full"):
                        expected = told["units"].get(limit, 0)
                        expected += _sum(grants, session, limit, since)
                elif session in state.ending or session not in state.leases:
                    assert has.get(session, 0) <= expected, f"{session} has ended, and was given {limit}"
                    continue
                expected += _sum(granted, session, limit)
                assert has.get(session, 0) == expected, (
                    f"{has} of {limit} are held, and {session} is to have {expected}"
                )

    def _look_at_max(self, state: State, granted: list[Granted]) -> None:
        """Never above the limit: what is above it was stated, or there before it was lowered."""
        for limit in {limit for grant in granted for limit in grant.weights if limit in state.maxima}:
            assert state.held[limit] <= state.maxima[limit], f"{granted} granted above {limit}"
            assert limit not in state.settling, f"{granted} granted while {limit} settles"
            assert not state.is_shut, f"{granted} granted while nothing may be"

    def _look_at_order(self, before: State, state: State, granted: list[Granted], ran: Ran) -> None:
        """In order: of those that want the same limits none is granted before an older one with room, however heavy."""
        for young in granted:
            position = _arrival(before, young, ran), young.want
            for limit in young.weights:
                for old in state.lines.get(limit, []):
                    if old == young.want or _weights(state.wants[old]).keys() != young.weights.keys():
                        continue  # (a want's own session says in which order)
                    stood = old in before.lines.get(limit, []) and state.wants[old]["r"][0] in before.wants[old]["r"]
                    if stood and state.rooms[_owner(old)] > 0:
                        assert _position(state, old) > position, f"{young} was granted {limit} before {old}"


def _grants(keys: bytes) -> dict[str, Granted]:
    return {member: Granted.decode(member) for member in json.loads(keys)[2]}


def _sum(grants: Iterable[Granted], session: str, limit: str, since: int = 0) -> int:
    """How many units of a limit a session was granted after its grant of this number."""
    return sum(grant.weights.get(limit, 0) for grant in grants if grant.session == session and grant.number > since)


def _owner(id: str) -> str:
    return id.partition(":")[0]


def _weights(record: Mapping[str, Any]) -> dict[str, int]:
    return dict(record["c"])


def _position(state: State, id: str) -> tuple[str, str]:
    """Where a want stands, in every line: by the arrival of its first request, then by name."""
    return state.wants[id]["r"][0][0], id


def _arrival(before: State, grant: Granted, ran: Ran) -> str:
    """When a request came that was granted something: as it was told before, or by this call."""
    known = before.wants.get(grant.want)
    if known is not None and _weights(known) == grant.weights:
        for arrival, task_id, _task in known["r"]:
            if task_id == grant.task_id:
                return str(arrival)
    ages = dict(_ages(ran.asked, grant.set))
    return f"{ran.at - max(ages[grant.task_id], 0):016d}"


def _ages(asked: Mapping[str, Any], number: int) -> Iterator[tuple[str, int]]:
    for want in asked["wants"]:
        if want[WANT.index("set")] == number:
            for row in want[WANT.index("requests")]:
                yield row[ROW.index("task_id")], row[ROW.index("age")]
