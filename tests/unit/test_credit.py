"""When a consumer's own prefetch count is used up by what waits here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kombu.common import QoS

from celery_gconc.worker.intake.credit import Credit
from celery_gconc.worker.run import Run


@pytest.fixture
def qos() -> QoS:
    """A prefetch count of four."""
    return QoS(lambda prefetch_count: None, 4)


@pytest.fixture
def credit(qos: QoS) -> Credit:
    """Where each consumer has its own."""
    credit = Credit()
    credit.attach(qos, is_fixed=True)
    return credit


def delivered(tag: str) -> Run:
    """A request whose message came by this consumer."""
    message = SimpleNamespace(delivery_info={"consumer_tag": tag})
    return Run(SimpleNamespace(id="x", message=message), (), "emails")


def test_a_consumer_whose_messages_all_wait_here_is_used_up_until_one_of_them_starts(credit: Credit) -> None:
    runs = [delivered("a") for _ in range(4)]
    for run in runs[:3]:
        credit.lend(run)
    assert not credit.is_used_up("a")
    assert credit.is_used_up("a", others=1), "one more runs, and is acknowledged late"
    credit.lend(runs[3])
    assert credit.is_used_up("a")
    assert not credit.is_used_up("b", others=4), "nothing of it waits here"
    credit.take_back(runs[0])
    assert not credit.is_used_up("a")


def test_what_is_added_for_tasks_with_an_eta_comes_too_late_for_a_consumer(credit: Credit, qos: QoS) -> None:
    for _ in range(4):
        credit.lend(delivered("a"))
    qos.increment_eventually(3)
    assert credit.is_used_up("a")


def test_a_pool_that_has_shrunk_lessens_what_a_new_consumer_delivers(credit: Credit, qos: QoS) -> None:
    for _ in range(3):
        credit.lend(delivered("b"))
    assert not credit.is_used_up("b")
    qos.decrement_eventually(1)
    assert credit.is_used_up("b")


def test_a_prefetch_count_without_bound_is_never_used_up(qos: QoS) -> None:
    credit = Credit()
    credit.attach(QoS(lambda prefetch_count: None, 0), is_fixed=True)
    for _ in range(9):
        credit.lend(delivered("a"))
    assert not credit.is_used_up("a", others=9)


def test_where_the_channel_has_the_count_it_grows_by_what_waits_here() -> None:
    sent: list[int] = []
    qos = QoS(lambda prefetch_count: sent.append(prefetch_count), 4)  # noqa: PLW0108 - by its name
    credit = Credit()
    credit.attach(qos, is_fixed=False)
    for _ in range(2):
        credit.lend(delivered("a"))
        qos.update()
    assert sent == [5, 6]
    assert not credit.is_used_up("a", others=9)
