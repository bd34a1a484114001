"""``make bench-scale``: what each script costs Redis with 10 and with 10,000 sessions, limits and waiters.

The real scripts, by the store that workers use, on a Redis of its own. Times are those for which the server's main
thread computed (Linux), so neither Python nor anything else on the machine counts. A ratio compares with the smallest
size of the same run.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import redis

from celery_gconc.limits.claims import claims_on
from celery_gconc.protocol.configurations import digest_of
from celery_gconc.protocol.counted import Record
from celery_gconc.protocol.messages import Heartbeat, Running, Sync, Want, running_text
from celery_gconc.protocol.messages import Row as Waiting
from celery_gconc.protocol.openings import Former
from celery_gconc.protocol.scripts import PAGE
from celery_gconc.protocol.session_store import SessionStore
from celery_gconc.worker.session.counts import Counters
from tests.kit.servers import RedisServer, redis_server

SIZES = (10, 100, 1_000, 10_000)

#: How many calls a median is of.
REPEATS = 15

#: Seconds: as long as leases may be, so that none ends while sessions are made.
INTERVAL, TIMEOUT = 100.0, 300.0

#: How many requests of a session wait in a line at most.
IN_LINE = 32

PAGE_WRITTEN = Path("docs/explanation/scale.md")
BEGIN, END = "<!-- begin: benchmarks/scale.py -->", "<!-- end: benchmarks/scale.py -->"


@dataclass
class Row:
    """What one call costs, in ms, by size."""

    name: str
    median: dict[int, float] = field(default_factory=dict)
    longest: dict[int, float] = field(default_factory=dict)


class Bench:
    """A namespace, its sessions, and the time that scripts take in it."""

    def __init__(self, server: RedisServer) -> None:
        pid = server.process.pid
        self._schedstat = Path(f"/proc/{pid}/task/{pid}/schedstat")
        self.raw = redis.Redis.from_url(server.url)
        self.store = SessionStore(server.url, "gconc", call_timeout=600.0)
        self.epochs: dict[str, str] = {}
        self.syncs: dict[str, int] = {}
        self.versions: dict[str, int] = {}
        self._listeners: list[socket.socket] = []

    def begin(self) -> None:
        """Empty it."""
        self.hush()
        self.raw.flushall()
        self.epochs.clear()
        self.syncs.clear()

    def open(self, name: str, config: dict[str, int] | None = None, room: int = 100) -> None:
        opened = self.store.open(
            name, interval=INTERVAL, timeout=TIMEOUT, room=room, config=config or {}, queues=["celery"],
            info={"node": name, "pid": 1, "pool": "prefork", "app": "proj", "broker": "amqp"},
        )  # fmt: skip
        self.epochs[name], self.syncs[name], self.versions[name] = opened.epoch, 0, -1
        self.raw.hdel(self.store.keys.key("meta"), "closed_until")

    def sync(self, name: str, *, room: int = 100, version: int | None = None, **what: Any) -> Any:
        self.syncs[name] += 1
        number = self.syncs[name]
        said = self.versions[name] if version is None else version
        reply = self.store.sync(
            Sync(name, self.epochs[name], number, number - 1, what.pop("granted", 10**6), room, said, **what)
        )
        if reply.changes is not None:
            self.versions[name] = reply.changes.version
        return reply

    def beat(self, name: str, granted: int, *, room: int = 100) -> None:
        """A short heartbeat of a session that has nothing to say, and was granted so often."""
        self.syncs[name] += 1
        number = self.syncs[name]
        said = Heartbeat(name, self.epochs[name], number, number - 1, granted, room, self.versions[name])
        assert self.store.heartbeat(said) is not None, "Redis has something to say"

    def granted(self, name: str) -> int:
        """How often something was granted to a session, as Redis counts."""
        return int(self.raw.hget(self.store.keys.key("session"), f"{name}:granted"))

    def enter(self, name: str, config: dict[str, int] | None = None, room: int = 100) -> None:
        """Open a session, and have it go by all limits."""
        self.open(name, config, room)
        self.catch_up(name)
        self.sync(name, room=room, full=True)

    def catch_up(self, name: str) -> None:
        """Hear of all limits, as a new session does."""
        while self.sync(name).changes is not None:
            pass

    def close(self, name: str) -> None:
        """One call, where a worker makes as many as are needed."""
        self.store._run("close", {"session": name})

    def record(self, record: Record) -> None:
        self.store.record("s0", record)

    def set(self, limit: str, maximum: int) -> None:
        self.store.set(limit, maximum, by="bench")

    def set_timed(self, limit: str, maximum: int) -> Iterator[float]:
        """What each of the calls costs that a change takes, until all sessions are told."""
        asked = {
            "limit": limit, "kind": "value", "by": "bench", "ticket": 0, "config": {}, "max": maximum, "paused": False,
            "reason": None, "duration": None,
        }  # fmt: skip
        reply: dict[str, Any] = {"more": True}
        while reply["more"]:
            before = self.spent()
            reply = self.store._run("change", asked)
            self.wait_for_writes()
            yield (self.spent() - before) / 1e6
            asked["ticket"] = reply["ticket"]

    def wait_for_writes(self) -> None:
        """What a script publishes is written after its reply, before the next call is read."""
        self.raw.ping()

    def listen(self, names: Iterable[str]) -> None:
        """Each of these sessions listens, on a connection of its own, as workers do; what it hears nobody reads."""
        port = self.raw.connection_pool.connection_kwargs["port"]
        for name in names:
            channels = (self.store.keys.channel(name), self.store.keys.table_channel(name))
            listener = socket.create_connection(("127.0.0.1", port))
            self._listeners.append(listener)
            listener.sendall(f"SUBSCRIBE {' '.join(channels)}\r\n".encode())
        self.raw.ping()

    def hush(self) -> None:
        """Nobody listens any more."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def ask(self, name: str, *limits: str, count: int = 1, first: int = 1, **what: Any) -> Any:
        """So many of a session's requests wait, or none any more."""
        rows = [Waiting(task_id=f"{name}-{first + number}") for number in range(count)]
        return self.sync(name, wants=[Want(1, claims_on(limits), requests=rows)], **what)

    def end_first(self, room: int) -> Callable[[], Any]:
        """The call with which the one task ends."""
        (member,) = self.raw.hkeys(self.store.keys.key("units"))
        limit, name = member.decode().split("\x1f")
        return lambda: self.sync(name, room=room, units={limit: 0})

    def end_leases(self, names: list[str]) -> None:
        """Sessions died long ago, and the next script finds out."""
        self.raw.hset(self.store.keys.key("meta"), "epoch_began", 1)
        self.raw.zadd(self.store.keys.key("sessions"), dict.fromkeys(names, 1))

    def spent(self) -> int:
        """For how long the server's main thread has computed (ns): whatever else runs on the machine doesn't count."""
        return int(self._schedstat.read_text().split()[0])

    def answered(self, script: str, asked: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """What one call costs the server (ms), and its reply."""
        before = self.spent()
        reply = self.store._run(script, asked)
        return (self.spent() - before) / 1e6, reply

    def timed(self, call: Callable[[], Any]) -> float:
        """What one call costs the server (ms)."""
        before = self.spent()
        call()
        return (self.spent() - before) / 1e6

    def timed_scripts(self, call: Callable[[], Any]) -> list[tuple[str, float]]:
        """What each script of one call costs the server (ms), by its name."""
        found: list[tuple[str, float]] = []
        run = self.store._run

        def timed(name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
            before = self.spent()
            reply = run(name, asked)
            found.append((name, (self.spent() - before) / 1e6))
            return reply

        self.store._run = timed  # type: ignore[method-assign]
        try:
            call()
        finally:
            self.store._run = run  # type: ignore[method-assign]
        return found


#: A row of several situations.
STATUS = "status of one limit"

Situation = Callable[[Bench, int], Iterator[tuple[str, float]]]


def sessions(bench: Bench, size: int) -> Iterator[tuple[str, float]]:
    """So many sessions, configured with twenty limits each, all waiting for nothing."""
    config = {f"queue:q{number}": 8 for number in range(20)}
    names = [f"s{number}" for number in range(size)]
    for name in names:
        bench.enter(name, config)
    me = names[0]
    held = {f"queue:q{number}": 1 for number in range(20)}
    for turn in range(REPEATS):
        yield "sync, nothing to say", bench.timed(lambda: bench.sync(me))
        yield "sync, asks for a permit and is granted", bench.timed(lambda: bench.ask(me, "queue:q1"))
        yield "sync, a task ended", bench.timed(lambda: bench.sync(me, units={"queue:q1": 0}))
        yield (
            "sync, a statement of units of twenty limits",
            bench.timed(lambda: bench.sync(me, full=True, units=held)),
        )
        yield (
            "sync, a heartbeat that says the same again",
            bench.timed(lambda: bench.sync(me, full=True, units=held)),
        )
        yield (
            "heartbeat, units of twenty limits",
            bench.timed(partial(bench.beat, me, bench.granted(me))),
        )
        bench.sync(me, full=True)
        yield "open", bench.timed(lambda turn=turn: bench.open(f"new{turn}", config))
        yield "close", bench.timed(lambda turn=turn: bench.close(f"new{turn}"))
        yield STATUS, bench.timed(lambda: bench.store.status("queue:q0", sessions=False))
    bench.catch_up(me)
    bench.listen(names)
    for turn in range(REPEATS):
        for took in bench.set_timed("queue:q0", 9 + turn % 2):
            yield "change of a limit, each of the calls that tell all sessions", took
        yield "sync that brings this change", bench.timed(lambda: bench.sync(me))
    bench.hush()
    bench.set("queue:new", 3)
    for _ in range(REPEATS):
        yield "sync while a limit settles", bench.timed(lambda: bench.sync(me))
    bench.end_leases(names[1:])
    while bench.raw.zcount(bench.store.keys.key("sessions"), "-inf", 1):
        yield "sync while leases end", bench.timed(lambda: bench.sync(me))


def limits(bench: Bench, size: int) -> Iterator[tuple[str, float]]:
    """So many limits, that five sessions are configured with."""
    config = {f"queue:q{number}": 8 for number in range(size)}
    bench.open("first", {"app": 1})  # so that the script is there
    bench.close("first")
    for script, took in bench.timed_scripts(lambda: bench.open("s0", config)):
        if script == "configure":
            yield "the first open with all of them: a piece of up to 40", took
    bench.catch_up("s0")
    bench.sync("s0", full=True)
    for number in range(1, 5):
        bench.enter(f"s{number}", config)
    for turn in range(REPEATS):
        yield "sync, nothing to say", bench.timed(lambda: bench.sync("s0"))
        yield "sync, asks for a permit and is granted", bench.timed(lambda: bench.ask("s0", "queue:q1"))
        yield "sync, a task ended", bench.timed(lambda: bench.sync("s0", units={"queue:q1": 0}))
        bench.catch_up("s0")
        yield "change of a limit", bench.timed(lambda turn=turn: bench.set("queue:q0", 9 + turn % 2))
        yield "sync that brings this change", bench.timed(lambda: bench.sync("s0"))
        yield STATUS, bench.timed(lambda: bench.store.status("queue:q0", sessions=False))
    bench.open("late")
    while bench.versions["late"] < bench.versions["s0"]:
        yield "sync of a new session, each that brings a piece of the table", bench.timed(lambda: bench.sync("late"))
    bench.close("late")
    for turn in range(3):
        yield "a later open with all of them", bench.timed(lambda turn=turn: bench.open(f"new{turn}", config))
    for turn in range(3):
        yield "close of one that is configured with all", bench.timed(lambda turn=turn: bench.close(f"new{turn}"))
    bench.open("other", {**config, "queue:q0": 7})
    for script, took in bench.timed_scripts(lambda: bench.store.close_session("other")):
        yield f"{script} of the only one that is configured with all of them so", took
    bench.sync("s4", full=True, units={f"queue:q{number}": 1 for number in range(size)})
    bench.end_leases(["s4"])
    while bench.raw.exists(bench.store.keys.key("holders")):
        yield "sync while the lease of a holder of all ends", bench.timed(lambda: bench.sync("s0"))
    bench.raw.hset(bench.store.keys.key("meta"), "closed_until", 1)
    yield "sync when grants go on after a loss", bench.timed(lambda: bench.sync("s0"))
    yield from _set_at_run_time(bench, [*config])
    yield from _counted(bench, [*config])


def _set_at_run_time(bench: Bench, limits: list[str]) -> Iterator[tuple[str, float]]:
    """All of these were set at run time, for a time."""
    key = bench.store.keys.key
    text = json.dumps({"max": 9, "set": {"by": "bench", "at": 1, "ends": 1}})
    before_loss = Former(("gone",), "another:1", version=10**9, overrides=dict.fromkeys(limits, text))
    for _, took in bench.timed_scripts(lambda: bench.store._restore(before_loss)):
        yield "what was set comes back after a loss, a piece of up to 12", took
    bench.raw.hset(key("meta"), "next_override_end", 1)
    while bench.raw.exists(key("ends")):
        yield "sync while what was set for a time ends", bench.timed(lambda: bench.sync("s0"))


def _counted(bench: Bench, limits: list[str]) -> Iterator[tuple[str, float]]:
    """A session has run tasks under all of these, and has more of them parked."""
    counters = Counters()
    for turn in range(3):
        for limit in limits:
            counters.granted((limit,), 0.2)
            for _ in range(8):
                counters.released((limit,), 999.0, 0.2, 7.0)
        is_more = True
        while is_more:
            with counters.collect(1000.0, dict.fromkeys(limits, turn + 1)) as record:
                assert record is not None
                yield "what a session counted, a piece of up to 12 limits", bench.timed(partial(bench.record, record))
            is_more = counters.is_more


def _queue_up(bench: Bench, size: int, room: int) -> None:
    """So many requests stand in the line of the limit, of sessions with so much room."""
    bench.enter("holder", {"app": 1})
    bench.ask("holder", "app")
    for number in range(0, size, IN_LINE):
        name = f"w{number}"
        bench.enter(name, {"app": 1}, room=room)
        bench.ask(name, "app", count=min(IN_LINE, size - number), room=room)


def waiters(bench: Bench, size: int) -> Iterator[tuple[str, float]]:
    """So many requests wait for one limit, and their sessions have room."""
    _queue_up(bench, size, 1000)
    bench.enter("last", {"app": 1}, room=1)
    for _ in range(REPEATS):
        yield "sync, asks for a permit behind them", bench.timed(lambda: bench.ask("last", "app", room=1))
        yield "sync, withdraws it", bench.timed(lambda: bench.ask("last", "app", count=0, room=1))
        yield STATUS, bench.timed(lambda: bench.store.status("app", sessions=False))
    for _ in range(min(size, REPEATS)):
        yield "sync, a task ended and the first is granted", bench.timed(bench.end_first(1000))


def without_room(bench: Bench, size: int) -> Iterator[tuple[str, float]]:
    """So many requests wait for one limit whose sessions have no room; one behind them has some."""
    _queue_up(bench, size, 0)
    bench.enter("able", {"app": 1})
    bench.ask("able", "app", count=IN_LINE)
    for _ in range(REPEATS):
        yield "sync, a task ended and the next one's session has room", bench.timed(bench.end_first(100))
        while not bench.raw.exists(bench.store.keys.key("units")):  # the first time they are passed, piece by piece
            yield "sync, goes on with a line", bench.timed(lambda: bench.sync("able", room=100))
    yield "sync, a session has room again", bench.timed(lambda: bench.sync("w0", room=1))


#: What people ask, page by page: the script, and what it is asked.
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "names of all limits": ("names", {}),
    "sessions": ("sessions", {}),
    "holders of one limit": ("holders", {"limit": "app"}),
    "line of one limit": ("waiting", {"limit": "pool:w"}),
    "a task that isn't there": ("find", {"task": "nowhere"}),
    "tasks that have ended": ("recent", {"limit": "app", "span": 10**9}),
    "totals": ("totals", {}),
    "audit": ("audit", {"repair": False}),
    "repair": ("audit", {"repair": True}),
}


def everything(bench: Bench, size: int) -> Iterator[tuple[str, float]]:
    """So many sessions, each of which runs a task and waits for another; as many limits, totals and ended tasks."""
    names = [f"s{number:05}" for number in range(size)]
    claims = claims_on(("app",))
    for name in names:
        bench.open(name, {"app": size, "pool:w": 0})
        runs = running_text([Running(claims, f"run-{name}", "proj.task", 1.0)])
        bench.sync(name, full=True, units={"app": 1}, idle={}, running=runs)
        bench.ask(name, "pool:w")
    limits = [f"queue:q{number}" for number in range(size)]
    bench.open("all", dict.fromkeys(limits, 8))
    with bench.raw.pipeline(transaction=False) as pipe:
        for limit in limits:
            pipe.hset(bench.store.keys.key("totals"), limit, TOTAL)
            pipe.xadd(bench.store.keys.key("recent"), {"limits": ENDED}, maxlen=5000)
        pipe.execute()
    for _ in range(REPEATS):
        yield STATUS, bench.timed(lambda: bench.store._run("status", {"limits": ["app"]}))
        chosen = ["app", "pool:w", *limits][:PAGE]
        yield (
            "status of a page of limits",
            bench.timed(lambda chosen=chosen: bench.store._run("status", {"limits": chosen})),
        )
    configured = {"values of a configuration": ("configured", {"digest": digest_of(dict.fromkeys(limits, 8))})}
    for what, (script, asked) in {**ASKED, **configured}.items():
        for _ in range(REPEATS if size <= 100 else 1):
            after: Any = None
            while True:
                took, reply = bench.answered(script, {**asked, "after": after})
                yield f"{what}, a page", took
                if (after := reply.get("next")) is None:
                    break


#: What has been counted under a limit, and what one heartbeat told of ended tasks.
TOTAL = json.dumps(
    {"grants": 1000, "wait": [60] * 16, "waited": 9999, "hold": [60] * 16, "held": 9999, "lately": [[1, 1]] * 12}
)
ENDED = json.dumps({"app": {"ended": 8, "samples": [[100, 200, 300]] * 8}}, separators=(",", ":"))


SITUATIONS: dict[str, Situation] = {
    "sessions": sessions,
    "limits": limits,
    "waiters with room": waiters,
    "waiters without room": without_room,
    "of everything": everything,
}


def measure(server: RedisServer, sizes: list[int], only: list[str]) -> dict[str, dict[str, Row]]:
    """All situations at all sizes."""
    bench, found = Bench(server), {name: {} for name in only}  # type: dict[str, dict[str, Row]]
    for name in only:
        for size in sizes:
            bench.begin()
            calls: dict[str, list[float]] = {}
            for what, took in SITUATIONS[name](bench, size):
                calls.setdefault(what, []).append(took)
            for what, took in calls.items():
                row = found[name].setdefault(what, Row(what))
                row.median[size], row.longest[size] = statistics.median(took), max(took)
            print(f"{name}: {size} done", file=sys.stderr)
    return found


def table(found: dict[str, dict[str, Row]], sizes: list[int]) -> str:
    """What was measured, in Markdown."""
    least, most = min(sizes), max(sizes)
    head = [f"| {{}} | {' | '.join(f'{size:,}' for size in sizes)} | {most:,} ÷ {least:,} | longest at {most:,} |"]
    lines: list[str] = []
    for name, rows in found.items():
        lines += ["", head[0].format(name), "| --- |" + " --- |" * (len(sizes) + 2)]
        for row in rows.values():
            times = " | ".join(f"{row.median[size]:.2f}" if size in row.median else "-" for size in sizes)
            ratio = row.median[most] / row.median[least] if {least, most} <= row.median.keys() else 0
            shown = f"{ratio:.1f}" if ratio else "-"
            lines.append(f"| {row.name} | {times} | {shown} | {row.longest.get(most, 0):.1f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--only", nargs="+", choices=list(SITUATIONS), default=list(SITUATIONS))
    parser.add_argument("--print", action="store_true", help="write no page")
    asked = parser.parse_args()
    # A socket for each session that listens, here and there.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with redis_server(None, "--maxclients", str(max(asked.sizes) + 100)) as server:
        found = measure(server, asked.sizes, asked.only)
    text = table(found, asked.sizes)
    print(text)
    if not asked.print:
        page = PAGE_WRITTEN.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        PAGE_WRITTEN.write_text(before + BEGIN + "\n" + text + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
