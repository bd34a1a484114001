"""What a session says of requests that it has no slot for, by itself: no Redis, no worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import pytest

from celery_gconc.limits.claims import claims_on
from celery_gconc.worker.ledger.moves import Answer, Moves

from .test_ledger import Clock, Harness, Request


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time, and it stands still."""
    return Clock(monkeypatch)


@dataclass
class Line:
    """Requests with the same claims."""

    waiting: deque[Request] = field(default_factory=deque)
    number: int = 7
    asked: int = 1

    def some(self, first: int, count: int) -> Iterator[Request]:
        """So many of those behind the first so many."""
        return islice(self.waiting, first, first + count)


def line(*queues: str) -> Line:
    """A line with a request of each queue."""
    return Line(deque(Request(queue=queue) for queue in queues))


def taking(*queues: str) -> Moves:
    """Of a session that has said which queues it takes."""
    moves = Moves()
    moves.take("here", queues)
    moves.say([])
    return moves


def test_redis_is_asked_half_a_second_after_a_turn_was_missed_and_once_a_second_from_then_on(clock: Clock):
    moves, lines = taking("emails", "news"), [line("emails", "news", "emails")]
    moves.missed()
    assert moves.due_in(lines) == pytest.approx(0.5)
    assert moves.say(lines)[1] == []
    clock.time += 0.5
    assert moves.due_in(lines) == 0.0
    assert moves.say(lines)[1] == [(7, ["emails", "news"])]
    assert moves.due_in(lines) == pytest.approx(1.0, abs=0.01)
    assert moves.say(lines)[1] == []
    clock.time += 1.0
    assert moves.say(lines)[1] == [(7, ["emails", "news"])]


def test_redis_is_not_asked_where_a_slot_came_in_time_or_nothing_may_move(clock: Clock):
    moves, lines = taking("emails", "news"), [line("emails")]
    moves.missed()
    moves.caught_up()
    clock.time += 10
    assert moves.due_in(lines) is None
    assert moves.say(lines)[1] == []
    moves.missed()
    clock.time += 10
    lines[0].waiting[0].may_move = False
    assert moves.due_in(lines) is None
    assert moves.say(lines)[1] == []
    lines[0].waiting[0].may_move = True
    lines[0].asked = 0
    assert moves.due_in(lines) is None, "Redis doesn't know of it"
    lines[0].asked = 1
    assert moves.say(lines)[1] == [(7, ["emails"])]


def test_of_queues_that_are_left_alone_redis_is_asked_once_a_second(clock: Clock):
    moves = Moves()
    moves.leave(frozenset({"emails"}))
    assert moves.say([])[1] == [(0, ["emails"])]
    assert moves.say([])[1] == []
    clock.time += 1.0
    assert moves.due_in([]) == pytest.approx(0.0, abs=0.01)
    moves.leave(frozenset())
    assert moves.due_in([]) is None
    assert moves.say([])[1] == []


def test_an_answer_is_given_once_and_only_to_a_question(clock: Clock):
    moves = Moves()
    assert not moves.hear(frozenset())
    moves.leave(frozenset({"emails", "news"}))
    moves.say([])
    assert moves.hear(frozenset({"news"}))
    assert moves.take_answer() == Answer(frozenset({"emails", "news"}), frozenset({"news"}))
    assert moves.take_answer() is None


def test_the_queues_that_are_taken_are_told_when_they_change_and_again_after_a_failure():
    moves = Moves()
    assert moves.take("here", ["emails"])
    assert not moves.take("here", ["emails"])
    assert moves.say([])[0] == ("emails",)
    assert moves.say([])[0] is None
    moves.sync_failed()
    assert moves.say([])[0] == ("emails",)
    assert moves.take("here", [])
    assert moves.say([])[0] == ()


def test_queues_whose_names_redis_would_refuse_stay_out_of_it_and_so_does_what_is_not_taken(clock: Clock):
    moves = Moves()
    moves.take("here", ["emails", "two\nlines", "", "x" * 5000, "sp ace", "ü"])
    assert moves.say([])[0] == ("emails", "sp ace", "ü")
    moves.missed()
    clock.time += 10
    assert moves.say([line("two\nlines", "news")])[1] == []


# -- In the ledger ---------------------------------------------------------------------------------------


def test_a_full_session_that_is_offered_units_says_so_after_half_a_second(clock: Clock):
    harness = Harness(slots=0, lease=1000.0)
    harness.ledger.take_queues("here", ["emails"])
    harness.wait()
    assert harness.sync(offer=True).weak == []
    assert harness.ledger.due_at == pytest.approx(clock.time + 0.5)
    clock.time += 0.5
    (weak,) = harness.sync(offer=True, elsewhere=frozenset({"emails"})).weak
    assert weak == (1, ["emails"])
    answer = harness.ledger.take_answer()
    assert answer is not None
    assert answer.elsewhere == {"emails"}
    assert harness.ledger.take_out(answer.elsewhere, 10)
    assert harness.ledger.waiting_count == 0
    (want,) = harness.sync().wants
    assert (want.set, want.kept, want.requests) == (1, 0, []), "its position in line goes with it"


def test_a_session_with_a_slot_again_says_nothing(clock: Clock):
    harness = Harness(slots=0, lease=1000.0)
    harness.ledger.take_queues("here", ["emails"])
    harness.wait()
    harness.sync(offer=True)
    harness.slots = 1
    harness.ledger.slots_changed()
    harness.slots = 0
    clock.time += 0.9
    assert harness.sync(offer=True).weak == []


def test_those_that_go_leave_the_others_in_their_order(clock: Clock):
    harness = Harness(slots=0, lease=1000.0)
    news = claims_on(("app", "queue:news", "task:t"))
    harness.change(app=1)
    requests = [Request(), Request(news, queue="news"), Request(news, queue="news"), Request()]
    for request in requests:
        harness.ledger.wait(request)
    assert harness.ledger.take_out({"news"}, 10) == requests[1:3]
    assert harness.ledger.waiting() == [requests[0], requests[3]]
    assert harness.ledger.waiting_count == 2


def test_of_many_the_last_go_first_for_the_next_go_back_to_their_positions_before_them(clock: Clock):
    harness = Harness(slots=0, lease=1000.0)
    requests = []
    for number in range(6):
        requests.append(Request(claims_on(("app", "queue:emails", f"task:{number % 2}"))))
        harness.ledger.wait(requests[-1])
    requests[5].arrived = requests[4].arrived + 1
    assert harness.ledger.take_out({"emails"}, 4) == requests[2:]
    assert harness.ledger.take_out({"emails"}, 4) == requests[:2]


def test_room_that_redis_does_not_know_of_is_told_once_it_stays(clock: Clock):
    harness = Harness(slots=0, lease=1000.0)
    harness.sync()
    harness.slots = 2
    harness.ledger.tell_room()
    assert harness.ledger.due_at is None
    harness.ledger.tell_room()
    assert harness.ledger.due_at is not None
    assert harness.sync().room == 2
    for _ in range(3):
        harness.ledger.tell_room()
    assert harness.ledger.due_at is None


def test_room_that_comes_and_goes_is_not_told(clock: Clock):
    harness = Harness(slots=0, lease=1000.0)
    harness.sync()
    for _ in range(3):
        harness.slots = 2
        harness.ledger.tell_room()
        harness.slots = 0
        harness.ledger.tell_room()
    assert harness.ledger.due_at is None
