"""celery-gconc in a pytest-celery set-up: a limit over several nodes, and nodes that are killed and come back."""

from __future__ import annotations

from celery import Celery
from pytest_celery import CeleryTestSetup, CeleryTestWorker

from tests.kit.oracle import Oracle
from tests.kit.servers import wait_until


def send(app: Celery, count: int, seconds: float, *, first: int = 0) -> None:
    """Send *count* numbered naps."""
    for number in range(first, first + count):
        app.send_task("tests.nodes.tasks.nap", (number, seconds), queue="celery")


def done(oracle: Oracle, count: int) -> None:
    wait_until(lambda: oracle.count("e") >= count, seconds=40, what=f"{count} tasks have ended")


def only(setup: CeleryTestSetup, *workers: CeleryTestWorker) -> None:
    """Let only these nodes take tasks. Celery answers such a command before it is carried out, so wait for that."""
    for worker in setup.worker_cluster:
        ask = setup.app.control.add_consumer if worker in workers else setup.app.control.cancel_consumer
        # With Redis, what is asked before the worker has subscribed is lost.
        wait_until(
            lambda ask=ask, worker=worker: ask(
                "celery", destination=[worker.hostname()], reply=True, timeout=2, limit=1
            ),
            what=f"{worker.hostname()} answers",
        )
        wait_until(
            lambda worker=worker: bool(queues_of(setup.app, worker)) == (worker in workers),
            what=f"{worker.hostname()} consumes as told",
        )


def queues_of(app: Celery, worker: CeleryTestWorker) -> list[dict]:
    """The queues that a node consumes, as it says."""
    found = app.control.inspect(destination=[worker.hostname()], timeout=10).active_queues()
    return (found or {}).get(worker.hostname(), [{}])


def test_a_limit_holds_over_three_nodes_and_a_killed_one_gives_its_permits_back_and_comes_back(celery_setup, oracle):
    assert len(celery_setup.worker_cluster) == 3
    assert celery_setup.ready(ping=True, control=True, docker=True)
    answers = celery_setup.app.control.ping(timeout=20, limit=3)
    assert {name for answer in answers for name in answer} == {
        worker.hostname() for worker in celery_setup.worker_cluster
    }
    send(celery_setup.app, 30, 0.05)
    done(oracle, 30)
    assert oracle.peak() == 2
    assert oracle.count("s") == 30, "each ran once"

    oracle.client.flushdb()
    lost, *others = celery_setup.worker_cluster
    only(celery_setup, lost)
    send(celery_setup.app, 2, 300)
    wait_until(lambda: oracle.count("s") == 2, what="both permits are in use")
    lost.kill()
    assert lost.container.status == "exited"

    pids = frozenset(event.pid for event in oracle.events())
    for worker in others:
        celery_setup.app.control.add_consumer("celery", destination=[worker.hostname()], reply=True, timeout=10)
    send(celery_setup.app, 10, 0.2, first=100)
    done(oracle, 10)
    assert oracle.peak(lost=pids) == 2

    lost.restart()
    assert lost.container.status == "running"
    before = {event.pid for event in oracle.events()}
    only(celery_setup, lost)
    send(celery_setup.app, 4, 0.05, first=200)
    done(oracle, 14)
    ran = {event.pid for event in oracle.events() if event.number >= 200}
    assert not ran & before, "the new life of the node ran them"
    assert oracle.peak(lost=pids) == 2
