"""ticket.lua, and what tickets are for: a change that many carry is applied once, in the order of announcement."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from .namespace import Namespace


def test_every_ticket_is_above_all_before_it(namespace: Namespace):
    with ThreadPoolExecutor(4) as threads:
        tickets = list(threads.map(lambda _: namespace.store.ticket(), range(40)))
    assert sorted(tickets) == list(range(1, 41))


def test_ten_workers_that_carry_one_ticket_get_the_same_answer_and_change_it_once(namespace: Namespace):
    namespace.set("app", 1)
    session = namespace.session("a")
    ticket = namespace.store.ticket()
    with ThreadPoolExecutor(10) as threads:
        changes = list(threads.map(lambda n: namespace.store.set("app", 5, by=f"w{n}", ticket=ticket), range(10)))
    assert {str(change) for change in changes} == {"app: was 1, now 5"}
    assert all(change.applied for change in changes)
    assert session.sync().version == session.opened.version + 1


def test_a_ticket_that_comes_again_after_a_later_change_undoes_nothing(namespace: Namespace):
    early, late = namespace.store.ticket(), namespace.store.ticket()
    namespace.store.set("app", 3, by="early", ticket=early)
    namespace.store.set("app", 9, by="late", ticket=late)
    again = namespace.store.set("app", 3, by="early", ticket=early)
    assert not again.applied
    assert again.now.max == 9
    assert namespace.max("app") == 9


def test_a_change_that_comes_after_a_later_one_is_ignored(namespace: Namespace):
    early, late = namespace.store.ticket(), namespace.store.ticket()
    assert namespace.store.set("app", 9, by="late", ticket=late).applied
    for change in (
        namespace.store.set("app", 3, by="early", ticket=early),
        namespace.store.reset("app", by="early", ticket=early),
    ):
        assert not change.applied
        assert change.now.max == 9
    assert namespace.max("app") == 9


def test_a_late_change_of_another_limit_or_kind_is_applied(namespace: Namespace):
    early, late = namespace.store.ticket(), namespace.store.ticket()
    namespace.store.set("app", 9, by="late", ticket=late)
    assert namespace.store.set("queue:q", 3, by="early", ticket=early).applied
    assert namespace.store.pause("app", True, by="early", ticket=early).applied
    assert namespace.max("app") == 0
    assert namespace.max("queue:q") == 3


def test_a_change_without_a_ticket_is_the_latest(namespace: Namespace):
    ticket = namespace.store.ticket()
    assert namespace.store.set("app", 1, by="a").applied
    assert namespace.store.set("app", 2, by="b").applied
    assert not namespace.store.set("app", 3, by="c", ticket=ticket).applied
    assert namespace.max("app") == 2


def test_a_change_that_carries_a_ticket_from_before_a_loss_of_data_does_not_shut_out_later_ones(namespace: Namespace):
    for _ in range(5):
        ticket = namespace.store.ticket()
    namespace.raw.flushall()
    assert namespace.store.set("app", 1, by="announced before", ticket=ticket).applied
    assert namespace.store.set("app", 2, by="after").applied
    assert namespace.max("app") == 2


def test_a_change_is_remembered_for_an_hour(namespace: Namespace):
    changed, changes = namespace.keys.key("changed"), namespace.keys.key("changes")
    namespace.set("app", 1)
    for age, is_kept in ((3500, True), (3700, False)):
        (field,) = [name for name in namespace.raw.hkeys(changes) if name.startswith(b"app")]
        namespace.raw.zadd(changed, {field: namespace.raw.time()[0] * 1000 - age * 1000})
        namespace.set(f"queue:{age}", 1)
        assert bool(namespace.raw.hexists(changes, field)) is is_kept
        assert (namespace.raw.zscore(changed, field) is not None) is is_kept
