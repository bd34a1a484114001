"""Every script called with malformed arguments: an error and nothing changed, or a valid reply and a sound state.

hypothesis -> the arguments that the store really sends, bent -> the script, raw;  check <- Look, every key dumped

Redis does not take back what a script wrote before it failed, so an error must come before the first write.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_gconc.limits.claims import Claim
from celery_gconc.protocol.messages import Row, Want
from celery_gconc.protocol.openings import Former

from .look import Look, check_granted, check_sound, looker
from .namespace import Ask, Namespace, Session

EXAMPLES = int(os.environ.get("GCONC_FUZZ_EXAMPLES", "16"))

#: Two limits of max 1: "well" holds both, "other" waits for both.
A, B = "pool:a", "pool:b"

#: What may stand where something else should.
JUNK: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, -(2**31), 2**31, 2**53, -(2**53), 2**63, 10**30, -(10**30), 0.5, -0.0, 1.5),
    *(1e300, float("nan"), float("inf"), float("-inf"), "", "1", "-1", "0x10", "1e3", "nan", "*", "fuzz", "other:1"),
    *("a:b", ":", "a\x1fb", "\x1f", "pool:a\x1f0000000000000000\x1fwell:1", "x\x00y", "new\nline", "\x7f", "é" * 10),
    *("x" * 10_000, "[", "(", "+", "-", "{x}", [], {}, [[]], [None], [1], ["pool:a"], ["pool:a", "pool:a"], {"1": 1}),
    *({"": 0}, {"pool:a": "{}"}, {"pool:a": "[1]"}, {"pool:a": '{"max": 0.5}'}, {"pool:a": '{"max": "1"}'}),
    *({"pool:a": '{"set": {"by": null}}'}, {"pool:a": '{"pause": 1}'}, {"pool:a": '{"paused": true}'}),
    *({"pool:a": "1"}, {"pool:a": -1}, {"pool:a": 0.5}, {"pool:a": None}, {"a\x1fb": 1}, [["pool:a", 1]]),
    *([["pool:a", 1], ["pool:a", 1]], [["pool:a", 2]], [["pool:a"]], [["pool:a", 1, 1]], [[1, "pool:a"]]),
    *([["pool:c", 1], ["pool:c", 3]], [["pool:c", 3]], [["pool:c", 10**9]], [["pool:c", 10**9 + 1]], 9 * 10**15),
    *([[1, [["pool:a", 1]], 0, 0, []]], [[1, [["pool:a", 1]], 0, 1, []]], [[1, [["pool:a", 1]], 9, 9, [[0, "", ""]]]]),
    *(
        [[1, [["pool:c", 1]], 0, 0, [[0, "id", ""]]], [1, [["pool:c", 2]], 0, 1, [[0, "id", ""]]]],
        [[1]],
        [[0, "id", ""]],
    ),
    *([[7, [["pool:c", 2]], 0, 0, [[0, "id", ""]] * 40]], [[10**18, "id", ""]], [[-(10**18), "id", ""]], [[0, 1, 2]]),
    *('[[[["pool:a", 1]], "id", "task", 0]]', '[[[["pool:a"]], "id", "task", 0]]', '[["pool:a", "id", "task", 0]]'),
    *("[1]", "{}", "1", '[[[["pool:a", 1]], 1, "task", 0]]', '[[[["pool:a", 1]], "id", "task", "0"]]', "null"),
]

#: Stand for arrays within arrays, so many.
DEPTHS = {"@100": 100, "@990": 990, "@3000": 3000}
JUNK += list(DEPTHS)

#: Not JSON at all, or more of it than is good.
TEXTS: list[Any] = [
    b"", b"{", b"nul", b"null", b"1", b'"x"', b"[]", b"{}", b"\x00\xff\xfe", b"{'a': 1}", b'{"session": "a"',
    b"[" * 2000, b"[" * 900 + b"]" * 900, b'{"session": "\\ud800"}', b'{"session": "fuzz", "session": {}}',
]  # fmt: skip

#: What is called, and which script that is: some are called in more than one way.
CALLS = {
    **{name: name for name in ("open", "configure", "restore", "sync", "heartbeat", "close", "change", "ticket")},
    **{
        name: name
        for name in (
            "names",
            "status",
            "sessions",
            "configured",
            "holders",
            "waiting",
            "find",
            "recent",
            "totals",
            "audit",
        )
    },
    "statement": "sync",
}


#: What replies begin with.
STATUSES = {"ok", "refused", "closed", "stale", "more", "lost", "unknown", "forgotten", "done"}


@dataclass(frozen=True)
class Call:
    """What a script was called with."""

    keys: tuple[str, ...] = ()
    channels: str = ""
    asked: str = ""


class Recorder:
    """Stands before a script of the store, and keeps what it was called with last."""

    def __init__(self, script: Any) -> None:
        self.script = script
        self.called = Call()

    def __call__(self, keys: list[str], args: list[str]) -> Any:
        self.called = Call(tuple(keys), *args)
        return self.script(keys=keys, args=args)


class Bench:
    """A namespace with a session whose work must go on, one that waits behind it, and one that sends nonsense."""

    def __init__(self, url: str) -> None:
        self.namespace = Namespace(url, options={"socket_connect_timeout": 60.0}, call_timeout=60.0)
        self.raw = self.namespace.raw
        store = self.namespace.store
        self.recorders = {name: Recorder(script) for name, script in store._scripts.items()}
        store._scripts.update(self.recorders)
        self.raw.flushall()
        self.well = self.namespace.session("well", config={A: 1, B: 1})
        self.namespace.reopen()
        self.well.ask(A, B)
        self.other = self.namespace.session("other", config={A: 2, B: 1})
        self.other.ask(A, B)
        self.fuzz = self.namespace.session("fuzz", slots=4, config={"pool:c": 4, "pool:d": 3})
        self.fuzz.weights = {"pool:d": 2}
        for limits in (("pool:c",), ("pool:c",), (A,), ("pool:c", "pool:d"), ("pool:c", "pool:d")):
            self.fuzz.ask(*limits)
        self._look = looker(self.namespace)
        self._start = self.dump()
        self._known = {session: _known(session) for session in (self.well, self.other, self.fuzz)}
        self.ordinary = {name: self._ordinary(name) for name in CALLS}

    def lay(self) -> None:
        """Begin anew."""
        with self.raw.pipeline() as pipe:
            pipe.flushall()
            for key, content in self._start.items():
                pipe.restore(key, 0, content)
            pipe.execute()
        for session, known in self._known.items():
            session.__dict__.update(copy.deepcopy(known))
        self._seen = self._look()

    def _ordinary(self, name: str) -> Call:
        """What the store calls a script with."""
        self.lay()
        store = self.namespace.store
        text = json.dumps({"max": 3, "set": {"by": "somebody", "at": 1, "ends": 1}})
        if name == "open":
            former = Former(("gone",), "x:1", 5, 2, 3, {"pool:c": text})
            how = {"config": {A: 3}, "held": {7: (A,)}, "fence": 5, "former": former}
            self.namespace.session("new", states=False, **how)
        elif name == "configure":
            self.namespace.session("new", config={A: 3, "pool:e": 1}, states=False)
        elif name == "restore":
            told = {"known": "x:1", "newest": 90, "told_at": 5, "values": {"pool:c": text, A: "{}"}}
            told |= {"after": "0", "last": True}
            store._run("restore", told)
        elif name == "sync":
            rows = [Row(1.5, "id-4", "name"), Row(0.5, "id-6", "name")]
            wants = [Want(self.fuzz.set_of(A), (Claim(A),), 0, 1, rows), Want(9, (Claim(A, 2), Claim(B)), 0, 0, rows)]
            units = {"pool:c": 1, "pool:d": 2}
            self.fuzz.sync(wants=wants, units=units, interests=[A], over=["id-9"], ended=[2], growth=1)
        elif name == "statement":
            asks = [Ask(11, ("pool:c",), 1.5), Ask(12, (A, B), 0.1)]
            weak = [(self.fuzz.set_of(A), ["emails"]), (0, ["news"])]
            rarely = {"source": "x", "takes": ["emails"], "weak": weak, "idle": {"pool:c": 1}}
            self.fuzz.state(asks=asks, interests=[A], **rarely)
        elif name == "heartbeat":
            self.well.beat(growth=1, idle={A: 1})
        elif name == "close":
            store.close_session("fuzz")
        elif name == "change":
            store.set(A, 2, by="somebody", reason="some reason", ticket=3, config={A: 1})
        elif name == "ticket":
            store.ticket()
        elif name == "status":
            store.status(A, sessions=False)
        elif name == "names":
            store.limit_names()
        elif name in ("sessions", "configured"):
            store.status(A)
        elif name == "recent":
            store.history(A, 60)
        elif name == "totals":
            store.totals()
        elif name == "find":
            store.find("id-1")
        elif name == "audit":
            store.audit(repair=True)
        elif name == "waiting":
            store.waiting(A, 10)
        else:
            store.holders(A, 10)
        return self.recorders[CALLS[name]].called

    def call(self, name: str, keys: Sequence[Any], arguments: Sequence[Any]) -> dict[str, Any] | None:
        """Call a script raw; None where it gave an error, which must have come before its first write."""
        before = self.dump()
        try:
            reply = self.raw.eval(self.recorders[CALLS[name]].script.text, len(keys), *keys, *arguments)
        except redis.ResponseError as exc:
            assert self.dump() == before, f"an error after a write: {exc}"
            return None
        decoded = json.loads(reply)
        assert decoded["status"] in STATUSES, decoded
        return dict(decoded)

    def see(self) -> Look:
        """The keys, which are sound; without what a session says that it runs, where that is no list of tasks."""
        for session, text in self.raw.hgetall(self.namespace.keys.key("running")).items():
            if not _is_list_of_tasks(text.partition(b" ")[2]):
                self.raw.hdel(self.namespace.keys.key("running"), session)
        look = self._look()
        check_sound(look)
        return look

    def dump(self) -> dict[bytes, Any]:
        """Every key with its content."""
        keys = sorted(self.raw.keys("*"))
        with self.raw.pipeline() as pipe:
            for key in keys:
                pipe.dump(key)
            return dict(zip(keys, pipe.execute(), strict=True))

    def check(self) -> None:
        """The state is sound, people can look at it, and the sessions that had no part in it work on.

        It looks after each script that may grant: the next one may end a change, and so lower a max again.
        """
        self._look_on()
        self._ask_for_people()
        self._look_on()
        well = self._go_on(self.well)
        self._look_on()
        other = self._go_on(self.other)
        self._look_on()
        assert well.holding == {1: (A, B)}, "a session lost what it held, by no doing of its own"
        assert (well.name, 1) in self.namespace.holders(A), "it is no longer counted"
        well.release(1)
        self._look_on()
        for session in (other, well):
            session.release(*session.holding, *session.asked)
            self._look_on()
            fence = session.state().fence
            self._look_on()
            assert 0 < fence < session.state().fence < 10**14, "fencing numbers don't grow, or JSON can't carry them"
            look = self._look_on()
        for name in self.namespace.live():
            self.namespace.store.close_session(name)
            look = self._look_on()
        assert not look.state.wants and not look.state.units, "something stayed when all had ended"
        before = self.namespace.store.ticket()
        assert self.namespace.store.ticket() == before + 1
        assert self.namespace.store.set("pool:later", 4, by="test").applied
        assert self.namespace.max("pool:later") == 4

    def _go_on(self, session: Session) -> Session:
        """Its heartbeat; where it is told that data went back in time, the session that takes its place."""
        if session.state().status == "ok":
            return session
        assert session.epoch.encode() != self.raw.hget(self.namespace.keys.key("meta"), "epoch"), "closed for no reason"
        how = {"former": session.former, "held": session.holding, "fence": session.fence}
        successor = self.namespace.session(f"{session.name}-2", **how)
        assert successor.state(asks=session.asked.values()).status == "ok"
        return successor

    def _look_on(self) -> Look:
        before, self._seen = self._seen, self.see()
        check_granted(before, self._seen)
        return self._seen

    def _ask_for_people(self) -> None:
        ways = [(name, {}) for name in ("names", "status", "sessions", "configured", "holders", "waiting")]
        ways += [(name, {}) for name in ("totals", "audit")]
        ways += [("find", {"after": after}) for after in (None, "r0", "g0")]
        for name, how in ways:
            ordinary = self.ordinary[name]
            text = json.dumps({**json.loads(ordinary.asked), **how})
            reply = self.call(name, ordinary.keys, [ordinary.channels, text])
            assert reply is not None, f"{name} gives an error"
            assert name != "audit" or not reply["findings"], reply["findings"]

    def close(self) -> None:
        self.namespace.close()


def _known(session: Session) -> dict[str, Any]:
    """What a session knows, and may learn."""
    fixed = ("namespace", "store", "opened", "_pubsub")
    return copy.deepcopy({name: value for name, value in vars(session).items() if name not in fixed})


def _is_list_of_tasks(text: bytes) -> bool:
    try:
        return all(task_id + task and dict(claims) and age >= 0 for claims, task_id, task, age in json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return False


@pytest.fixture(scope="module")
def bench(redis_process: Any) -> Iterator[Bench]:
    bench = Bench(redis_process.url)
    yield bench
    bench.close()


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything within a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [found for key, item in inside for found in paths(item, (*path, key))]


def bent(asked: dict[str, Any], draw: Callable[..., Any]) -> Any:
    """Arguments with one to three things wrong with them: replaced, left out, doubled or added."""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(asked)))
        if not path:
            return copy.deepcopy(draw(st.sampled_from(JUNK)))
        parent = asked
        for key in path[:-1]:
            parent = parent[key]
        how = draw(st.sampled_from(["replace", "replace", "replace", "leave out", "double", "add"]))
        junk = copy.deepcopy(draw(st.sampled_from(JUNK)))
        if how == "leave out":
            del parent[path[-1]]
        elif how == "double" and isinstance(parent, list):
            parent.append(parent[path[-1]])
        elif how == "add":
            if isinstance(parent, list):
                parent.insert(draw(st.integers(0, len(parent))), junk)
            else:
                parent[draw(st.sampled_from(["running", "idle", "over", "x", "", "a\x1fb", "1"]))] = junk
        else:
            parent[path[-1]] = junk
    return asked


def text_of(asked: Any) -> bytes:
    """JSON, as Python writes it: NaN and Infinity included. Where it says so, deeper than Python would."""
    text = json.dumps(asked)
    for name, depth in DEPTHS.items():
        text = text.replace(json.dumps(name), "[" * depth + "]" * depth)
    return text.encode()


FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", CALLS)
@FUZZ
@given(data=st.data())
def test_arguments_that_are_bent_give_an_error_or_a_sound_state(bench: Bench, name: str, data: Any):
    bench.lay()
    ordinary = bench.ordinary[name]
    asked = bent(json.loads(ordinary.asked), data.draw)
    bench.call(name, ordinary.keys, [ordinary.channels, text_of(asked)])
    bench.check()


@pytest.mark.parametrize("name", CALLS)
def test_a_negative_zero_is_no_number(bench: Bench, name: str):
    bench.lay()
    ordinary = bench.ordinary[name]
    for path in paths(json.loads(ordinary.asked)):
        asked = json.loads(ordinary.asked)
        parent = asked
        for key in path[:-1]:
            parent = parent[key]
        if path and type(parent[path[-1]]) is int:
            parent[path[-1]] = -0.0
            assert bench.call(name, ordinary.keys, [ordinary.channels, text_of(asked)]) is None, path


@pytest.mark.parametrize("duration", [1, 10])
def test_a_change_that_ends_at_once_leaves_a_sound_state(bench: Bench, duration: int):
    bench.lay()
    ordinary = bench.ordinary["change"]
    asked = {**json.loads(ordinary.asked), "duration": duration}
    assert bench.call("change", ordinary.keys, [ordinary.channels, text_of(asked)]) is not None
    bench.check()


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_arguments_at_all_gives_an_error(bench: Bench, name: str):
    bench.lay()
    ordinary = bench.ordinary[name]
    for text in TEXTS:
        reply = bench.call(name, ordinary.keys, [ordinary.channels, text])
        assert reply is None or name == "ticket", text
    for keys in (ordinary.keys[:n] for n in (0, 1, 14)):
        assert bench.call(name, keys, [ordinary.channels, ordinary.asked]) is None, len(keys)
    assert bench.call(name, (*ordinary.keys, "more"), [ordinary.channels, ordinary.asked]) is None
    for arguments in ([], [ordinary.channels], ["", ordinary.asked]):
        assert bench.call(name, ordinary.keys, arguments) is None, arguments
    bench.check()


@pytest.mark.parametrize(
    ("name", "path", "junk", "is_refused"),
    [
        ("sync", ("wants", 0, 1), [["pool:c", 1], ["pool:c", 1]], True),
        ("sync", ("wants", 0, 0), 10**14, True),
        ("statement", ("fence",), 9 * 10**15, True),
        ("open", ("fence",), 9 * 10**15, True),
        ("statement", ("running",), "junk", False),
        ("statement", ("running",), '[[[["pool:a", 1]], "id", "task", "0"], 1, {}]', False),
        ("open", ("running",), "[" * 1001 + "]" * 1001, False),
        ("sync", ("wants", 0, 3), 9 * 10**15, False),
        ("sync", ("wants", 0, 2), 9 * 10**15, False),
        ("sync", ("granted",), 999999999999, False),
        ("sync", ("ended",), [999999999999], False),
    ],
)
def test_what_would_do_harm_does_none(bench: Bench, name: str, path: tuple[Any, ...], junk: Any, is_refused: bool):
    bench.lay()
    ordinary = bench.ordinary[name]
    asked = json.loads(ordinary.asked)
    parent = asked
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = junk

    assert (bench.call(name, ordinary.keys, [ordinary.channels, text_of(asked)]) is None) == is_refused
    bench.check()


@FUZZ
@given(data=st.data())
def test_a_first_session_that_is_bent_leaves_the_namespace_usable(bench: Bench, data: Any):
    ordinary = bench.ordinary["open"]
    bench.raw.flushall()
    asked = bent(json.loads(ordinary.asked), data.draw)
    bench.call("open", ordinary.keys, [ordinary.channels, text_of(asked)])
    bench.see()
    for name in bench.namespace.live():
        bench.namespace.store.close_session(name)
    namespace = bench.namespace
    session = namespace.session("later", config={A: 1})
    namespace.reopen()  # it may have said that data was lost
    assert session.table[A] == 1
    assert session.ask(A) in session.holding
    session.release(1)
    namespace.store.close_session("later")
    assert not namespace.look().wants
