"""All that stands in the keys at one instant, and whether it fits together: what no script of ours may break.

Model, Bench -> Look (the keys themselves, never what the scripts say of them) -> check_sound, check_granted
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from celery_gconc.limits.claims import Claims
from celery_gconc.protocol.keys import KEYSPACE
from celery_gconc.protocol.messages import claims_of
from celery_gconc.protocol.scripts import TURNS

from .namespace import LOOK, US, Namespace, State

#: Reads more of the keys than :data:`LOOK`, at the same instant.
LOOK_CLOSELY = (
    LOOK
    + """
local found, granted = look(), {}
local function all(key) return redis.call('ZRANGE', key, 0, -1) end
local configs = {}
for _, sid in ipairs(all(%(sessions)s)) do
  granted[sid] = redis.call('HGET', %(session)s, sid .. ':granted') or '0'
  configs[sid] = redis.call('HGET', %(session)s, sid .. ':config') or nil
end
local fields, overrides = redis.call('HGETALL', %(overrides)s), {}
for number = 1, #fields, 2 do overrides[fields[number]] = fields[number + 1] end
found[3] = cjson.encode({
  all(%(waiters)s), all(%(turns)s), all(%(aside)s), all(%(reserved)s), all(%(roll)s), all(%(holders)s), all(%(grants)s),
  redis.call('HGET', %(meta)s, 'clock') or '0', granted,
  all(%(configured)s), all(%(uses)s), all(%(unused)s), configs, overrides,
  redis.call('ZRANGE', %(ends)s, 0, -1, 'WITHSCORES'),
})
return found
"""
    % {name: f"KEYS[{number}]" for number, name in enumerate(KEYSPACE, 1)}
)


@dataclass(frozen=True, slots=True)
class Granted:
    """What a grant brought: of which set of a session, which claims, and for which task."""

    set: int
    claims: Claims
    task_id: str


@dataclass(frozen=True)
class Look:
    """The keys of a namespace at one instant: decoded, and members of the sorted sets as they are."""

    state: State
    waiters: list[str]
    turns: list[str]
    aside: list[str]
    reserved: list[str]
    roll: list[str]
    holders: list[str]
    #: By session and number.
    grants: dict[tuple[str, int], Granted]
    #: The lease clock, in ms.
    clock: int
    #: The number of the last grant of each session.
    last_grant: dict[str, int]
    #: Configurations by digest: their values, sessions, and which go; what each live session says; what operators set.
    configured: list[str]
    uses: list[str]
    unused: list[str]
    configs: dict[str, str]
    overrides: dict[str, dict[str, Any]]
    #: When what was set for a time first ends, by limit.
    ends: dict[str, int]

    @classmethod
    def decode(cls, keys: bytes, leases: bytes, more: bytes) -> Look:
        """What :data:`LOOK_CLOSELY` returns."""
        (
            waiters, turns, aside, reserved, roll, holders, grants, clock, last_grant,
            configured, uses, unused, configs, overrides, ends,
        ) = json.loads(more)  # fmt: skip
        found = {}
        for member in grants:
            name, number, row = member.split(":", 2)
            _, number_of_set, claims, _, _, task_id, _ = json.loads(row)
            found[name, int(number)] = Granted(number_of_set, claims_of(claims), task_id)
        return cls(
            State.decode(keys, leases),
            waiters=list(waiters),
            turns=list(turns),
            aside=list(aside),
            reserved=list(reserved),
            roll=list(roll),
            holders=list(holders),
            grants=found,
            clock=int(clock),
            last_grant={name: int(number) for name, number in dict(last_grant).items()},
            configured=list(configured),
            uses=list(uses),
            unused=list(unused),
            configs=dict(configs),
            overrides={limit: json.loads(text) for limit, text in dict(overrides).items()},
            ends=dict(zip([*ends][::2], map(int, [*ends][1::2]), strict=True)),
        )

    def granted_since(self, before: Look) -> dict[tuple[str, int], Granted]:
        """What was granted since an earlier look."""
        return {key: grant for key, grant in self.grants.items() if key[1] > before.last_grant.get(key[0], 1)}

    def units(self, name: str) -> Counter[str]:
        """What a session has, by limit."""
        return Counter({limit: each[name] for limit, each in self.state.units.items() if name in each})

    def alive(self) -> set[str]:
        """The sessions that have not ended."""
        return self.state.leases.keys() - self.state.ending

    def order(self, want: str) -> str:
        """Where a want stands, in every line: by the arrival of its first request, then by its name."""
        return f"{self.state.wants[want]['r'][0][0]}{US}{want}"

    def has_room(self, want: str) -> bool:
        """Whether the session of a want could start one more task, as far as Redis knows."""
        return self.state.rooms.get(owner_of(want), 0) > 0

    def lacks(self, want: str, limit: str) -> bool:
        """Whether a limit has not enough for a want: what is free is less than it needs, or for those before it."""
        state = self.state
        if limit not in state.maxima:
            return False
        if state.is_shut or limit in state.settling:
            return True
        free, needed = state.maxima[limit] - state.held.get(limit, 0), self._weight(want, limit)
        earlier = [one for one in state.reserved.get(limit, []) if self._is_before(one, want)]
        held_back = self._weight(min(earlier, key=self.order), limit) if earlier else 0
        is_passing = any(self._is_before(one, want) for one in state.lines.get(limit, []))
        return free - held_back < needed or is_passing

    def _weight(self, want: str, limit: str) -> int:
        return weight_on(self.state.wants[want]["c"], limit)

    def _is_before(self, one: str, other: str) -> bool:
        return self.has_room(one) and self.order(one) < self.order(other)


def looker(namespace: Namespace) -> Callable[[], Look]:
    """What looks at a namespace."""
    look = namespace.raw.register_script(LOOK_CLOSELY)
    return lambda: Look.decode(*look(keys=namespace.keys.all()))


def check_sound(look: Look) -> None:
    """What every script keeps to."""
    _check_units(look)
    _check_wants(look)
    _check_grants(look)
    _check_flags(look.state)
    _check_configs(look)


def check_granted(before: Look, look: Look) -> None:
    """Never above the limit: what is above it was stated, or there before the max was lowered. Numbers have no gap."""
    state, granted = look.state, look.granted_since(before)
    for limit in {limit for grant in granted.values() for limit, _ in grant.claims}:
        if limit in state.maxima:
            assert state.held[limit] <= state.maxima[limit], f"{granted} granted above {limit}"
            assert limit not in state.settling, f"{granted} granted while {limit} settles"
            assert not state.is_shut, f"{granted} granted while sessions may live that nobody knows"
    for name in look.alive():
        new = sorted(number for owner, number in granted if owner == name)
        assert new == list(range(before.last_grant.get(name, 1) + 1, look.last_grant[name] + 1)), name


def sum_of(every: Iterable[Claims]) -> Counter[str]:
    """How many units claims are for, by limit."""
    units: Counter[str] = Counter()
    for claims in every:
        for limit, weight in claims:
            units[limit] += weight
    return units


def weight_on(claims: Iterable[tuple[str, int]], limit: str) -> int:
    """How many units of a limit claims are for."""
    return sum(weight for name, weight in claims if name == limit)


def owner_of(want: str) -> str:
    """The session of a want."""
    return want.partition(":")[0]


def _check_units(look: Look) -> None:
    """What is held is the sum of what sessions have, and each is listed as a holder twice."""
    units = look.state.units
    assert look.state.held == {limit: sum(each.values()) for limit, each in units.items()}
    assert all(count > 0 for each in units.values() for count in each.values()), units
    pairs = [(limit, name) for limit, each in units.items() for name in each]
    assert all(name in look.state.leases for _, name in pairs), f"units of sessions that ended: {units}"
    assert sorted(look.holders) == sorted(
        member for limit, name in pairs for member in (f"{limit}{US}{name}", f"{US}{name}{US}{limit}")
    )
    assert all(maximum >= 0 for maximum in look.state.maxima.values())


def _check_wants(look: Look) -> None:
    """Each want stands where its record says, and nowhere else; none is of a session that ended, or for nobody."""
    wants = look.state.wants
    assert sorted(look.roll) == sorted(wants)
    stand, held_back = [], []
    for id, want in wants.items():
        assert owner_of(id) in look.state.leases, f"{id} of a session that ended"
        assert want["r"], f"{id} is for nobody"
        limits = [limit for limit, _ in want["c"]]
        assert want["at"] in limits, id
        stand.append(f"{want['at']}{US}{look.order(id)}")
        if want["k"] >= TURNS:
            held_back += [f"{limit}{US}{look.order(id)}" for limit in limits]
    assert sorted(look.waiters) == sorted(stand)
    assert sorted(look.reserved) == sorted(held_back)
    aside = [member.partition(US) for member in look.aside]
    assert sorted([*look.turns, *(member for _, _, member in aside)]) == sorted(stand)
    for name, _, member in aside:
        assert name == owner_of(member.rpartition(US)[2])
        assert look.state.rooms[name] <= 0, f"{member} is set aside, though its session has room"


def _check_grants(look: Look) -> None:
    """None is kept of a session that ended, or that will be given again."""
    for name, number in look.grants:
        assert name in look.alive(), f"grant {number} of {name}, which has ended"
        assert 1 < number <= look.last_grant[name]


def _check_flags(state: State) -> None:
    """A limit is contended just while somebody waits for it, and by whom: else no holder would be told."""
    for limit in {*state.lines, *state.reserved, *state.contended}:
        waiting = {owner_of(id) for id in state.lines.get(limit, []) + state.reserved.get(limit, [])}
        flag = state.contended.get(limit)
        assert bool(flag) == bool(waiting), f"{limit} is contended by {flag}, but waited for by {waiting}"
        assert flag in (None, "*") or waiting == {flag}, f"{limit}: {flag} is not all of {waiting}"


def _check_configs(look: Look) -> None:
    """Each value is listed twice, each session has all of its own, and what no session has goes; the least holds."""
    assert sorted(look.uses) == sorted(f"{look.configs[name]}{US}{name}" for name in look.alive())
    values = [tuple(member.split(US)) for member in look.configured if not member.startswith(US)]
    listed = [f"{US}{digest}{US}{limit}{US}{maximum}" for limit, maximum, digest in values]
    assert sorted(listed) == [member for member in look.configured if member.startswith(US)]
    sizes = Counter(digest for _, _, digest in values)
    used = {look.configs[name] for name in look.alive()}
    assert all(sizes[digest] == int(digest.partition("-")[0]) for digest in used), f"{used} have {sizes}"
    assert sizes.keys() <= used | {*look.unused}, "values count that no session has"
    least: dict[str, int] = {}
    for limit, maximum, _ in values:
        least[limit] = min(least.get(limit, int(maximum)), int(maximum))
    for limit, override in look.overrides.items():
        value = 0 if "pause" in override else override["max"] if "max" in override else least.get(limit, -1)
        least[limit] = value
    assert look.state.maxima == {limit: value for limit, value in least.items() if value >= 0}
    marks = {limit: [one.get("set") or {}, one.get("pause") or {}] for limit, one in look.overrides.items()}
    ends = {limit: [int(mark["ends"]) for mark in both if "ends" in mark] for limit, both in marks.items()}
    assert look.ends == {limit: min(found) for limit, found in ends.items() if found}
