"""Who follows the README of an example gets what it shows, on real workers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis
from celery import VERSION

from tests.conftest import unavailable
from tests.examples.conftest import Walks, following
from tests.kit.servers import ROOT, RedisServer, free_port, wait_until
from tests.kit.tiers import starts
from tests.tutorial.walk import Walk

#: How many READMEs are followed at the same time.
READERS = 3

#: Those that are followed: what takes long is begun first.
READMES = ("django", "resize_live", "shared_pool", "basic", "monitoring", "fencing")


@pytest.fixture(scope="module")
def prometheus_port() -> str:
    """Where the Prometheus of the example listens."""
    return str(free_port())


@pytest.fixture(scope="module")
@starts("process")
def walks(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    prometheus_port: str,
    redis_process: RedisServer,
) -> Iterator[Walks]:
    """Follows the READMEs that tests of this run are about: a test's name begins with that of its example."""
    folder = tmp_path_factory.mktemp("walks")
    instead = {
        "8000": str(free_port()),
        "9808": str(free_port()),
        "9090": prometheus_port,
        "/tmp/gconc-prometheus": str(folder / "prometheus"),
        "_interval: 5s": "_interval: 1s",
    }
    names = [item.name for item in request.session.items if item.path == request.path]
    with following(folder, READERS) as walks:
        for example in READMES:
            if any(name.startswith(f"test_{example}_") for name in names):
                walks.begin(example, instead)
        yield walks


def numbers(pattern: str, text: str) -> list[int]:
    """The groups of *pattern*, found once in *text*, as numbers."""
    found = re.search(pattern, text)
    assert found, text
    return [int(group) for group in found.groups()]


def test_basic_runs_20_tasks_and_never_more_than_its_limits_allow(walks: Walks) -> None:
    told = walks.of("basic").told
    assert "20 tasks ran, at most 4 at once (queue:emails allows 4)\n" in told
    assert "queue:emails: was 8, now 4 (configured)\n" in told


STEP = re.compile(r"^  ([a-z 0-9]+): +max (\w+(?:, paused)?); (\d+) running", re.MULTILINE)


def test_resize_live_shows_each_value_hold(walks: Walks) -> None:
    steps = STEP.findall(walks.of("resize_live").told)
    assert len(steps) == 7
    running = {step: int(count) for step, _, count in steps}
    assert running["paused"] == 0
    assert all(running[step] <= int(maximum) for step, maximum, _ in steps if maximum.isdigit())


def test_fencing_has_the_store_refuse_a_writer_that_lost_its_lease(walks: Walks) -> None:
    told = walks.of("fencing").told
    (old,) = numbers(r"old: has permit (\d+)", told)
    (new,) = numbers(r"new: has permit (\d+)", told)
    assert new > old
    assert f"the store has 'new', of permit {new}\n" in told


def test_shared_pool_never_has_more_users_of_a_resource_than_its_limit_allows(walks: Walks) -> None:
    told = walks.of("shared_pool").told
    assert "32 used db-writers, at most 3 at once (pool:db-writers allows 3)\n" in told
    assert "8 used search, at most 1 at once (pool:search allows 1)\n" in told
    assert "pool:db-writers: was 5, now 3 (configured)\n" in told


def test_monitoring_has_prometheus_know_what_runs(walks: Walks, prometheus_port: str) -> None:
    if shutil.which("prometheus") is None:
        unavailable("no prometheus on the path")
    walker = walks.of("monitoring")
    assert "12 rules found" in walker.told
    query = f"promtool query instant http://127.0.0.1:{prometheus_port} 'max by (limit) (celery_gconc_permits)'"
    wait_until(lambda: '{limit="queue:emails"} => 3 @' in walker.type(query), 60, "its limit is full")


#: Logs in as the user of the README, sets a limit on the page, badly, then well; and looks at it.
ON_THE_PAGE = """
from django.test import Client
client = Client()
assert client.get("/limits/").status_code == 302
assert client.login(username="ops", password="ops")
bad = client.post("/limits/", {"limit": "emials:x", "max": "3"})
print("BAD", bad.status_code, "unknown scope" in bad.content.decode())
good = client.post("/limits/", {"limit": "emails", "max": "3", "minutes": "10", "reason": "night"}, follow=True)
page = " ".join(good.content.decode().split())
print("GOOD", good.status_code, "queue:emails: was 4, now 3" in page, "<td>ops</td> <td>night</td>" in page)
print("WORKERS", "2 workers" in page)
"""


@pytest.mark.takes_long(37)
@pytest.mark.timeout(300)
def test_django_sends_receipts_within_the_limit_and_its_page_changes_that(walks: Walks, tmp_path: Path) -> None:
    walker, project = walks.of("django"), walks.root("django") / "examples" / "django"
    assert "System check identified no issues" in walker.told
    assert "at most 2 at once\n" in walker.told
    (tmp_path / "page.py").write_text(ON_THE_PAGE)
    said = walker.type(f"python manage.py shell < {tmp_path / 'page.py'}")
    assert "BAD 200 True" in said
    assert "GOOD 200 True True" in said
    assert "WORKERS True" in said
    with redis.Redis.from_url(walker.type("echo $REDIS_URL").strip()) as client:
        assert client.exists("{shop}:v2:meta"), "the prefix is the one of the settings"

    # No more tasks have a connection to the database than may run; at rest nobody has.
    children = pool_children(project, 8)
    connected = connections_while(walker, project, "python manage.py place_orders 12 > placed &", "placed", children)
    assert numbers(r"at most (\d+) at once", (project / "placed").read_text()) == [3], "what the page has set holds"
    assert 1 <= max(connected) <= 3
    wait_until(lambda: not open_connections(project, children), 20, "all connections are closed")

    # With a CONN_MAX_AGE a process keeps its own, up to Celery 5.5.
    walker.interrupt()
    settings = project / "shop" / "settings.py"
    settings.write_text(settings.read_text() + "DATABASES['default']['CONN_MAX_AGE'] = None\n")
    with walker.beside("celery -A shop worker -n w3@%h -c 4 -Q emails,celery", "cd examples/django"):
        children = pool_children(project, 4)
        connections_while(walker, project, "python manage.py place_orders 12 > kept &", "kept", children)
        assert numbers(r"at most (\d+) at once", (project / "kept").read_text()) == [3]
        if VERSION < (5, 6):
            assert open_connections(project, children) >= 3
        else:
            wait_until(lambda: not open_connections(project, children), 20, "all connections are closed")

    settings.write_text(settings.read_text() + "CELERY_GLOBAL_CONCURRENCY_LIMITS = {'queue:emails': -1}\n")
    (line,) = re.findall(r"^Error: .*-1$", (ROOT / "docs" / "how-to" / "django.md").read_text(), re.MULTILINE)
    assert line in " ".join(walker.type("celery -A shop worker || true").split())


def connections_while(
    walker: Walk, project: Path, command: str, said: str, children: list[psutil.Process]
) -> list[int]:
    """Run a command that places orders; how many pool processes were connected to the database, time and again."""
    connected: list[int] = []

    def is_placed() -> bool:
        connected.append(open_connections(project, children))
        told = project / said  # the shell makes it in the background
        return told.exists() and "at most" in told.read_text()

    walker.type(command)
    wait_until(is_placed, 60, "receipts are sent")
    return connected


def open_connections(project: Path, children: list[psutil.Process]) -> int:
    """How many pool processes have the database open at one instant: they stand still while they are looked at."""
    for process in children:
        with suppress(psutil.Error):
            process.suspend()
    try:
        return sum(has_open(process, project / "db.sqlite3") for process in children)
    finally:
        for process in children:
            with suppress(psutil.Error):
                process.resume()


def pool_children(project: Path, count: int) -> list[psutil.Process]:
    """The processes of the pools of the workers that run in this folder, once there are so many."""

    def found() -> list[psutil.Process]:
        here = [p for p in psutil.process_iter(["cwd", "cmdline"]) if p.info["cwd"] == str(project)]
        workers = {p.pid for p in here if "worker" in (p.info["cmdline"] or [])}
        children = [p for p in here if p.pid in workers and p.ppid() in workers]
        return children if len(children) == count else []

    children: list[psutil.Process] = wait_until(found, 60, f"{count} pool processes")
    return children


def has_open(process: psutil.Process, path: Path) -> bool:
    """Whether a process has a file open now."""
    with suppress(psutil.Error):
        return any(found.path == str(path) for found in process.open_files())
    return False


@pytest.mark.parametrize("example", sorted(path.parent.name for path in (ROOT / "examples").glob("*/README.md")))
def test_a_readme_names_only_modules_that_exist(example: str) -> None:
    for module in re.findall(r"examples\.([\w.]+)", (ROOT / "examples" / example / "README.md").read_text()):
        assert (ROOT / "examples" / module.replace(".", "/")).with_suffix(".py").exists(), module


def test_the_page_on_django_shows_the_example_s_own_module() -> None:
    page = (ROOT / "docs" / "how-to" / "django.md").read_text()
    shown = [line for line in re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0].splitlines() if line]
    module = (ROOT / "examples" / "django" / "shop" / "celery.py").read_text().splitlines()
    assert shown == [line for line in module[2:] if line and "__future__" not in line]
