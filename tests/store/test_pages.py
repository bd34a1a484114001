"""What people ask comes by page: put together they say what there is, and none does more than its share of work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from celery_gconc.limits.claims import Claim, claims_on
from celery_gconc.protocol.configurations import digest_of
from celery_gconc.protocol.messages import Running, running_text
from celery_gconc.protocol.scripts import LOOKS
from celery_gconc.protocol.session_store import SessionStore
from celery_gconc.protocol.store import Store
from celery_gconc.worker.session.counts import Counters

from .namespace import US, Ask, Namespace, Session, TimedNamespace, give_clock

#: So much work makes pages of two.
LITTLE = 20

#: How many sessions and limits there are.
MANY = 25


@pytest.fixture
def small(redis_url: str) -> Iterator[TimedNamespace]:
    """A namespace whose pages are small."""
    namespace = TimedNamespace(redis_url, work=LITTLE)
    yield namespace
    namespace.close()


@pytest.fixture
def large(small: TimedNamespace, redis_url: str) -> Iterator[Store]:
    """A store of the same namespace whose pages are as large as ever."""
    store = give_clock(SessionStore(redis_url, "gconc"))
    yield store
    store.close()


def fill(namespace: Namespace, many: int = MANY) -> list[Session]:
    """So many sessions, each with a task that runs, an idle unit and two that wait; as many limits."""
    namespace.set("app", 2 * many)
    namespace.set("pool:w", 0)
    namespace.set("pool:x", None)
    config = {f"queue:q{number}": 3 for number in range(many)}
    made = [namespace.session(f"s{number:03}", slots=50, config=config if number < 3 else {}) for number in range(many)]
    namespace.reopen()
    for session in made:
        session.sync()
    for number, session in enumerate(made):
        session.ask("app")
        session.ask("app")
        running = [Running(claims_on(("app",)), f"id-{session.name}", "proj.task", float(number))]
        session.state(idle={"app": 1}, running=running_text(running))
    for session in [*made, *made]:
        session.ask("pool:w", "app")
    for number, session in enumerate(made):
        counters = Counters()
        counters.released(("app", f"queue:q{number}"), 999.0, 0.5, 1.0)
        with counters.collect(1000.0, {"pool:w": number}) as record:
            assert record is not None
            namespace.store.record(session.name, record)
    return made


def lasting(values: Any) -> list[Any]:
    """What of these values doesn't change as time goes by."""
    fleeting = ("lease", "waited", "seconds", "longest_wait")
    return [dataclasses.replace(one, **{name: 0 for name in fleeting if hasattr(one, name)}) for one in values]


ASKED: dict[str, Callable[[Store], Any]] = {
    "limits": lambda store: lasting(store.status()),
    "sessions": lambda store: lasting(store.status("app").sessions),
    "names": lambda store: store.limit_names(),
    "holders": lambda store: lasting(store.holders("app", 1000)),
    "the first holders": lambda store: lasting(store.holders("app", 5)),
    "waiting": lambda store: lasting(store.waiting("pool:w", 1000)),
    "the first in line": lambda store: lasting(store.waiting("pool:w", 5)),
    "a waiter": lambda store: lasting(store.find("id-3")),
    "a holder": lambda store: lasting(store.find("id-s004")),
    "history": lambda store: store.history("app", 3600),
    "totals": lambda store: store.totals(),
    "audit": lambda store: store.audit(repair=False),
    "repair": lambda store: store.audit(repair=True),
}


@pytest.mark.parametrize("what", ASKED)
def test_pages_put_together_say_what_one_page_says(small: TimedNamespace, large: Store, what: str):
    fill(small)
    told = ASKED[what](large)
    assert told or what in ("audit", "repair")
    assert ASKED[what](small.store) == told


def test_numbers_of_a_limit_are_what_its_sessions_and_requests_add_up_to(small: TimedNamespace):
    made = fill(small)
    status = small.store.status()
    assert (status["app"].running, status["app"].idle) == (MANY, MANY)
    assert (status["pool:w"].waiting, status["pool:w"].parked) == (2 * MANY, sum(range(MANY)))
    assert {session.waiting for session in status.sessions} == {2}
    assert len(small.store.history("app", 3600)) == MANY
    assert len(small.store.totals().limits) == MANY + 1
    made[0].release(*made[0].asked)
    made[1].sync(ended=list(made[1].asked)[:1])
    made[2].release(1)
    small.store.close_session("s003")
    status = small.store.status()
    assert (status["app"].running, status["app"].idle) == (MANY - 1, MANY - 2)
    assert (status["pool:w"].waiting, status["pool:w"].parked) == (2 * MANY - 2 - 1 - 2, sum(range(MANY)) - 3)
    assert [session.waiting for session in status.sessions] == [0, 1, *[2] * (MANY - 3)]
    assert small.store.audit(repair=False) == ()
    for session in made:
        small.store.close_session(session.name)
    assert not small.raw.exists(small.keys.key("sums"), small.keys.key("idle"))


# -- How much a page does --------------------------------------------------------------------------------

#: As it is asked, page by page; each with what its items are called.
SCRIPTS: dict[str, tuple[dict[str, Any], str]] = {
    "names": ({}, ""),
    "sessions": ({}, "sessions"),
    "configured": ({"digest": digest_of({f"queue:q{number}": 3 for number in range(LOOKS)})}, ""),
    "holders": ({"limit": "app"}, "holders"),
    "waiting": ({"limit": "pool:w"}, "waiting"),
    "find": ({"task": "id-nowhere"}, ""),
    "recent": ({"limit": "app", "span": 10**9}, ""),
    "totals": ({}, ""),
    "audit": ({"repair": False}, ""),
}


def pages(store: Store, name: str, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One after the other."""
    after: Any = None
    while True:
        reply = store._run(name, {**asked, "after": after})
        yield reply
        after = reply.get("next")
        if after is None:
            return


def commands(namespace: Namespace) -> int:
    """How many commands Redis has carried out, in scripts or not."""
    return sum(int(told["calls"]) for told in namespace.raw.info("commandstats").values())


def test_no_page_calls_more_commands_than_its_share_of_work(namespace: Namespace):
    name = "hash-max-ziplist-entries"  # the name that every Redis knows: a hash kept as a list is read as a whole
    usual = namespace.raw.config_get(name)[name]
    namespace.raw.config_set(name, 16)
    fill(namespace, LOOKS)
    namespace.raw.config_set(name, usual)
    while namespace.raw.exists(namespace.keys.key("settling"), namespace.keys.key("todo")):
        namespace.call()
    for name, (asked, items) in SCRIPTS.items():
        count, before = 0, commands(namespace)
        for reply in pages(namespace.store, name, asked):
            spent = commands(namespace) - before
            assert spent < 2.5 * LOOKS, f"a page of {name} has looked at too much"
            assert not items or len(reply[items]) <= LOOKS // 8 + 1
            assert not reply.get("findings")
            count += 1
            before = commands(namespace)
        assert count > 1, name


def test_status_of_many_limits_is_of_some_in_each_call(small: TimedNamespace):
    fill(small)
    names = list(small.store.limit_names().limits)
    reply = small.store._run("status", {"limits": names})
    assert [item["limit"] for item in reply["limits"]] == names[:3]


def test_what_many_sessions_are_configured_with_is_read_once_a_part_in_each_call(small: TimedNamespace):
    fill(small)
    config = {f"queue:q{number}": 3 for number in range(MANY)}
    interrupted = Interrupted(small, lambda count: None)
    sessions = small.store._reader.sessions()
    assert [session.configured for session in sessions] == [config] * 3 + [{}] * (MANY - 3)
    assert interrupted.called.count("configured") == 2 + 1, "two parts, and the empty one"


def test_the_values_of_a_configuration_that_goes_between_two_pages_are_told_as_far_as_they_count(
    small: TimedNamespace,
):
    small.session("a", config={f"queue:q{number:03}": 3 for number in range(MANY)})

    def happens(count: int) -> None:
        if count == 2:
            small.store.close_session("a")

    Interrupted(small, happens)
    (session,) = small.store._reader.sessions()
    assert session.configured == {f"queue:q{number:03}": 3 for number in range(LITTLE)}


# -- What changes between two pages ----------------------------------------------------------------------


class Interrupted:
    """Has something happen after each page."""

    def __init__(self, namespace: Namespace, happens: Callable[[int], Any]) -> None:
        self._store, self._happens, self._run = namespace.store, happens, namespace.store._run
        self.count, self.called = 0, []
        namespace.store._reader._run = self._ask

    def _ask(self, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        reply = self._run(name, asked)
        self.count += 1
        self.called.append(name)
        self._happens(self.count)
        return reply


def test_sessions_that_live_from_the_first_page_to_the_last_are_told_once(small: TimedNamespace):
    made = fill(small)

    def happens(count: int) -> None:
        if count == 3:
            small.store.close_session("s000")
            small.store.close_session("s008")
            small.session("r")
            small.session("t")
        for session in made[1:8]:
            session.state()

    names = [session.session for session in small.store._reader.sessions()]
    assert len(names) == MANY
    Interrupted(small, happens)
    told = [session.session for session in small.store._reader.sessions()]
    assert len(told) == len(set(told))
    assert set(names) - {"s000", "s008"} <= set(told)
    assert "r" not in told, "it came before where the pages had got to"


def test_a_request_whose_want_is_served_between_two_pages_is_told_once(small: TimedNamespace):
    fill(small)
    small.set("app", 10 * MANY)

    def happens(count: int) -> None:
        if count in (1, 3):
            small.set("pool:w", count)

    Interrupted(small, happens)
    waiting = small.store.waiting("pool:w", 1000)
    told = [(waiter.session, waiter.task_id) for waiter in waiting]
    assert len(told) == len(set(told))
    assert set(small.line("pool:w")) <= {(name, int(task_id.removeprefix("id-"))) for name, task_id in told}
    assert [waiter.position for waiter in waiting] == list(range(1, len(waiting) + 1))


def shuffle(made: list[Session]) -> Callable[[int], None]:
    """With each page units go from one session to another, some become idle, others wait."""

    def happens(count: int) -> None:
        one, other = made[count % len(made)], made[-1 - count % len(made)]
        if one.holding:
            one.release(next(iter(one.holding)))
        other.ask("app")
        other.ask("app", Claim("pool:w", 2))
        other.state(idle={"app": count % 2})
        if one.asked:
            one.release(next(iter(one.asked)))
        made[count * 5 % len(made)].state(idle={"app": 1})

    return happens


@pytest.mark.parametrize("repair", [False, True])
def test_what_changes_while_an_audit_goes_on_is_no_damage(small: TimedNamespace, repair: bool):
    made = fill(small)
    happens = shuffle(made)
    interrupted = Interrupted(small, happens)
    for _ in range(3):
        assert small.store.audit(repair=repair) == ()
    assert interrupted.count > 60
    assert small.raw.hmget(small.keys.key("meta"), "audit", "audited") == [None, None], "it leaves nothing behind"


def test_two_audits_at_once_find_no_damage_where_there_is_none(small: TimedNamespace):
    made = fill(small)
    happens = shuffle(made)
    other = pages(small.store, "audit", {"repair": False})

    def also(count: int) -> None:
        nonlocal other
        happens(count)
        if count % 3:
            reply = next(other, None)
            if reply is None:
                other = pages(small.store, "audit", {"repair": False})
            else:
                assert not reply["findings"]

    Interrupted(small, also)
    for _ in range(3):
        assert small.store.audit(repair=False) == ()


def test_an_audit_that_was_given_up_does_no_harm(small: TimedNamespace):
    made = fill(small)
    meta = small.keys.key("meta")
    for _ in pages(small.store, "audit", {"repair": True}):
        if small.raw.hexists(meta, "audit"):
            break
    assert small.raw.hexists(meta, "audit")
    made[0].ask("app")
    made[1].release(1)
    assert small.store.audit(repair=False) == ()


# -- Damage ----------------------------------------------------------------------------------------------

#: The key, a member or field, what it is set to (None: a member), and what is said of it.
DAMAGE: list[tuple[str, str, int | None, str]] = [
    ("held", "app", 77, "more or fewer permits are counted than sessions hold: app"),
    ("sums", f"app{US}idle", 77, "a number that status shows is wrong: app idle"),
    ("sums", f"pool:w{US}waiting", 77, "a number that status shows is wrong: pool:w waiting"),
    ("sums", f"{US}s005", 77, "a number that status shows is wrong:  s005"),
    ("sums", f"pool:v{US}waiting", 77, "a number that status shows is wrong: pool:v waiting"),
    ("idle", f"app{US}ghost", 77, "unused permits are counted of no holder: app ghost"),
    ("units", f"app{US}ghost", 77, "permits are held by no live session: app ghost"),
    ("holders", f"app{US}s003x", None, "a session is listed as a holder, but holds nothing: app s003x"),
    ("uses", f"1-abc{US}ghost", None, "the sessions with a configuration are not those that say so: 1-abc ghost"),
    ("configured", "nonsense", None, "a configured value is listed once, not twice: nonsense"),
    ("grants", "ghost:000000000002:[]", None, "a grant is kept for a session that has ended: ghost:000000000002:[]"),
]


@pytest.mark.parametrize(("key", "member", "value", "finding"), DAMAGE)
def test_damage_is_found_and_put_right_on_whichever_page_it_is(
    small: TimedNamespace, key: str, member: str, value: int | None, finding: str
):
    made = fill(small)
    before = small.left_behind()
    if value is None:
        small.raw.zadd(small.keys.key(key), {member: 0})
    else:
        small.raw.hset(small.keys.key(key), member, value)
    assert small.store.audit(repair=False) == (finding,)
    assert small.store.audit(repair=True) == (finding,)
    assert small.store.audit(repair=False) == ()
    assert small.left_behind() == before
    small.raw.hset(small.keys.key("held"), "app", 77)
    Interrupted(small, shuffle(made))
    assert small.store.audit(repair=True) == (DAMAGE[0][3],), "exactly, whatever else changes"
    assert small.store.audit(repair=False) == ()


def test_whoever_waited_for_units_that_nobody_held_has_them_when_the_repair_ends(small: TimedNamespace):
    made = fill(small)
    small.set("app", 2 * MANY + 1)
    small.raw.hset(small.keys.key("held"), "app", 2 * MANY + 1)
    made[0].sync(asks=[Ask(99, ("app",))])
    assert small.line("app") == [("s000", 99)]
    small.store.audit(repair=True)
    assert small.line("app") == []
    assert sum(small.units("app").values()) == 2 * MANY + 1
