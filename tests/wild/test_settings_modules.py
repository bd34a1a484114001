"""One settings module of a Django project, two Celery apps with a namespace each, and settings of others beside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.servers import RedisServer
from tests.kit.shell import Shell
from tests.kit.tiers import starts

SETTINGS = """
SECRET_KEY = "for this test only"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
USE_TZ = True

CELERY_BROKER_URL = "{broker}/1"
CELERY_TASK_DEFAULT_QUEUE = "shop"
CELERY_GLOBAL_CONCURRENCY_REDIS_URL = "{redis}"
CELERY_GLOBAL_CONCURRENCY_KEY_PREFIX = "shop"
CELERY_GLOBAL_CONCURRENCY_LIMITS = {{"shop": 3}}

REPORTS_BROKER_URL = "{broker}/2"
REPORTS_TASK_DEFAULT_QUEUE = "reports"
REPORTS_GLOBAL_CONCURRENCY_REDIS_URL = "{redis}"
REPORTS_GLOBAL_CONCURRENCY_KEY_PREFIX = "reports"
REPORTS_GLOBAL_CONCURRENCY_LIMITS = {{"reports": 1, "app": 7}}

MYAPP_GLOBAL_CONCURRENCY_BUDGET = 100
MYAPP_GLOBAL_CONCURRENCY_LIMITS = "ten"
thirdparty_global_concurrency_url = "http://:secret@elsewhere"
{more}
"""

APP = """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project_settings")
from celery import Celery
from celery_gconc import GlobalConcurrency

app = Celery("{name}")
app.config_from_object("django.conf:settings", namespace="{namespace}")
gconc = GlobalConcurrency(app)
app.autodiscover_tasks()
"""


@pytest.fixture
@starts("process")
def project(tmp_path: Path, redis_process: RedisServer, redis_url: str):
    """Makes the project, and gives a shell for each of its apps."""

    def make(more: str = "") -> tuple[Shell, Shell]:
        base = redis_process.url.rsplit("/", 1)[0]
        (tmp_path / "project_settings.py").write_text(SETTINGS.format(broker=base, redis=redis_url, more=more))
        for name, namespace in (("shop", "CELERY"), ("reports", "REPORTS")):
            (tmp_path / f"{name}.py").write_text(APP.format(name=name, namespace=namespace))
        return Shell(tmp_path, "shop"), Shell(tmp_path, "reports")

    return make


def limits_of(shell: Shell) -> dict[str, int]:
    done = shell.celery("gconc", "status", "--json")
    assert done.returncode == 0, done.stderr
    return {limit["limit"]: limit["max"] for limit in json.loads(done.stdout)["limits"]}


@pytest.mark.wild("deploys", "Django: two apps, two namespaces and foreign settings in one settings module")
def test_two_apps_in_one_settings_module_each_keep_to_their_own_limits(project):
    shop, reports = project()
    with shop.worker("-P", "solo", "-n", "shop@test") as worker:
        assert limits_of(shop) == {"queue:shop": 3}
        assert not [line for line in worker.ours if "WARNING" in line and "meant" in line]
    with reports.worker("-P", "solo", "-n", "reports@test"):
        assert limits_of(reports) == {"queue:reports": 1, "app": 7}
    assert limits_of(shop) == {"queue:shop": 3}


@pytest.mark.wild("deploys", "Django: a faulty setting of the other app's namespace")
def test_a_faulty_setting_stops_the_app_of_its_namespace_only(project):
    shop, reports = project("REPORTS_GLOBAL_CONCURRENCY_LIMIT = 3")
    assert limits_of(shop) == {"queue:shop": 3}
    done = reports.celery("worker")
    assert done.returncode == 1
    line = "Error: celery-gconc: REPORTS_GLOBAL_CONCURRENCY_LIMIT=3: there is no such setting; did you mean "
    assert line + "REPORTS_GLOBAL_CONCURRENCY_LIMITS?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.wild("deploys", "Django: a misspelt celery-gconc setting", result="reported at the start, and by doctor")
def test_a_likely_misspelling_is_told_by_the_worker_and_by_doctor(project):
    shop, _ = project("CELERY_GLOBAL_CONCURENCY_WAIT_WARNING = 9\nGLOBAL_CONCURRENCY_TASK_EVENTS = False")
    told = {
        "CELERY_GLOBAL_CONCURENCY_WAIT_WARNING": "CELERY_GLOBAL_CONCURRENCY_WAIT_WARNING",
        "GLOBAL_CONCURRENCY_TASK_EVENTS": "CELERY_GLOBAL_CONCURRENCY_TASK_EVENTS",
    }
    with shop.worker("-P", "solo") as worker:
        for key, meant in told.items():
            assert any(f"this app ignores the setting {key}; did you mean {meant}?" in line for line in worker.ours)
    found = shop.celery("gconc", "doctor", "--json").stdout
    for key, meant in told.items():
        assert f"this app ignores the setting {key}" in found
        assert meant in found
