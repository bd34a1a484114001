"""Who follows the README of an example gets what it shows, on real workers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis
from celery import VERSION

from tests.conftest import unavailable
from tests.kit.servers import ROOT, free_port, wait_until
from tests.tutorial.walk import Walk


def numbers(pattern: str, text: str) -> list[int]:
    """The groups of *pattern*, found once in *text*, as numbers."""
    found = re.search(pattern, text)
    assert found, text
    return [int(group) for group in found.groups()]


def test_basic_runs_20_tasks_and_never_more_than_its_limits_allow(follow: Callable[..., Walk]) -> None:
    told = follow("basic").told
    assert "20 tasks ran, at most 4 at once (queue:emails allows 4)\n" in told
    assert "queue:emails: was 8, now 4 (configured)\n" in told


STEP = re.compile(r"^  ([a-z 0-9]+): +max (\w+(?:, paused)?); (\d+) running", re.MULTILINE)


def test_resize_live_shows_each_value_hold(follow: Callable[..., Walk]) -> None:
    steps = STEP.findall(follow("resize_live").told)
    assert len(steps) == 7
    running = {step: int(count) for step, _, count in steps}
    assert running["paused"] == 0
    assert all(running[step] <= int(maximum) for step, maximum, _ in steps if maximum.isdigit())


def test_fencing_has_the_store_refuse_a_writer_that_lost_its_lease(follow: Callable[..., Walk]) -> None:
    told = follow("fencing").told
    (old,) = numbers(r"old: has permit (\d+)", told)
    (new,) = numbers(r"new: has permit (\d+)", told)
    assert new > old
    assert f"the store has 'new', of permit {new}\n" in told


def test_shared_pool_never_has_more_users_of_a_resource_than_its_limit_allows(follow: Callable[..., Walk]) -> None:
    told = follow("shared_pool").told
    assert "32 used db-writers, at most 3 at once (pool:db-writers allows 3)\n" in told
    assert "8 used search, at most 1 at once (pool:search allows 1)\n" in told
    assert "pool:db-writers: was 5, now 3 (configured)\n" in told


def test_monitoring_has_prometheus_know_what_runs(follow: Callable[..., Walk], tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        unavailable("no prometheus on the path")
    port = str(free_port())
    walker = follow(
        "monitoring", _9808=str(free_port()), _9090=port, **{"/tmp/gconc-prometheus": str(tmp_path / "data")}
    )
    assert "12 rules found" in walker.told
    query = f"promtool query instant http://127.0.0.1:{port} 'max by (limit) (celery_gconc_permits)'"
    wait_until(lambda: '{limit="queue:emails"} => 3 @' in walker.type(query), 60, "its limit is full")


#: Logs in as the user of the README, sets a limit on the page, badly, then well; and looks at it.
ON_THE_PAGE = """
from django.test import Client
client = Client()
assert client.get("/limits/").status_code == 302
assert client.login(username="ops", password="ops")
bad = client.post("/limits/", {"limit": "emials:x", "max": "3"})
print("BAD", bad.status_code, "unknown scope" in bad.content.decode())
good = client.post("/limits/", {"limit": "emails", "max": "3", "minutes": "1", "reason": "night"}, follow=True)
page = " ".join(good.content.decode().split())
print("GOOD", good.status_code, "queue:emails: was 4, now 3" in page, "<td>ops</td> <td>night</td>" in page)
print("WORKERS", "2 workers" in page)
"""


@pytest.mark.takes_long(37)
@pytest.mark.timeout(300)
def test_django_sends_receipts_within_the_limit_and_its_page_changes_that(
    follow: Callable[..., Walk], tmp_path: Path, redis_url: str
) -> None:
    walker = follow("django", _8000=str(free_port()))
    assert "System check identified no issues" in walker.told
    assert "at most 2 at once\n" in walker.told
    (tmp_path / "page.py").write_text(ON_THE_PAGE)
    said = walker.type(f"python manage.py shell < {tmp_path / 'page.py'}")
    assert "BAD 200 True" in said
    assert "GOOD 200 True True" in said
    assert "WORKERS True" in said
    with redis.Redis.from_url(redis_url) as client:
        assert client.exists("{shop}:v1:meta"), "the prefix is the one of the settings"

    # No more tasks have a connection to the database than may run; at rest nobody has.
    project = tmp_path / "root" / "examples" / "django"
    connected = connections_while(walker, project, "python manage.py place_orders 30 > placed &", "placed")
    assert numbers(r"at most (\d+) at once", (project / "placed").read_text()) == [3], "what the page has set holds"
    assert 1 <= max(connected) <= 3
    wait_until(lambda: not open_connections(project), 20, "all connections are closed")

    # With a CONN_MAX_AGE a process keeps its own, up to Celery 5.5.
    settings = project / "shop" / "settings.py"
    settings.write_text(settings.read_text() + "DATABASES['default']['CONN_MAX_AGE'] = None\n")
    walker.interrupt()
    with walker.beside("celery -A shop worker -n w3@%h -c 4 -Q emails,celery", "cd examples/django"):
        connections_while(walker, project, "python manage.py place_orders 30 > kept &", "kept")
        assert numbers(r"at most (\d+) at once", (project / "kept").read_text()) == [3]
        if VERSION < (5, 6):
            assert open_connections(project) >= 3
        else:
            wait_until(lambda: not open_connections(project), 20, "all connections are closed")

    settings.write_text(settings.read_text() + "CELERY_GLOBAL_CONCURRENCY_LIMITS = {'queue:emails': -1}\n")
    (line,) = re.findall(r"^Error: .*-1$", (ROOT / "docs" / "how-to" / "django.md").read_text(), re.MULTILINE)
    assert line in " ".join(walker.type("celery -A shop worker || true").split())


def connections_while(walker: Walk, project: Path, command: str, said: str) -> list[int]:
    """Run a command that places orders; how many pool processes were connected to the database, time and again."""
    connected: list[int] = []

    def is_placed() -> bool:
        connected.append(open_connections(project))
        return "at most" in (project / said).read_text()

    walker.type(command)
    wait_until(is_placed, 60, "receipts are sent")
    return connected


def open_connections(project: Path) -> int:
    """How many pool processes have the database open at one instant: they stand still while they are looked at."""
    children = pool_children(project)
    for process in children:
        with suppress(psutil.Error):
            process.suspend()
    try:
        return sum(has_open(process, project / "db.sqlite3") for process in children)
    finally:
        for process in children:
            with suppress(psutil.Error):
                process.resume()


def pool_children(project: Path) -> list[psutil.Process]:
    """The processes of the pools of the workers that run in this folder."""
    found = [p for p in psutil.process_iter(["cwd", "cmdline"]) if p.info["cwd"] == str(project)]
    workers = {p.pid for p in found if "worker" in (p.info["cmdline"] or [])}
    return [p for p in found if p.pid in workers and p.ppid() in workers]


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
