"""What is known of a worker's pool by its class, before anything runs in it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from celery.concurrency.base import BasePool
from celery.concurrency.prefork import TaskPool as Prefork
from celery.concurrency.solo import TaskPool as Solo
from celery.concurrency.thread import TaskPool as Threads

from celery_gconc.errors import SettingError
from celery_gconc.worker.pool import Pool


class OwnPrefork(Prefork):
    """Derived from one of Celery's."""


class OwnThreads(Threads):
    """Derived from one of Celery's."""


class FromScratch(BasePool):
    """Derived from none of Celery's."""


def pool_of(kind: type, limit: int | None = 3) -> Pool:
    """The pool of a worker with an event loop."""
    return Pool(SimpleNamespace(pool=kind(limit), hub=object(), controller=SimpleNamespace(autoscaler=None)))


@pytest.mark.parametrize(
    ("kind", "name", "of", "has_children", "can_terminate", "starts_when_ended"),
    [
        (Prefork, "prefork", "prefork", True, True, True),
        (OwnPrefork, "OwnPrefork", "prefork", True, True, True),
        (Threads, "threads", "threads", False, False, True),
        (OwnThreads, "OwnThreads", "threads", False, False, True),
        (Solo, "solo", "solo", False, False, False),
        (FromScratch, "FromScratch", "", False, False, False),
    ],
)
def test_a_pool_is_treated_as_the_one_of_celerys_that_it_derives_from(
    kind: type, name: str, of: str, has_children: bool, can_terminate: bool, starts_when_ended: bool
):
    pool = pool_of(kind)
    assert (pool.name, pool.kind) == (name, of)
    assert (pool.has_children, pool.can_terminate) == (has_children, can_terminate)
    assert pool.starts_when_ended == starts_when_ended
    assert pool.ends_on_consumer_thread == has_children


def test_the_size_of_a_pool_without_children_is_its_limit_and_that_of_a_stopped_prefork_pool_nought():
    assert pool_of(FromScratch, 3).size == pool_of(Threads, 3).startable == 3
    assert pool_of(Prefork, 3).size == 0


def test_a_pool_that_says_no_size_is_refused():
    with pytest.raises(SettingError, match="doesn't say how many tasks it runs at once"):
        pool_of(FromScratch, None)
