"""``celery gconc holders, waiting``: which tasks run under a limit, and which stand in its line."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from celery_gconc import Operations
from celery_gconc.protocol.status import as_json
from tests.cli.conftest import Gconc
from tests.kit.servers import wait_until
from tests.kit.workers import Cluster

NAP, POOLED = "tests.cluster.app.nap", "tests.cluster.app.pooled"


def send(cluster: Cluster, ids: list[str], task: str = NAP) -> None:
    """Send long tasks with these ids, one after the other."""
    app = cluster.app()
    for number, task_id in enumerate(ids):
        app.send_task(task, (number, 60.0), queue="emails", task_id=task_id)
    app.close()


def test_tasks_that_run_and_wait_are_shown_with_id_worker_and_position(
    gconc: Gconc, operations: Operations, make_cluster: Callable[..., Cluster]
):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 2}, global_concurrency_heartbeat_interval=0.5)
    cluster.start("one", pool="threads", concurrency=4)
    send(cluster, ["a", "b"])
    wait_until(lambda: cluster.oracle.count("s") == 2, what="two run")
    send(cluster, ["c", "d", "e"])
    # A heartbeat tells which task has which permit: until then an earlier task may stand for a later one.
    wait_until(lambda: {one.task_id for one in operations.holders("emails")} == {"a", "b"}, what="both are told")
    wait_until(lambda: [one.task_id for one in operations.waiting("emails")][:2] == ["c", "d"], what="and who waits")

    done = gconc("holders", "emails")
    heading, *rows = done.lines
    assert heading == ["FOR", "TASK", "ID", "WORKER"]
    assert sorted(row[-2] for row in rows) == ["a", "b"]
    assert {(row[-3], row[-1]) for row in rows} == {(NAP, "one@test")}
    assert (done.exit_code, done.stderr) == (0, "")

    done = gconc("waiting", "emails")
    heading, *rows = done.lines
    assert heading == ["POSITION", "FOR", "TASK", "ID", "WORKER"]
    told = [(row[0], row[-2]) for row in rows]
    assert told == [("1", "c"), ("2", "d"), ("3", "e")][: len(told)]
    assert done.exit_code == 0

    assert [one["task_id"] for one in gconc("waiting", "emails", "--json").json][:2] == ["c", "d"]
    held = gconc("holders", "emails", "--json").json
    assert held == as_json(operations.holders("emails"))
    assert {one["node"] for one in held} == {"one@test"}

    one = gconc("holders", "emails", "--count", "1")
    assert len(one.lines) == 2
    assert one.stderr == "queue:emails: showing 1 of 2; use --count to see more\n"
    first = gconc("waiting", "emails", "-n", "1")
    assert [row[-2] for row in first.lines[1:]] == ["c"]
    assert first.stderr.startswith("queue:emails: showing 1 of ")


def test_the_other_limits_of_a_task_have_a_column(
    gconc: Gconc, operations: Operations, make_cluster: Callable[..., Cluster]
):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 5, "pool:db": 1})
    cluster.start("one", pool="threads", concurrency=4)
    send(cluster, ["a", "b"], POOLED)
    wait_until(lambda: operations.waiting("pool:db"), what="one waits")
    wait_until(lambda: operations.holders("pool:db"), what="one runs")
    heading, row = gconc("holders", "pool:db").lines
    assert heading == ["FOR", "TASK", "ID", "WORKER", "ALSO", "UNDER"]
    assert row[-1] == "queue:emails"
    assert gconc("waiting", "pool:db").lines[1][-1] == "queue:emails"
    assert gconc("waiting", "emails").lines == []


def test_on_a_terminal_of_80_columns_an_id_is_on_one_line_so_that_it_can_be_copied(
    gconc: Gconc, operations: Operations, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
):
    cluster = make_cluster(global_concurrency_limits={"queue:emails": 5, "pool:db": 1})
    cluster.start("a-worker-with-a-long-name", pool="threads", concurrency=4)
    ids = [str(uuid.uuid4()) for _ in range(2)]
    send(cluster, ids, POOLED)
    wait_until(lambda: operations.waiting("pool:db") and operations.holders("pool:db"), what="one runs, one waits")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("holders", "waiting"):
        lines = gconc(name, "pool:db").stdout.splitlines()
        assert max(len(line) for line in lines) <= 80
        assert any(task_id in line for line in lines for task_id in ids), lines
        assert len(lines) > 2  # the others are folded


@pytest.mark.parametrize(("name", "what"), [("holders", "are running"), ("waiting", "are in line")])
def test_with_no_task_stdout_is_empty_and_stderr_says_so(gconc: Gconc, name: str, what: str):
    done = gconc(name, "emails")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"queue:emails: no tasks {what}\n"
    assert gconc(name, "emails", "--json").json == []


@pytest.mark.parametrize("name", ["holders", "waiting"])
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "Missing argument 'LIMIT'"),
        (("nope:x",), "unknown scope 'nope'"),
        (("emails", "--count", "0"), "0 is not in the range"),
        (("emails", "--count", "all"), "'all' is not a valid integer"),
    ],
)
def test_bad_input_is_a_usage_error(gconc: Gconc, name: str, arguments: tuple[str, ...], why: str):
    done = gconc(name, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert why in done.stderr
