"""The judge of the chaos runs, shown on logs made by hand: what is wrong it finds, what is right it lets pass."""

from __future__ import annotations

from typing import Any

import pytest

from tools.chaos.checker import Checker
from tools.chaos.fates import fates
from tools.chaos.log import Event
from tools.chaos.plan import DRAIN, LEASE, STUCK, VISIBILITY, WINDOW


class Story:
    """Tells a checker what happened, in few words."""

    def __init__(self, broker: str = "rabbitmq", **limits: int) -> None:
        self.checker = Checker({f"queue:{name}": value for name, value in limits.items()}, broker=broker)
        for name in ("a", "b"):
            self.at(0, "worker", w=name, phase="start", slots=3, pool="prefork")
            self.at(0.1, "worker", w=name, phase="ready")

    def at(self, time: float, kind: str, **data: Any) -> None:
        self.checker.feed(Event(time, kind, data))

    def sent(self, time: float, id: str, *, late: bool = False, task: str = "chaos.plain", queue: str = "q0") -> None:
        limits = ("app", f"queue:{queue}")
        self.at(time, "sent", id=id, task=task, queue=queue, limits=limits, late=late, excuse="", eta=0.0)

    def starts(self, time: float, id: str, w: str = "a", run: str = "", pid: int = 1) -> None:
        if id not in self.checker.tasks:
            self.sent(time, id)
        self.at(time, "start", run=run or id, id=id, n=0, w=w, pid=pid)

    def ends(self, time: float, run: str) -> None:
        self.at(time, "end", run=run, again=False)

    def change(self, begin: float, end: float, value: str, phase: str = "done") -> None:
        self.at(begin, "change", limit="queue:q0", value=value, phase="begin")
        self.at(end, "change", limit="queue:q0", value=value, phase=phase)

    def fault(self, begin: float, end: float, name: str, *w: str, number: int = 1) -> None:
        self.at(begin, "fault", name=name, phase="begin", number=number, w=w or ("a", "b"), seconds=0)
        if end:
            self.at(end, "fault", name=name, phase="end", number=number, w=w or ("a", "b"), seconds=0)

    def keys(self, begin: float, end: float, *, sessions: int = 2, left: int = 0, **holders: int) -> None:
        named = {f"queue:{name}": count for name, count in holders.items()}
        while begin < end:
            self.at(begin, "keys", holders=named, sessions=sessions, left={"holders": left})
            begin += 0.25

    def found(self) -> list[str]:
        return [violation.what for violation in self.checker.violations]


# -- Promise 1 ---------------------------------------------------------------------------------------------------------


def test_one_task_more_than_the_max_is_an_overshoot() -> None:
    story = Story(q0=2)
    story.starts(1.0, "1")
    story.starts(1.1, "2", "b")
    assert story.found() == []
    story.starts(1.2, "3", "b")
    assert story.found() == ["overshoot"]


def test_as_many_as_the_max_one_after_the_other_are_none() -> None:
    story = Story(q0=1)
    for number in range(5):
        story.starts(number + 1, str(number))
        story.ends(number + 1.5, str(number))
    assert story.found() == []


def test_a_lowered_max_drains_but_nothing_starts() -> None:
    story = Story(q0=3)
    for number in range(3):
        story.starts(1.0, str(number))
    story.change(2, 2.1, "1")
    story.ends(4.0, "0")
    assert story.found() == []
    story.starts(4.1, "4")
    assert story.found() == ["overshoot"]


def test_a_lowered_max_may_be_a_notice_away_but_no_longer() -> None:
    story = Story(q0=2)
    story.starts(1.0, "1")
    story.change(2, 2.1, "1")
    story.starts(2.1 + WINDOW - 0.1, "2")
    assert story.found() == []
    story.ends(2.1 + WINDOW, "2")
    story.starts(2.1 + WINDOW + 0.1, "3")
    assert story.found() == ["overshoot"]


def test_a_fault_keeps_a_change_away_until_it_is_over() -> None:
    story = Story(q0=2)
    story.starts(1.0, "1")
    story.change(2, 2.1, "1")
    story.fault(2.5, 6.0, "freeze")
    story.starts(6.1, "2")
    assert story.found() == []
    story.ends(6.2, "2")
    story.starts(9.0, "3")
    assert story.found() == ["overshoot"]


def test_a_change_that_was_not_confirmed_may_hold_or_not() -> None:
    story = Story(q0=2)
    story.change(2, 2.1, "3", phase="failed")
    for number in range(3):
        story.starts(4.0, str(number))
    assert story.found() == []
    story.starts(4.1, "4")
    assert story.found() == ["overshoot"]


@pytest.mark.parametrize("name", ["flushall", "kill-snapshot"])
def test_a_loss_of_data_is_no_excuse(name: str) -> None:
    story = Story(q0=1)
    story.starts(1.0, "1")
    story.fault(2.0, 2.5, name)
    story.starts(6.0, "2", "b")
    assert story.found() == ["overshoot"]


def test_what_was_set_at_run_time_survives_a_loss_of_data_where_a_worker_does() -> None:
    story = Story(q0=3)
    story.change(1, 1.1, "1")
    story.fault(5.0, 5.0, "flushall")
    story.starts(12.0, "1")
    story.starts(12.1, "2")
    assert story.found() == ["overshoot"]


def test_what_was_set_at_run_time_may_be_lost_where_no_worker_survives() -> None:
    story = Story(q0=3)
    story.change(1, 1.1, "1")
    story.fault(5.0, 5.0, "flushall")
    for name in ("a", "b"):
        story.at(5.2, "worker", w=name, phase="dead")
    story.at(6.0, "worker", w="c", phase="start", slots=3, pool="prefork")
    story.starts(12.0, "1", "c")
    story.starts(12.1, "2", "c")
    assert story.found() == []


def test_a_task_ends_when_its_worker_is_killed() -> None:
    story = Story(q0=1)
    story.starts(1.0, "1")
    story.at(1.5, "worker", w="a", phase="dead")
    story.starts(4.0, "2", "b")
    assert story.found() == []


def test_a_task_ends_when_its_child_is_killed_and_those_of_other_children_go_on() -> None:
    story = Story(q0=2)
    story.starts(1.0, "1", pid=11)
    story.starts(1.0, "2", pid=12)
    story.at(1.5, "child", w="a", pid=11)
    story.starts(1.6, "3", "b")
    assert story.found() == []
    story.starts(1.7, "4", "b")
    assert story.found() == ["overshoot"]


def test_what_a_child_was_handed_that_was_killed_while_idle_begins_late_in_another_but_only_one_does() -> None:
    story = Story(q0=2)
    story.starts(1.0, "1", "b")
    story.at(2.0, "child", w="a", pid=11)
    story.change(2.1, 2.2, "0")
    story.starts(2.2 + WINDOW + 1, "2", "a")
    assert story.found() == []
    story.starts(2.2 + WINDOW + 1.1, "3", "a")
    assert story.found() == ["overshoot"]


def test_a_child_killed_while_idle_explains_no_more_than_a_max_that_held_since() -> None:
    story = Story(q0=1)
    story.starts(1.0, "1", "b")
    story.at(2.0, "child", w="a", pid=11)
    story.starts(3.0, "2", "a")
    assert story.found() == ["overshoot"]


def test_what_a_pool_was_handed_before_its_loop_waited_for_a_frozen_broker_begins_as_that_goes_on() -> None:
    story = Story(q0=3)
    story.fault(1.0, 0, "broker-freeze")
    story.change(1.5, 1.6, "1")
    story.at(4.0, "fault", name="broker-freeze", phase="end", number=1, w=("a", "b"), seconds=3)
    for number in range(3):
        story.starts(4.02, str(number), "ab"[number % 2])
    assert story.found() == []
    story.starts(4.03, "4", "a")
    assert story.found() == ["overshoot"], "so many were never allowed"


def test_a_frozen_broker_explains_no_start_that_comes_later() -> None:
    story = Story(q0=3)
    story.fault(1.0, 0, "broker-freeze")
    story.change(1.5, 1.6, "1")
    story.at(4.0, "fault", name="broker-freeze", phase="end", number=1, w=("a", "b"), seconds=3)
    story.starts(5.1, "1", "a")
    story.starts(5.2, "2", "b")
    assert story.found() == ["overshoot"]


def test_tasks_of_a_worker_stopped_for_longer_than_its_lease_are_excused_until_it_has_restated() -> None:
    story = Story(q0=1)
    story.starts(1.0, "1", "a")
    story.fault(2.0, 0, "stop-long", "a")
    story.starts(2.0 + LEASE, "2", "b")
    assert story.found() == []
    story.ends(7.0, "2")
    story.at(8.0, "fault", name="stop-long", phase="end", number=1, w=("a",), seconds=6)
    story.starts(12.0, "3", "b")
    assert story.found() == ["overshoot"]


def test_a_stop_shorter_than_the_lease_excuses_nothing() -> None:
    story = Story(q0=1)
    story.starts(1.0, "1", "a")
    story.fault(2.0, 3.0, "stop-short", "a")
    story.starts(3.1, "2", "b")
    assert story.found() == ["overshoot"]


# -- Promise 2 ---------------------------------------------------------------------------------------------------------


def ticks(story: Story, begin: float, end: float) -> None:
    while begin < end:
        story.checker.tick(begin)
        begin += 0.25


def test_a_task_that_could_start_and_does_not_is_stuck() -> None:
    story = Story(q0=1)
    story.sent(10.0, "1")
    ticks(story, 10.0, 10.0 + STUCK - 0.5)
    assert story.found() == []
    ticks(story, 10.0 + STUCK - 0.5, 10.0 + STUCK + 1)
    assert story.found() == ["stuck"]


def test_a_task_whose_limit_is_full_all_the_time_is_not() -> None:
    story = Story(q0=1)
    story.starts(10.0, "1")
    story.sent(10.0, "2")
    ticks(story, 10.0, 10.0 + 3 * STUCK)
    assert story.found() == []


def test_a_task_whose_worker_has_no_slot_is_not() -> None:
    story = Story(q0=9)
    for number in range(3):
        story.starts(10.0, str(number), "a")
    story.sent(10.0, "4")
    story.at(10.1, "got", id="4", w="a")
    ticks(story, 10.0, 10.0 + 3 * STUCK)
    assert story.found() == []


def test_a_task_that_another_worker_could_run_is() -> None:
    story = Story(q0=9)
    for number in range(3):
        story.starts(10.0, str(number), "a")
    story.sent(10.0, "4")
    ticks(story, 10.0, 10.0 + 3 * STUCK)
    assert story.found() == ["stuck"]


# -- Promise 3 ---------------------------------------------------------------------------------------------------------


def test_a_holder_that_runs_nothing_is_a_leak() -> None:
    story = Story(q0=2)
    story.starts(10.0, "1")
    story.keys(10.0, 20.0, q0=1)
    assert story.found() == []
    story.keys(20.0, 26.0, q0=2)
    assert story.found() == ["leak"]


def test_a_task_that_redis_does_not_count_is_found() -> None:
    story = Story(q0=2)
    story.starts(10.0, "1")
    story.keys(10.0, 16.0)
    assert story.found() == ["uncounted"]


def test_what_is_left_at_the_end_is_a_leak() -> None:
    story = Story(q0=2)
    story.keys(10.0, 10.1, left=1)
    story.checker.promise3.finish(sessions=2)
    assert story.found() == ["leak"]
    story = Story(q0=2)
    story.keys(10.0, 10.1, sessions=3)
    story.checker.promise3.finish(sessions=2)
    assert story.found() == ["leak"]


# -- Promise 7 ---------------------------------------------------------------------------------------------------------


def test_a_task_that_never_ran_is_lost() -> None:
    story = Story()
    story.sent(1.0, "1")
    assert fates(story.checker).unexplained[0].startswith("lost: chaos.plain 1 ")


def test_a_task_that_was_killed_with_its_worker_is_lost_as_in_plain_celery() -> None:
    story = Story()
    story.starts(1.0, "1")
    story.at(2.0, "worker", w="a", phase="dead")
    found = fates(story.checker)
    assert found.lost == {"kill": 1}
    assert found.unexplained == []


def test_one_that_is_acknowledged_late_must_come_again() -> None:
    story = Story()
    story.sent(1.0, "1", late=True)
    story.starts(1.0, "1")
    story.at(2.0, "worker", w="a", phase="dead")
    assert fates(story.checker).unexplained[0].startswith("lost:")
    story.starts(3.0, "1", "b", run="again")
    story.ends(4.0, "again")
    found = fates(story.checker)
    assert found.unexplained == []
    assert found.doubled == {"kill": 1}


def test_a_task_that_runs_twice_with_no_fault_is_doubled() -> None:
    story = Story()
    story.starts(1.0, "1")
    story.ends(2.0, "1")
    story.starts(3.0, "1", "b", run="again")
    story.ends(4.0, "again")
    assert fates(story.checker).unexplained[0].startswith("doubled:")


def test_one_that_runs_twice_after_the_broker_was_cut_is_plain_celerys() -> None:
    story = Story()
    story.starts(1.0, "1")
    story.fault(1.5, 2.0, "broker-cut")
    story.ends(2.5, "1")
    story.starts(3.0, "1", "b", run="again")
    story.ends(4.0, "again")
    assert fates(story.checker).doubled == {"broker-cut": 1}


def test_a_message_that_was_given_back_may_be_lost_on_its_way_as_one_that_nobody_has_had() -> None:
    for fault, when, lost in (
        ("broker-cut", 3.0, "broker-cut"), ("kill", 3.0, "?"), ("kill", 1.5 + VISIBILITY, "kill"),
    ):  # fmt: skip
        story = Story("redis")
        story.sent(1.0, "1", late=True)
        story.at(1.1, "got", id="1", w="a")
        story.fault(when, when + 0.1, fault)
        assert fates(story.checker).lost == {lost: 1}


def test_a_retry_that_was_published_while_the_broker_was_cut_is_lost_as_in_plain_celery_and_another_is_not() -> None:
    for cut, lost in ((1.95, {"broker-cut": 1}), (60.0, {"?": 1})):
        story = Story()
        story.starts(1.0, "1")
        story.at(2.0, "end", run="1", again=True)
        story.fault(cut, cut + 0.5, "broker-cut")
        assert fates(story.checker).lost == lost


def test_a_retry_whose_child_was_killed_before_it_was_published_is_lost_as_in_plain_celery_and_another_is_not() -> None:
    for where, when, lost in (("a", 2.001, "kill-child"), ("b", 2.001, "?"), ("a", 4.0, "?")):
        story = Story()
        story.starts(1.0, "1")
        story.at(2.0, "end", run="1", again=True)
        story.fault(when, when + 0.01, "kill-child", where)
        assert fates(story.checker).lost == {lost: 1}


def test_a_message_in_hand_for_longer_than_the_visibility_timeout_comes_again_with_redis_as_the_broker() -> None:
    story = Story("redis")
    story.starts(1.0, "1")
    story.ends(2.0, "1")
    story.starts(2.0 + VISIBILITY, "1", "b", run="again")
    assert fates(story.checker).doubled == {"visibility": 1}


def test_bounds_are_in_proportion() -> None:
    assert DRAIN > VISIBILITY + STUCK + LEASE
