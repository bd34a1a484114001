"""Every script called with malformed arguments: an error and nothing changed, or a valid reply and a sound state.

hypothesis -> the arguments that the store really sends, bent -> the script, raw;  check <- Namespace, every key dumped

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

from celery_gconc.protocol.messages import Ask, Former, Held
from celery_gconc.protocol.scripts import TURNS

from .namespace import Namespace, Session, State

EXAMPLES = int(os.environ.get("GCONC_FUZZ_EXAMPLES", "120"))

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
    *([[1, [["pool:a", 1]], "", "", 0]], [[1, [["pool:a", 1]], "", "", 0, 0, 0]], [[1]], [[1, ["pool:a"], 0, "", ""]]),
    *([[1, [["pool:a", 1]], 0, "", ""], [1, [["pool:b", 1]], 0, "", ""]], [[1, [], "", "", 0, 0, 0]]),
    [[1, [["pool:a", 1]], "", "", 0, 0, 0], [1, [["pool:b", 1]], "", "", 0, 0, 0]],
]

#: Stand for arrays within arrays, so many.
DEPTHS = {"@100": 100, "@990": 990, "@3000": 3000}
JUNK += list(DEPTHS)

#: Not JSON at all, or more of it than is good.
TEXTS: list[Any] = [
    b"", b"{", b"nul", b"null", b"1", b'"x"', b"[]", b"{}", b"\x00\xff\xfe", b"{'a': 1}", b'{"session": "a"',
    b"[" * 2000, b"[" * 900 + b"]" * 900, b'{"session": "\\ud800"}', b'{"session": "fuzz", "session": {}}',
]  # fmt: skip

SCRIPTS = ("open", "sync", "close", "change", "ticket", "status", "holders")


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
        self.namespace = Namespace(url)
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
        self.fuzz = self.namespace.session("fuzz", slots=3, config={"pool:c": 3})
        for limit in ("pool:c", "pool:c", A):
            self.fuzz.ask(limit)
        self._start = self.dump()
        self._known = {session: copy.deepcopy(_known(session)) for session in (self.well, self.other)}
        self.ordinary = {name: self._ordinary(name) for name in SCRIPTS}

    def lay(self) -> None:
        """Begin anew."""
        with self.raw.pipeline() as pipe:
            pipe.flushall()
            for key, content in self._start.items():
                pipe.restore(key, 0, content)
            pipe.execute()
        for session, known in self._known.items():
            session.__dict__.update(copy.deepcopy(known))

    def _ordinary(self, name: str) -> Call:
        """What the store calls a script with."""
        self.lay()
        store = self.namespace.store
        if name == "open":
            text = json.dumps({"max": 3, "set": {"by": "somebody", "at": 1}})
            former = Former(("gone",), "x:1", 5, 2, {"pool:c": text})
            held = [Held(7, (A,), "id", "name", fence=5)]
            self.namespace.session("new", config={A: 3}, held=held, version=1, former=former, states=False)
        elif name == "sync":
            held = [Held(number, limits, "id", "name") for number, limits in self.fuzz.holding.items()]
            asks = [Ask(11, ("pool:c",), 1.5, "id", "name"), Ask(12, (A, B), 0.1, "id", "name")]
            rarely = {"source": "x", "takes": ["emails"], "growth": 1, "weak": [(11, ["emails"]), (0, ["news"])]}
            self.fuzz.sync(held=held, asks=asks, ended=[2], interests=[A], full=True, **rarely)
        elif name == "close":
            store.close_session("fuzz")
        elif name == "change":
            store.set(A, 2, by="somebody", reason="some reason", ticket=3, config={A: 1})
        elif name == "ticket":
            store.ticket()
        elif name == "status":
            store.status(A)
        else:
            store.holders(A, 10)
        return self.recorders[name].called

    def call(self, name: str, keys: Sequence[Any], arguments: Sequence[Any]) -> dict[str, Any] | None:
        """Call a script raw; None where it gave an error, which must have come before its first write."""
        before = self.dump()
        try:
            reply = self.raw.eval(self.recorders[name].script.text, len(keys), *keys, *arguments)
        except redis.ResponseError as exc:
            assert self.dump() == before, f"an error after a write: {exc}"
            return None
        decoded = json.loads(reply)
        assert decoded["status"] in ("ok", "refused", "closed", "stale", "lost"), decoded
        return dict(decoded)

    def dump(self) -> dict[bytes, Any]:
        """Every key with its content."""
        keys = sorted(self.raw.keys("*"))
        with self.raw.pipeline() as pipe:
            for key in keys:
                pipe.dump(key)
            return dict(zip(keys, pipe.execute(), strict=True))

    def check(self) -> None:
        """The state is sound, and the sessions that had no part in it work on."""
        check_sound(self.namespace.look())
        well, other = (self._go_on(session) for session in (self.well, self.other))
        assert well.holding == {1: (A, B)}, "a session lost what it held, by no doing of its own"
        assert (well.name, 1) in self.namespace.holders(A), "it is no longer counted"
        well.release(1)
        check_sound(self.namespace.look())
        for session in (other, well):
            session.release(*session.holding, *session.asked)
        for name in self.namespace.live():
            self.namespace.store.close_session(name)
        state = self.namespace.look()
        check_sound(state)
        assert not state.requests, "something stayed when all had ended"
        before = self.namespace.store.ticket()
        assert self.namespace.store.ticket() == before + 1
        assert self.namespace.store.set("pool:later", 4, by="test").applied
        assert self.namespace.max("pool:later") == 4

    def _go_on(self, session: Session) -> Session:
        """Its heartbeat; where it is told that data went back in time, the session that takes its place."""
        if session.state().status == "ok":
            return session
        assert session.epoch.encode() != self.raw.hget(self.namespace.keys.key("meta"), "epoch"), "closed for no reason"
        held, asks = session.statement()
        successor = self.namespace.session(f"{session.name}-2", former=session.former, held=held)
        successor.asked = {item.number: item for item in asks}
        assert successor.state().status == "ok"
        return successor

    def close(self) -> None:
        self.namespace.close()


def _known(session: Session) -> dict[str, Any]:
    """What a session knows, and may learn."""
    names = "asked holding granted syncs numbers epoch version table lease confirmed overrides".split()
    return {name: getattr(session, name) for name in names}


def check_sound(state: State) -> None:
    """What every script keeps to: each request stands where its record says, and nothing else stands anywhere."""
    for id, record in state.requests.items():
        assert id[0] in state.leases, f"{id} of a session that ended"
        holds, stands = ([x for x in place if id in place[x]] for place in (state.holders, state.lines))
        limits = sorted({limit for limit, _ in record["c"]})
        assert sorted(holds) == (limits if record["g"] > 0 else []), id
        assert stands == ([] if record["g"] > 0 else [record["at"]]), id
        held_back = sorted(limit for limit in state.reserved if id in state.reserved[limit])
        assert held_back == (limits if record["g"] == 0 and record["k"] >= TURNS else []), id
    for members in (state.holders, state.lines, state.reserved):
        for limit, ids in members.items():
            assert all(id in state.requests for id in ids), f"{limit}: a member without a request"
            assert len(ids) == len(set(ids)), f"{limit}: a request counts twice"
    assert state.rolled == len(state.requests), "the roll has another number of requests"
    for maximum in state.maxima.values():
        assert maximum >= 0


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
                parent[draw(st.sampled_from(["held", "asks", "x", "", "a\x1fb", "1"]))] = junk
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


@pytest.mark.parametrize("name", SCRIPTS)
@FUZZ
@given(data=st.data())
def test_arguments_that_are_bent_give_an_error_or_a_sound_state(bench: Bench, name: str, data: Any):
    bench.lay()
    ordinary = bench.ordinary[name]
    asked = bent(json.loads(ordinary.asked), data.draw)
    bench.call(name, ordinary.keys, [ordinary.channels, text_of(asked)])
    bench.check()


@pytest.mark.parametrize("name", SCRIPTS)
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


@FUZZ
@given(data=st.data())
def test_a_first_session_that_is_bent_leaves_the_namespace_usable(bench: Bench, data: Any):
    ordinary = bench.ordinary["open"]
    bench.raw.flushall()
    asked = bent(json.loads(ordinary.asked), data.draw)
    bench.call("open", ordinary.keys, [ordinary.channels, text_of(asked)])
    check_sound(bench.namespace.look())
    for name in bench.namespace.live():
        bench.namespace.store.close_session(name)
    namespace = bench.namespace
    session = namespace.session("later", config={A: 1})
    namespace.reopen()  # it may have said that data was lost
    assert session.opened.table[A] == 1
    assert session.ask(A) in session.holding
    session.release(1)
    namespace.store.close_session("later")
    assert not namespace.look().requests
