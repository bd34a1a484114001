"""What the event loop says and hears without waiting, over a real Redis; the test is the loop, and the link."""

from __future__ import annotations

import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from celery_gconc.errors import StoreUnavailable
from celery_gconc.worker.session.link import LOOP_PATIENCE
from celery_gconc.worker.session.speaker import Speaker
from celery_gconc.worker.turns import Caller, Turns
from tests.store.namespace import Namespace

from .session_parts import INTERVAL, NoLoop, Request, Running


class Loop:
    """An event loop that turns when the test says so."""

    def __init__(self, running: Running) -> None:
        self.running, self.floor = running, running.floor
        self.turns = Turns(NoLoop)
        self.speaker = Speaker(running, running.bell, self.turns)  # type: ignore[arg-type]  # as far as it looks
        running.bell.hear()

    @property
    def is_under_way(self) -> bool:
        """Whether something was said and isn't answered."""
        return self.running.session.awaited is not None

    @property
    def calls_link(self) -> bool:
        """Whether the link's thread was called since the last time."""
        return self.running.bell.hear()

    def hear(self, what: Callable[[], None], seconds: float = 10.0) -> bool:
        """Wait for an answer or a notice, and have it heard; return whether anything came."""
        heard = {fd: hear for fd, (_, hear) in self.speaker.sockets().items() if hear == what}
        found, _, _ = select.select(list(heard), [], [], seconds)
        for fd in found:
            heard[fd]()
        return bool(found)

    def hear_answer(self, seconds: float = 10.0) -> bool:
        """Wait for an answer, and have it heard."""
        return self.hear(self.speaker.hear_answer, seconds)

    def hear_notices(self, seconds: float = 10.0) -> bool:
        """Wait for a notice, and have it heard."""
        return self.hear(self.speaker.hear_notices, seconds)


@pytest.fixture
def loop(running: Running) -> Loop:
    """Of an open session."""
    running.open()
    return Loop(running)


def test_what_is_due_is_said_and_its_answer_heard(loop: Loop, running: Running, namespace: Namespace):
    request = Request()
    running.ledger.wait(request)
    loop.speaker.speak()
    assert loop.is_under_way
    assert running.ledger.next() is None
    assert loop.hear_answer()
    assert running.ledger.next() is request
    assert namespace.holders("app") == [(running.session.id, 1)]
    assert not loop.is_under_way


def test_where_nothing_is_due_the_link_is_called_to_come_when_something_is(loop: Loop):
    loop.calls_link  # noqa: B018 - from here
    assert loop.speaker.speak() is None
    assert not loop.is_under_way
    assert loop.calls_link


@pytest.fixture
def patient(make: Callable[..., Running]) -> Running:
    """A session whose next sync is due in a second."""
    running = make(global_concurrency_commit_interval=1.0)
    running.open()
    running.ledger.wait(Request())
    return running


def test_what_is_due_later_the_loop_comes_for_and_the_link_only_after_it(patient: Running):
    loop = Loop(patient)
    delay = loop.speaker.speak()
    assert delay is not None
    assert 0.5 < delay <= 1.0
    assert loop.calls_link, "it would come with the next heartbeat only"
    assert 0.5 < patient.run_once(patience=LOOP_PATIENCE) <= 1.0 + LOOP_PATIENCE, "nothing is said, and it comes again"
    loop.speaker.speak()
    assert not loop.calls_link, "it comes soon after that anyway"
    time.sleep(delay)
    patient.run_once(patience=INTERVAL)
    assert patient.ledger.due_at is not None, "that is for the loop"
    assert loop.speaker.speak() is None
    assert loop.is_under_way


def test_what_the_loop_does_not_come_for_the_link_says(patient: Running):
    patient.run_once(after=1.0, patience=0.5)
    assert patient.ledger.due_at is not None
    patient.run_once(after=0.6, patience=0.5)
    assert patient.ledger.due_at is None


def test_what_is_asked_for_while_an_answer_is_under_way_is_said_after_it(loop: Loop, running: Running):
    first, second = Request(), Request(task_id="id-2")
    running.ledger.wait(first)
    loop.speaker.speak()
    running.ledger.wait(second)
    loop.speaker.speak()
    assert not loop.turns.take_speech()
    loop.hear_answer()
    assert loop.turns.take_speech()


def test_a_heartbeat_is_left_to_the_link(loop: Loop, running: Running):
    running.ledger.wait(Request())
    running.run_once(after=INTERVAL - 0.1)
    running.ledger.wait(Request(task_id="id-2"))
    running.session._next_heartbeat = 0.0
    loop.calls_link  # noqa: B018 - from here
    loop.speaker.speak()
    assert not loop.is_under_way
    assert loop.calls_link


def test_the_loop_does_not_wait_for_another_thread_that_speaks(loop: Loop, running: Running):
    running.ledger.wait(Request())
    speaks, ends = threading.Event(), threading.Event()

    def speak() -> None:
        with running.floor:
            speaks.set()
            ends.wait(10)

    thread = threading.Thread(target=speak)
    thread.start()
    assert speaks.wait(10)
    loop.calls_link  # noqa: B018 - from here
    loop.speaker.speak()
    loop.speaker.hear_answer()
    loop.speaker.hear_notices()
    assert not ends.is_set(), "it didn't wait"
    assert loop.calls_link, "whoever speaks looks once more"
    ends.set()
    thread.join()
    loop.speaker.speak()
    assert loop.is_under_way


def test_a_notice_that_overtakes_an_answer_is_heard_after_it(loop: Loop, running: Running, namespace: Namespace):
    """What Redis says unasked may be newer than the answer that is under way: others wait since."""
    running.ledger.wait(Request())
    loop.speaker.speak()
    loop.hear_answer()
    assert running.ledger.next() is not None
    running.ledger.wait(Request(task_id="id-2"))
    loop.speaker.speak()
    awaited = running.session.awaited
    assert awaited is not None
    select.select([awaited.socket], [], [], 10)
    other = namespace.session("other")
    other.ask("app")
    while not running.notices._held_back:
        assert loop.hear_notices()
    assert "app" not in running.ledger._trust.contended
    assert loop.hear_answer()
    assert "app" in running.ledger._trust.contended


def test_after_a_lost_connection_the_link_states_everything(loop: Loop, running: Running, namespace: Namespace):
    running.ledger.wait(Request())
    loop.speaker.speak()
    loop.hear_answer()
    running.ledger.wait(Request(task_id="id-2"))
    loop.speaker.speak()
    namespace.raw.client_kill_filter(_type="normal", skipme=True)
    loop.hear_answer()
    assert not loop.is_under_way
    running.run_once()
    assert running.session.is_synced
    assert running.ledger.next() is not None


def test_a_server_that_has_forgotten_its_scripts_costs_a_statement(loop: Loop, running: Running, namespace: Namespace):
    namespace.raw.script_flush()
    request = Request()
    running.ledger.wait(request)
    loop.calls_link  # noqa: B018 - from here
    loop.speaker.speak()
    assert loop.hear_answer()
    assert loop.calls_link
    assert running.ledger.needs_statement
    running.run_once()
    assert running.ledger.next() is request


def test_redis_that_does_not_answer_is_waited_for_by_the_link_only(make: Callable[..., Running], redis_process: Any):
    running = make(global_concurrency_redis_options={"socket_timeout": 0.5})
    running.open()
    loop = Loop(running)
    running.ledger.wait(Request())
    redis_process.process.send_signal(signal.SIGSTOP)
    try:
        loop.speaker.speak()
        assert loop.is_under_way
        assert not loop.hear_answer(0)
        loop.speaker.speak()
        with pytest.raises(StoreUnavailable):
            running.run_once()
        running.session.disconnected()
        assert not loop.is_under_way
    finally:
        redis_process.process.send_signal(signal.SIGCONT)
    running.run_once()
    assert running.session.is_synced


def test_the_loop_and_the_link_never_listen_both(loop: Loop, running: Running):
    loop.speaker.take_over()
    assert not running.notices.is_selected
    running.notices.select()
    assert running.notices.is_selected
    loop.speaker.take_over()
    assert not running.notices.is_selected


def test_while_the_loop_stands_still_the_link_is_called(running: Running):
    caller = Caller(turns := Turns(NoLoop), running.pool, running.bell)
    running.bell.hear()
    turns.speaks = True
    caller.ring()
    assert (turns.take_speech(), running.bell.hear()) == (True, False)
    running.pool.is_stalled = True
    caller.ring()
    assert (turns.take_speech(), running.bell.hear()) == (False, True)
    running.pool.is_stalled = turns.speaks = False
    caller.ring()
    assert (turns.take_speech(), running.bell.hear()) == (False, True)
