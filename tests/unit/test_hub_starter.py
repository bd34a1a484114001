"""When the event loop speaks: kombu's own loop, and a speaker that says in how many seconds it has something to say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kombu.asynchronous import Hub

from celery_gconc.worker.starter import HubStarter
from celery_gconc.worker.turns import Turns

#: Longer than any test takes.
NEVER = 3600.0


class Speaker:
    """It says these, one after another."""

    def __init__(self, *delays: float | None) -> None:
        self.delays = list(delays)

    def speak(self) -> float | None:
        """In how many seconds there is something to say."""
        return self.delays.pop(0)

    def sockets(self) -> dict[int, Any]:
        """Nothing is under way."""
        return {}

    def take_over(self) -> None:
        """Nor listened to."""


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.close()


def starter(hub: Hub, speaker: Speaker) -> HubStarter:
    """One whose loop has begun."""
    parts: Any = SimpleNamespace(
        stalls=SimpleNamespace(loop_ran=lambda: False), pool=SimpleNamespace(blocks_loop=False)
    )
    turns = Turns(SimpleNamespace(hub=hub))
    made = HubStarter(turns, parts, speaker, has_loop=True)  # type: ignore[arg-type]
    made.register(hub)
    return made


def turn(hub: Hub, speaker: Speaker) -> None:
    """Have the loop turn until all is said."""
    hub.call_later(10, lambda: pytest.fail(f"not said: {speaker.delays}"))
    loop = hub.create_loop()
    while speaker.delays:
        next(loop)


def test_the_loop_speaks_when_it_was_to(hub: Hub):
    speaker = Speaker(0.01, None)
    _made = starter(hub, speaker)
    turn(hub, speaker)


def test_what_is_due_sooner_is_said_sooner(hub: Hub):
    speaker = Speaker(NEVER, 0.01, None)
    made = starter(hub, speaker)
    next(hub.create_loop())
    assert len(speaker.delays) == 2
    made._turns.speak()
    turn(hub, speaker)


def test_a_loop_that_begins_anew_has_no_timer_of_before(hub: Hub):
    speaker = Speaker(0.01, 0.01, None)
    made = starter(hub, speaker)
    next(hub.create_loop())
    hub.timer.clear()
    made.register(hub)
    turn(hub, speaker)
