"""The coordination Redis is ill, in every way: nothing but tasks under limits waits for it, and all heals by itself."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.failures.ills import ILLS, SECRET, Ill
from tests.failures.kit import (
    ApartCluster,
    Coordination,
    complaints,
    ended,
    joined,
    most_in_a_row,
    started,
    time_of,
    warnings,
)
from tests.failures.report import HEARTBEAT
from tests.kit.servers import patience, wait_until

INTERVAL, TIMEOUT = (float(str(value)) for value in HEARTBEAT.values())

LIMITS = {"emails": 2, "pool:db": 1}


@pytest.mark.parametrize("ill", ILLS.values(), ids=ILLS)
def test_only_tasks_under_limits_wait_while_redis_is_ill_and_all_heals(apart, coordination, make_patient, took, ill):
    patient = make_patient(ill)
    cluster = apart(url=patient.url, global_concurrency_limits=LIMITS)
    (well,) = cluster.start("w1", queues="emails,celery")
    app = cluster.app()
    cluster.send("held", 1)
    cluster.send("nap", 1, 4 * INTERVAL, first=1)  # longer than a permit may pass from task to task without Redis
    cluster.send("nap", 1, 0.05, first=2)
    wait_until(lambda: started(cluster, 0, 1) and cluster.permits() == 3, what="two run, one waits")

    ill.breaks(patient)
    fell_ill, known = time.monotonic(), joined(well)
    cluster.conf["global_concurrency_on_redis_error"] = "run"
    late_comer = cluster.spawn("w2", pool="threads", queues="other")
    cluster.send("late", 5, 0.01, queue="celery", first=10)
    wait_until(lambda: ended(cluster, *range(10, 15)), what="tasks without limits run")
    assert app.control.ping([well.node], timeout=20.0, limit=1), "the event loop is free"
    wait_until(lambda: complaints(well), seconds=patience(2 * INTERVAL + 2), what="it notices, by its own bounds")
    clerk = ThreadPoolExecutor(1)
    command = clerk.submit(give_command, cluster)
    wait_until(lambda: ended(cluster, 1), what="one that runs under the limit goes on to its end")
    cluster.send("nap", 3, 0.05, first=3)
    cluster.ready(late_comer)
    cluster.send("pooled", 3, 0.5, queue="other", first=20)
    wait_until(lambda: started(cluster, 20, 21, 22), what='with "run", tasks under limits run')
    cluster.send("late", 5, 0.01, queue="celery", first=15)
    wait_until(lambda: ended(cluster, *range(15, 20)), what="tasks without limits run, still")
    stats = app.control.inspect([well.node, late_comer.node], timeout=20.0, limit=2).stats()
    said = {node.partition("@")[0]: of["global_concurrency"] for node, of in stats.items()}
    assert said["w2"]["runs_without_permit"] == 3
    assert said["w1"]["runs_without_permit"] == 0
    assert not said["w1"]["connected"]
    (answer,) = app.control.broadcast("global_concurrency", destination=[well.node], reply=True, timeout=20.0, limit=1)
    assert "error" in answer[well.node]
    check_command(ill, *command.result())
    clerk.shutdown()
    wait_until(lambda: time.monotonic() - fell_ill > TIMEOUT, what="longer than a lease")
    assert not started(cluster, 2), "nothing starts under the limit"
    assert (joined(well), joined(late_comer)) == (known, 0), "it is one outage to them"

    ill.heals(patient)
    healed = cluster.oracle.now()
    wait_until(lambda: started(cluster, 2), what="the first that waits starts")
    recovery = time_of(cluster, "s", 2) - healed
    took(max(recovery, 0.0))  # where the cure lets waiting calls through before its answer comes
    assert recovery <= patience(INTERVAL + 1)
    wait_until(lambda: ended(cluster, *range(1, 6), *range(10, 23)), what="the others have run to their end")
    cluster.oracle.let_go()
    wait_until(lambda: ended(cluster, 0), what="what has run all the time goes on to its end")
    wait_until(lambda: joined(late_comer), what="the late comer has a session")
    wait_until(lambda: cluster.permits() == 0, what="no permit has leaked")
    assert cluster.oracle.peak("nap", "held") == 2
    for worker in (well, late_comer):
        assert most_in_a_row(worker) <= 1 + ill.lasts, "one line a change, not one a try"
        assert len(warnings(worker)) <= 3, "that Redis has just started, that a session is over, that grants wait"
        assert "Traceback" not in worker.output()
        assert SECRET not in worker.output()
    assert ill.says in complaints(late_comer)[0]
    assert joined(well) > known
    wait_until(lambda: connections(coordination) <= 4, what="two connections of each worker are left, no more")
    app.close()


def connections(redis: Coordination) -> int:
    """How many connections workers have; the operator has one, and this call."""
    with redis.client() as client:
        return len(client.client_list()) - 2


def give_command(cluster: ApartCluster) -> tuple[subprocess.CompletedProcess[str], float]:
    """What a command says that is given at a shell, and after how many seconds."""
    began = time.monotonic()
    result = cluster.celery("control", "set_global_concurrency", "emails", "7")
    return result, time.monotonic() - began


def check_command(ill: Ill, result: subprocess.CompletedProcess[str], seconds: float) -> None:
    """A command given while Redis is ill was refused, in a line, soon."""
    assert seconds < patience(10)
    said = result.stdout + result.stderr
    assert ("it is not known whether" if ill.is_well_for_shells else "nothing was changed") in said
    assert "Traceback" not in said
    assert SECRET not in said
