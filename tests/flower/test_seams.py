"""The seams of Flower that are used are undocumented: what happens where one is gone, and where Redis is."""

from __future__ import annotations

import dataclasses
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from celery_gconc.flower import install_when_flower_starts
from tests.flower.kit import VERSIONS, Flower, flower
from tests.kit.namespace import empty_namespace
from tests.kit.servers import ROOT, RedisServer, redis_server, wait_until
from tests.kit.tiers import starts
from tests.kit.workers import Cluster

ALL = {"/metrics", "/api/gconc", "/gconc", "the link to /gconc"}

#: What each loss takes along, and what is left.
LOSSES = {
    "nothing": set(),
    "routes": {"/api/gconc", "/gconc"},
    "class of the API": {"/api/gconc"},
    "class of pages": {"/gconc"},
    "registry": {"/metrics"},
    "bar": {"the link to /gconc"},
    "callback": ALL,
    "options": ALL,
}


@pytest.fixture(scope="module")
def broken(bare_cluster: Cluster, versions: tuple[str, ...]) -> Iterator[dict[tuple[str, str], Flower]]:
    """The newest Flower once with each loss, and the others with the largest."""
    cases = [(VERSIONS[-1], loss) for loss in LOSSES] + [(version, "routes") for version in VERSIONS[:-1]]
    with ExitStack() as stack:
        yield {
            (version, loss): stack.enter_context(
                flower(
                    bare_cluster, version, module="tests.flower.broken", FLOWER_UNAUTHENTICATED_API="true",
                    TEST_BREAK=loss, TEST_TEMPLATES=str(bare_cluster.directory / f"templates {version} {loss}"),
                )
            )
            for version, loss in cases
        }  # fmt: skip


@pytest.mark.parametrize(
    ("version", "loss"),
    [(VERSIONS[-1], loss) for loss in LOSSES] + [(version, "routes") for version in VERSIONS[:-1]],
)
def test_a_seam_that_is_gone_takes_no_other_along_and_is_one_line_in_the_log(
    broken: dict[tuple[str, str], Flower], version: str, loss: str
):
    here = broken[version, loss].ready()
    gone = LOSSES[loss] | ({"the link to /gconc"} if "/gconc" in LOSSES[loss] else set())
    front = here.ask("/")
    assert front.code == 200
    found = {path for path in ("/gconc", "/api/gconc") if here.ask(path).code == 200}
    found |= {"/metrics"} if "celery_gconc_up" in here.ask("/metrics").text else set()
    found |= {"the link to /gconc"} if 'href="/gconc"' in front.text else set()
    assert found == ALL - gone

    lines = [line for line in here.output().splitlines() if "celery-gconc" in line]
    assert len(lines) == bool(gone), here.output()
    for line in lines:
        assert f"missing in this Flower ({version}): " in line
        assert "The limits are still on each worker's page, on the Other tab." in line
        for what in LOSSES[loss] if len(LOSSES[loss]) < len(ALL) else ["everything"]:
            assert f"{what} (" in line
    assert "Traceback" not in here.output()


def test_a_page_without_its_api_says_that_it_can_change_nothing(broken: dict[tuple[str, str], Flower]):
    here = broken[VERSIONS[-1], "class of the API"].ready()
    assert "celery-gconc can show limits but not change them" in here.ask("/gconc").text


def test_nothing_is_installed_in_a_process_that_is_not_flowers_or_for_an_app_that_is_switched_off(
    bare_cluster: Cluster, versions: tuple[str, ...]
):
    # As a Tornado application that imports the Celery app may do, and as `celery worker` does but for the options.
    text = """
from tests.cluster.app import app
import sys
assert not {name.partition(".")[0] for name in sys.modules} & {"flower", "tornado", "prometheus_client"}
import flower.command, flower.urls
from prometheus_client import REGISTRY
from celery_gconc.flower import install_when_flower_starts
from tornado.options import options
before = list(flower.urls.handlers), list(REGISTRY._collector_to_names), dict(flower.urls.settings)
install_when_flower_starts(app)
options.run_parse_callbacks()
import click
from celery import Celery
from types import SimpleNamespace
for command, loaded in (("worker", app), ("flower", Celery("another"))):
    with click.Context(click.Command(command), info_name=command, obj=SimpleNamespace(app=loaded)):
        options.run_parse_callbacks()
assert before == (flower.urls.handlers, list(REGISTRY._collector_to_names), flower.urls.settings)
from celery_gconc.flower import install
off = Celery("switched off", broker="redis://", set_as_current=False)
off.conf.global_concurrency_enabled = False
install(off)
assert before == (flower.urls.handlers, list(REGISTRY._collector_to_names), flower.urls.settings)
"""
    env = {**bare_cluster.env, "PYTHONPATH": f"{ROOT / '.cache/flower' / VERSIONS[-1]}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", text], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_installing_needs_no_flower():
    assert "flower.command" not in sys.modules
    install_when_flower_starts(object())  # type: ignore[arg-type]


# -- Redis is away -------------------------------------------------------------------------------------------


@pytest.fixture
@starts("redis")
def coordination(flower_redis: RedisServer) -> Iterator[RedisServer]:
    """A coordination Redis that may die; the broker is another."""
    with redis_server() as server:
        empty_namespace(server.url)
        yield server


def test_a_redis_that_is_silent_or_away_is_told_and_flower_goes_on(
    bare_cluster: Cluster, coordination: RedisServer, versions: tuple[str, ...]
):
    conf = {**bare_cluster.conf, "global_concurrency_redis_url": coordination.url}
    apart = dataclasses.replace(bare_cluster, conf=conf)
    with flower(apart, VERSIONS[0], FLOWER_UNAUTHENTICATED_API="true") as here:
        here.ready()
        assert here.ask("/gconc?json=1").code == 200
        wait_until(lambda: "celery_gconc_up 1.0" in here.ask("/metrics").text, what="it is up")

        coordination.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: here.ask("/gconc?json=1").code == 503, what="what was heard is too old")
        asked = threading.Thread(target=here.ask, args=("/gconc?json=1",))
        asked.start()
        took = [_seconds(here, "/healthcheck") for _ in range(10)]
        assert max(took) < 0.5, took  # while a call to Redis is under way
        asked.join()
        wait_until(lambda: "celery_gconc_up 0.0" in here.ask("/metrics").text, what="it is down")
        assert _seconds(here, "/metrics") < 1.0
        told = here.ask("/api/gconc", "action=set&limit=emails&max=3")
        assert (told.code, "coordination Redis" in told.json["error"]) == (503, True)

        coordination.process.kill()
        coordination.process.wait(10)
        told = here.ask("/gconc?json=1")
        assert (told.code, "coordination Redis" in told.json["error"]) == (503, True)
        assert "celery_gconc_up 0.0" in here.ask("/metrics").text
        assert "flower_worker_online" in here.ask("/metrics").text
        with nobody_answers(coordination.port):
            assert _seconds(here, "/metrics") < 1.0
            assert "celery_gconc_up 0.0" in here.ask("/metrics").text
        with redis_server(coordination.port):
            wait_until(lambda: here.ask("/gconc?json=1").code == 200, what="it is back")
            wait_until(lambda: "celery_gconc_up 1.0" in here.ask("/metrics").text, what="it is up again")
        assert "Traceback" not in here.output()


@contextmanager
def nobody_answers(port: int) -> Iterator[None]:
    """Have connecting to this port take for ever, as where a firewall drops packets."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=0))
        for _ in range(3):  # until no more are let in
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield


def _seconds(here: Flower, path: str) -> float:
    began = time.monotonic()
    assert here.ask(path).code == 200
    return time.monotonic() - began
