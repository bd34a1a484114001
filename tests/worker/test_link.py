"""The link: the thread around a session, over a real Redis, with no worker."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from billiard import Process

from celery_gconc.errors import StoreUnavailable
from celery_gconc.limits.claims import claims_on
from celery_gconc.worker.session import forks
from celery_gconc.worker.session.link import Link
from tests.kit.proxy import Proxy, proxy
from tests.kit.servers import ROOT, wait_until

from .session_parts import Parts, Request

#: A link that sees soon that Redis is away.
QUICK = {"global_concurrency_heartbeat_interval": 0.5, "global_concurrency_heartbeat_timeout": 1.5}


@pytest.fixture
def way(redis_process: Any) -> Iterator[Proxy]:
    """The way to Redis."""
    with proxy(redis_process.port) as made:
        yield made


@pytest.fixture
def parts(way: Proxy) -> Parts:
    """What a link over that way is made of."""
    return Parts(f"redis://127.0.0.1:{way.port}/0", **QUICK)


@pytest.fixture
def start(redis_url: str) -> Iterator[Callable[[Parts], Link]]:
    """Starts links, and stops them at the test's end."""
    with ExitStack() as stack:

        def start(parts: Parts) -> Link:
            link = parts.link()
            link.start()
            stack.callback(link.stop)
            return link

        yield start


def connected(parts: Parts) -> None:
    wait_until(lambda: parts.health.connected, what="it is connected")


def away(parts: Parts) -> None:
    wait_until(lambda: parts.health.is_away, what="Redis is away")


def test_a_link_opens_a_session_and_ends_it_when_it_is_stopped(parts, start, namespace):
    link = start(parts)
    connected(parts)
    assert namespace.live() == [link.session.id]
    assert parts.health.trouble is None
    link.stop()
    assert namespace.live() == []
    assert not link._thread.is_alive()
    assert "shutting down" in (parts.health.trouble or "")


def test_a_link_that_is_stopped_carries_on_until_the_last_task_has_ended(parts, start, namespace):
    link = start(parts)
    connected(parts)
    request = Request(claims_on(("none",)))
    assert parts.ledger.start_uncovered(request)
    link.stop()
    first = link.session.id
    key = namespace.keys.key("session")
    before = int(namespace.raw.hget(key, f"{first}:sync"))
    wait_until(lambda: int(namespace.raw.hget(key, f"{first}:sync")) > before + 1, what="it renews the lease")
    parts.ledger.ended(request)
    link.stop()
    assert namespace.live() == []


#: A process that has done all but one task, on a pool's thread, which ends with the process' input.
LAST_TASK = """
import sys
from concurrent.futures import ThreadPoolExecutor
from celery_gconc.limits.claims import claims_on
from tests.kit.servers import ROOT, wait_until
from tests.worker.session_parts import Parts, Request

parts, request = Parts(sys.argv[1]), Request(claims_on(("none",)))
link = parts.link()
link.start()
wait_until(lambda: parts.health.connected)
parts.ledger.start_uncovered(request)
ThreadPoolExecutor().submit(lambda: (sys.stdin.read(), parts.ledger.ended(request)))
link.stop()
print("stopped", flush=True)
"""


@pytest.mark.process
def test_a_process_that_ends_with_its_last_task_ends_its_session_first(way, redis_url, namespace):
    url = f"redis://127.0.0.1:{way.port}/0"
    command = [sys.executable, "-c", LAST_TASK, url]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stopped\n"
        assert len(namespace.live()) == 1
        way.delay(0.05)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert namespace.live() == []


def test_a_link_says_that_redis_is_away_and_that_it_is_back(parts, start, way, namespace):
    start(parts)
    connected(parts)
    way.cut()
    away(parts)
    assert str(way.port) in (parts.health.trouble or "")
    woken = parts.consumer.wakes
    way.restore()
    connected(parts)
    assert parts.consumer.wakes > woken


def test_what_others_want_done_with_redis_is_done_on_the_link_s_thread(parts, start):
    link = start(parts)
    connected(parts)
    assert link.call(lambda store: threading.current_thread().name).result(10) == "celery-gconc-link"
    with pytest.raises(ZeroDivisionError):
        link.call(lambda store: 1 / 0).result(10)
    assert parts.health.connected


def test_what_others_want_done_with_redis_fails_at_once_where_it_is_away(parts, start, way):
    link = start(parts)
    connected(parts)
    way.cut()
    away(parts)
    with pytest.raises(StoreUnavailable):
        link.call(lambda store: store.status()).result(0)


@pytest.mark.parametrize("is_away", [False, True])
def test_nobody_who_gave_up_on_an_answer_harms_the_link(parts, start, caplog, is_away):
    link = start(parts)
    connected(parts)
    is_busy, go_on = threading.Event(), threading.Event()

    def wait(store: Any) -> None:
        is_busy.set()
        go_on.wait(10)
        if is_away:
            raise StoreUnavailable("so says this test")

    first = link.call(wait)
    assert is_busy.wait(10)
    second = link.call(lambda store: pytest.fail("nobody wants it"))
    assert second.cancel()
    go_on.set()
    assert isinstance(first.exception(10), StoreUnavailable if is_away else type(None))
    connected(parts)
    wait_until(lambda: link.call(lambda store: 1).exception(10) is None, what="it is served")
    assert not [one for one in caplog.messages if "unexpected" in one or "failed" in one]


@pytest.mark.process
@pytest.mark.parametrize("where", ["while Redis is there", "where a failure is handled"])
def test_an_unexpected_error_does_not_end_the_link(parts, start, way, namespace, caplog, where):
    link = start(parts)
    connected(parts)
    failures = iter([RuntimeError("out of order")])

    def fail(*_: Any) -> None:
        if (failure := next(failures, None)) is not None:
            raise failure

    if where == "while Redis is there":
        parts.runs.child_exited = fail
        parts.children.watch(_process_that_has_ended())
        wait_until(lambda: "unexpected error in the link" in caplog.text, what="it fails")
    else:
        parts.consumer.wake = fail  # as it is woken when Redis is away
        way.cut()
        away(parts)
        wait_until(lambda: "while handling a failure" in caplog.text, what="it fails there")
        way.restore()
    wait_until(lambda: "out of order" in caplog.text, what="the log has it")
    wait_until(lambda: _answers(link), what="it goes on")  # it may be about to say that Redis is away
    connected(parts)
    assert link.session.id in namespace.live()


def _answers(link: Link) -> bool:
    try:
        return link.call(lambda store: True).result(10)
    except StoreUnavailable:
        return False


@pytest.mark.process
def test_the_exit_of_a_child_is_noticed(parts, start):
    start(parts)
    connected(parts)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        parts.children.watch(child.pid)
        parts.children.watch(child.pid)
        child.kill()
        wait_until(lambda: parts.runs.exited, what="it is noticed")
    parts.children.watch(_process_that_has_ended())
    wait_until(lambda: len(parts.runs.exited) == 2, what="so is one that had ended before")
    assert parts.runs.exited[0] == child.pid


@pytest.mark.process
def test_the_exit_of_a_child_is_noticed_while_redis_is_away(parts, start, way):
    start(parts)
    connected(parts)
    way.cut()
    away(parts)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        parts.children.watch(child.pid)
        child.kill()
        wait_until(lambda: parts.runs.exited == [child.pid], what="it is noticed")


def test_a_result_that_was_written_is_noticed_once_for_each_job(parts, start):
    start(parts)
    connected(parts)
    readers, writers = zip(*(os.pipe() for _ in range(3)), strict=True)
    try:
        parts.children.watch_pipes({reader: job for job, reader in enumerate(readers, 10)})
        os.write(writers[0], b"\0")
        os.write(writers[2], b"\0")
        wait_until(lambda: sorted(parts.runs.written) == [10, 12], what="they are noticed")
        os.write(writers[0], b"\0")
        parts.children.watch_pipes({readers[1]: 11})
        os.write(writers[1], b"\0")
        wait_until(lambda: 11 in parts.runs.written, what="the last is noticed")
        assert sorted(parts.runs.written) == [10, 11, 12]
    finally:
        parts.children.watch_pipes({})
        for end in (*readers, *writers):
            os.close(end)


def test_a_worker_that_must_not_run_is_told_so_by_its_health(parts, start, namespace):
    namespace.raw.config_set("maxmemory-policy", "allkeys-lru")
    try:
        link = start(parts)
        assert parts.health.tried.wait(10)
        assert "may evict celery-gconc's keys" in (parts.health.refusal or "")
        assert parts.consumer.wakes >= 1
        link._thread.join(10)
        assert not link._thread.is_alive()
    finally:
        namespace.raw.config_set("maxmemory-policy", "noeviction")


@pytest.mark.process
def test_the_exit_of_a_child_that_has_no_file_descriptor_is_noticed(parts, start, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    start(parts)
    connected(parts)
    first, second = (Process(target=time.sleep, args=(60,)) for _ in range(2))
    for child in (first, second):
        child.start()
        parts.children.watch(child.pid)
    try:
        first.terminate()
        wait_until(lambda: parts.runs.exited == [first.pid], what="it is noticed")
    finally:
        second.terminate()
    wait_until(lambda: parts.runs.exited == [first.pid, second.pid], what="so is the other")


def test_a_child_that_two_threads_ask_for_is_watched_once(parts):
    with selectors.DefaultSelector() as selector:
        parts.children.attach(selector)
        parts.children.watch(os.getpid())
        assert parts.children.exited() is None
        parts.children._wanted.add(os.getpid())  # another had looked before it was begun
        assert parts.children.exited() is None
        assert len(selector.get_map()) == 1
        parts.children.close()
        assert len(selector.get_map()) == 0


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*multi-threaded")
def test_a_forked_process_has_no_file_of_the_link_and_can_use_the_ledger(parts, start):
    link = start(parts)
    forks.keep_out_of_children(link)
    connected(parts)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        parts.children.watch(child.pid)
        wait_until(lambda: parts.children._fds, what="it is watched")
        files = [parts.bell.fileno(), *parts.children._fds.values(), link.notices.socket.fileno()]
        pid = os.fork()
        if not pid:
            left = [fd for fd in files if _is_open(fd)]
            another = threading.Thread(target=parts.ledger.wait, args=(Request(),), daemon=True)
            another.start()
            another.join(10)
            os._exit(len(left) + another.is_alive())
        _, status = os.waitpid(pid, 0)
        child.kill()
    assert os.waitstatus_to_exitcode(status) == 0
    assert link.call(lambda store: 1).result(10) == 1


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*multi-threaded")
def test_threads_that_fork_at_once_leave_the_ledger_usable(parts, start):
    link = start(parts)
    forks.keep_out_of_children(link)
    connected(parts)

    def fork() -> None:
        for _ in range(20):
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)

    threads = [threading.Thread(target=fork, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    parts.ledger.wait(Request())
    wait_until(lambda: parts.ledger.next() is not None, what="it is granted")


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _process_that_has_ended() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    return child.pid
