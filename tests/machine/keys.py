"""What must hold of the keys after each script, whatever workers do: read from the keys themselves.

No grant above a max, no waiter beside a free permit, nobody overtaken, nothing of a session that has ended.
"""

from __future__ import annotations

import json

from celery_gconc.protocol.replies import limits_of
from celery_gconc.protocol.scripts import TURNS
from tests.store.namespace import Request, State

from .pool import LIMITS


class Keys:
    """Those of one namespace, and what they were before."""

    def __init__(self) -> None:
        self.state: State | None = None
        self._seen = b""

    def forget(self) -> None:
        """They have changed by no script."""
        self.state = None

    def look(self, name: str, asked: str, keys: bytes, leases: bytes) -> None:
        """A script has run, and has left this."""
        before = self.state
        if before is not None and keys == self._seen:
            return  # leases may end later, and all else is as it was when it was looked at
        self.state = state = State.decode(keys, leases)
        self._seen = keys
        self._look_whole(state)
        self._look_at_flags(state)
        self._look_at_waiters(state)
        if before is None:
            return
        stated = _stated(asked) if name in ("sync", "open") else set()
        for limit in LIMITS:
            granted = set(state.holders.get(limit, [])) - set(before.holders.get(limit, [])) - stated
            self._look_at_max(state, limit, granted)
            self._look_at_order(before, state, limit, granted)

    def _look_whole(self, state: State) -> None:
        """Every request is where its record says, and nowhere else; none is of a session that ended."""
        for id, record in state.requests.items():
            assert id[0] in state.leases, f"{id} of a session that ended"
            stands, holds, held_back = (
                [limit for limit in LIMITS if id in ids.get(limit, [])]
                for ids in (state.lines, state.holders, state.reserved)
            )
            limits = [limit for limit in LIMITS if limit in limits_of(record["c"])]
            if record["g"] > 0:
                assert (stands, holds, held_back) == ([], limits, []), id
            else:
                assert (stands, holds) == ([record["at"]], []), id
                assert record["at"] in limits
                assert held_back == (limits if record["k"] >= TURNS else []), id
        for ids_of in (state.holders, state.lines, state.reserved):
            assert all(id in state.requests for ids in ids_of.values() for id in ids)
        assert state.rolled == len(state.requests)

    def _look_at_flags(self, state: State) -> None:
        """A limit is contended just while somebody waits for it, and by whom: else no holder would be told."""
        for limit in LIMITS:
            waiting = {name for name, _ in state.lines.get(limit, []) + state.reserved.get(limit, [])}
            flag = state.contended.get(limit)
            assert bool(flag) == bool(waiting), f"{limit} is contended by {flag}, but waited for by {waiting}"
            assert flag in (None, "*") or waiting == {flag}, f"{limit}: {flag} is not all of {waiting}"

    def _look_at_max(self, state: State, limit: str, granted: set[Request]) -> None:
        """Never above the limit: what is above it was stated, or there before it was lowered."""
        if limit in state.maxima and granted:
            assert len(state.holders[limit]) <= state.maxima[limit], f"{granted} granted above {limit}"
            assert limit not in state.settling, f"{granted} granted while {limit} settles"

    def _look_at_waiters(self, state: State) -> None:
        """Never stuck: who has room, and a permit free in each limit, doesn't stand in line."""
        if state.is_shut:
            return
        for ids in state.lines.values():
            for id in ids:
                if state.rooms[id[0]] > 0:
                    limits = limits_of(state.requests[id]["c"])
                    is_free = all(self._is_free(state, limit, id) for limit in limits)
                    assert not is_free, f"{id} has room and waits, though {limits} are free"

    def _is_free(self, state: State, limit: str, id: Request) -> bool:
        maximum = state.maxima.get(limit)
        if maximum is None:
            return True
        is_one_held_back = any(
            state.rooms[other[0]] > 0 and _position(state, other) < _position(state, id)
            for other in state.reserved.get(limit, [])
        )
        return limit not in state.settling and len(state.holders.get(limit, [])) + is_one_held_back < maximum

    def _look_at_order(self, before: State, state: State, limit: str, granted: set[Request]) -> None:
        """In order: among requests of this limit alone none is granted before an older one with room."""
        for young in granted:
            if state.requests[young]["c"] != [[limit, 1]]:
                continue
            for old in state.lines.get(limit, []):
                stood = old in before.lines.get(limit, []) and state.requests[old]["c"] == [[limit, 1]]
                is_overtaken = stood and state.rooms[old[0]] > 0 and _position(state, old) < _position(state, young)
                assert not is_overtaken, f"{young} was granted {limit} before {old}"


def _stated(asked: str) -> set[Request]:
    """What a session says it holds."""
    sync = json.loads(asked)
    return {(sync["session"], row[0]) for row in sync.get("held", ())}


def _position(state: State, id: Request) -> tuple[str, str]:
    """Where a request stands, in every line: by arrival, then by name."""
    return state.requests[id]["a"], f"{id[0]}:{id[1]}"
