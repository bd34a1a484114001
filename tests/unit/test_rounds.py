"""Who of those that are held has a turn to be looked at, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celery_gconc.worker import rounds as rounds_module
from celery_gconc.worker.rounds import Rounds

CALLS = 10


def run(number: int) -> Any:
    """One that is held."""
    return SimpleNamespace(number=number, request=SimpleNamespace(id=f"id-{number}", expires=None))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few have a turn in one call."""
    monkeypatch.setattr(rounds_module, "MIN_TURN", 1)


def test_each_has_a_turn_within_so_many_calls_also_who_comes_in_the_middle_of_a_round():
    rounds, since, longest = Rounds(), dict[int, int](), 0
    for number in range(50):
        rounds.add(run(number))
        since[number] = 0
    for call in range(1, 20 * CALLS):
        rounds.add(run(50 + call))
        since[50 + call] = call
        for one in rounds.next(CALLS):
            longest = max(longest, call - since[one.number])
            since[one.number] = call
    assert longest <= CALLS
    assert max(20 * CALLS - last for last in since.values()) <= CALLS + 1


def test_who_is_held_no_more_has_no_turn():
    rounds, held = Rounds(), [run(number) for number in range(20)]
    for one in held:
        rounds.add(one)
    (first,) = rounds.next(100)
    for one in held[:15]:
        rounds.remove(one)
    found = [one for _ in range(20) for one in rounds.next(100)]
    assert first is held[0]
    assert {one.number for one in found} == set(range(15, 20))


def test_those_that_came_first_have_their_turn_first():
    rounds, held = Rounds(), [run(number) for number in range(5)]
    for one in held:
        rounds.add(one)
    assert [one for _ in range(5) for one in rounds.next(100)] == held
