"""Workers that are started in a special way: autoscale, recycled children, -B, a state database, the same name."""

from __future__ import annotations

import pytest

from tests.kit.keys import key
from tests.kit.servers import wait_until
from tests.lifecycle.bench import PATIENCE
from tests.lifecycle.matrix import FIXED_SIZE, NO_BEAT, NO_CHILDREN


def size_of(bench) -> int:
    return bench.stats()["autoscaler"]["current"]


@pytest.mark.feature("autoscale", "parked", not_on=FIXED_SIZE)
def test_parked_tasks_do_not_make_the_pool_grow(own_bench):
    bench = own_bench(options=("--autoscale=4,1",))
    bench.start()
    sent = [bench.send("nap", number) for number in (1, 2, 3)]
    bench.parked(3)
    seconds = 0.0 if bench.pool == "prefork" else 0.4  # each message is an occasion to grow, or else each second
    for number in (11, 12, 13):
        assert bench.result(bench.send("nap", number, seconds, queue=bench.free)) == number
        # The child stores the result: the parent may hear of its end later than we do, and take it for running.
        wait_until(lambda: bench.stats()["global_concurrency"]["running"] == 0, PATIENCE, "the parent knows")
    assert size_of(bench) == 1
    bench.limit(1)
    assert [bench.result(result) for result in sent] == [1, 2, 3]


@pytest.mark.feature("autoscale", "running", not_on=FIXED_SIZE)
def test_tasks_that_only_want_for_a_slot_make_the_pool_grow(own_bench):
    bench = own_bench(options=("--autoscale=4,1",))
    bench.limit(3)
    bench.start()
    sent = [bench.send("held", number) for number in (1, 2, 3)]
    for number in (1, 2, 3):
        bench.started(number)
    bench.running(3)
    bench.let_go(1, 2, 3)
    assert sorted(bench.result(result) for result in sent) == [1, 2, 3]


@pytest.mark.feature("max_tasks_per_child", "parked", not_on=NO_CHILDREN, brokers_are_alike=True)
def test_tasks_that_were_parked_run_in_children_that_are_replaced_after_each(own_bench):
    bench = own_bench(options=("--max-tasks-per-child=1",))
    bench.start()
    sent = [bench.send("pid_of", number) for number in (1, 2, 3)]
    bench.parked(3)
    bench.limit(1)
    assert len({bench.result(result) for result in sent}) == 3


@pytest.mark.feature("max_tasks_per_child", "running", not_on=NO_CHILDREN, brokers_are_alike=True)
def test_a_child_that_is_replaced_leaves_its_neighbours_permit_alone(own_bench):
    bench = own_bench(options=("--max-tasks-per-child=1",))
    bench.limit(2)
    bench.start()
    sent = [bench.send("held", 1), bench.send("pid_of", 2)]
    bench.started(1)
    bench.result(sent[1])
    bench.running(1)
    bench.passes(3)
    bench.running(1)
    bench.let_go(1)
    assert bench.result(sent[0]) == 1


@pytest.mark.feature("max_memory_per_child", "parked", not_on=NO_CHILDREN, brokers_are_alike=True)
def test_tasks_parked_behind_one_that_takes_too_much_memory_run_in_the_next_child(own_bench):
    bench = own_bench(options=("--max-memory-per-child=200000",), concurrency=1)
    bench.start()
    sent = [bench.send("pid_of", 1, 250), bench.send("pid_of", 2), bench.send("pid_of", 3)]
    bench.parked(3)
    bench.limit(1)
    first, second, third = (bench.result(result) for result in sent)
    assert first != second == third


@pytest.mark.feature("max_memory_per_child", "running", not_on=NO_CHILDREN, brokers_are_alike=True)
def test_a_child_that_takes_too_much_memory_gives_its_permit_back_and_leaves_its_neighbours_alone(own_bench):
    bench = own_bench(options=("--max-memory-per-child=200000",))
    bench.limit(2)
    bench.start()
    sent = [bench.send("held", 1), bench.send("pid_of", 2, 250)]
    bench.started(1)
    first = bench.result(sent[1])
    bench.running(1)
    assert bench.result(bench.send("pid_of", 3)) != first
    bench.running(1)
    bench.let_go(1)
    assert bench.result(sent[0]) == 1


@pytest.mark.feature("-B", "parked", not_on=NO_BEAT)
def test_what_an_embedded_beat_sends_parks_while_the_limit_is_full_and_then_runs(own_bench):
    bench = own_bench()
    bench.options = ("-B", "-s", str(bench.cluster.directory / "schedule"))
    bench.cluster.more_env["TEST_TICKS"] = bench.line
    bench.start()
    wait_until(lambda: len(bench.reserved()) >= 2 and bench.waiters(), PATIENCE, "two ticks are parked")
    assert bench.starts(7) == []
    bench.limit(1)
    bench.started(7, times=4)
    assert bench.oracle.peak(bench.line) == 1
    assert bench.worker.stop() == 0
    assert bench.redis.zcard(key("holders")) == 0
    bench.worker = None


@pytest.mark.feature("worker_state_db", "parked", pools_are_alike=True)
def test_a_task_that_was_revoked_before_the_worker_started_again_never_runs_and_one_that_was_parked_does(own_bench):
    bench = own_bench()
    bench.options = ("--statedb", str(bench.cluster.directory / "state"))
    bench.start()
    parked = bench.send("nap", 1)
    bench.parked(1)
    bench.control("revoke", task_id="revoked-before-it-was-sent")
    assert bench.worker.stop() == 0
    revoked = bench.send("nap", 2, task_id="revoked-before-it-was-sent")
    bench.start()
    bench.state(revoked, "REVOKED")
    bench.parked(1)
    bench.limit(1)
    assert bench.result(parked) == 1
    assert bench.order() == [1]


@pytest.mark.feature("the same node name again", "running", pools_are_alike=True)
def test_a_worker_that_is_killed_and_started_again_by_the_same_name_is_a_new_session(own_bench):
    bench = own_bench(global_concurrency_heartbeat_interval=0.5, global_concurrency_heartbeat_timeout=3.0)
    bench.limit(1)
    bench.start("same")
    bench.send("held", 1)
    bench.started(1)
    bench.running(1)
    (first,) = bench.redis.zrange(key("sessions"), 0, -1)
    lost = {event.pid for event in bench.oracle.events()}
    bench.worker.kill()
    bench.start("same")
    sessions = bench.redis.zrange(key("sessions"), 0, -1)
    assert len(sessions) == 2
    assert first in sessions
    sent = bench.send("nap", 2)
    bench.parked(1)
    assert bench.permits() == 1, "the dead worker's permit holds until its lease ends"
    bench.let_go(1)  # the broker may deliver it again: killed, the worker may not have written the acknowledgement yet
    assert bench.result(sent) == 2
    assert bench.oracle.peak(bench.line, lost=frozenset(lost)) == 1
    assert first not in bench.redis.zrange(key("sessions"), 0, -1)
    if bench.column.broker == "redis":
        bench.redis.delete("unacked", "unacked_index")


@pytest.mark.feature("the same node name again", "parked", pools_are_alike=True)
def test_what_a_worker_had_parked_waits_for_the_next_one_of_its_name(own_bench):
    bench = own_bench()
    bench.start("same")
    sent = [bench.send("nap", number) for number in (1, 2, 3)]
    bench.parked(3)
    assert bench.worker.stop() == 0
    assert bench.redis.zcard(key("sessions")) == 0
    assert bench.redis.zcard(key("waiters")) == 0
    bench.start("same")
    bench.parked(3)
    bench.limit(1)
    assert [bench.result(result) for result in sent] == [1, 2, 3]
    assert sorted(bench.order()) == [1, 2, 3]
