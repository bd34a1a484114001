"""What the package does to a process that imports it: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from celery import Celery

import celery_gconc
from celery_gconc import GlobalConcurrency


@pytest.mark.process
def test_importing_and_installing_opens_no_connection_and_starts_no_thread():
    code = (
        "import socket, threading\n"
        "def refuse(*a, **k): raise SystemExit('a connection was made')\n"
        "socket.socket.connect = refuse\n"
        "from celery import Celery\n"
        "from celery_gconc import GlobalConcurrency\n"
        "app = Celery('proj', broker='redis://localhost:1/0')\n"
        "app.conf.global_concurrency_limits = {'emails': 1}\n"
        "GlobalConcurrency(app); GlobalConcurrency(app)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert len(app.steps['consumer']) == 1\n"
        "assert set(app.amqp.queues) == {'celery'}\n"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_eager_tasks_and_direct_calls_never_touch_redis():
    before = threading.active_count()
    app = Celery("proj", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.task_always_eager = True
    app.conf.global_concurrency_limits = {"app": 0}
    GlobalConcurrency(app)

    @app.task(shared=False, global_concurrency=0)
    def double(number: int) -> int:
        return 2 * number

    assert double.delay(4).get() == 8
    assert double(4) == 8
    assert threading.active_count() == before


def test_every_public_name_has_a_docstring():
    for name in celery_gconc.__all__:
        assert getattr(celery_gconc, name).__doc__, name


@pytest.mark.process
def test_a_worker_starts_from_a_checkout_that_is_not_installed(tmp_path):
    # No metadata of a distribution: the package's own folder is all there is, beside what it depends on.
    (tmp_path / "celery_gconc").symlink_to(Path(celery_gconc.__file__).parent)
    code = (
        "import importlib.metadata as metadata\n"
        "found = metadata.Distribution.from_name.__func__\n"
        "def refuse(cls, name):\n"
        "    if name == 'celery-gconc': raise metadata.PackageNotFoundError(name)\n"
        "    return found(cls, name)\n"
        "metadata.Distribution.from_name = classmethod(refuse)\n"
        "from celery import Celery\n"
        "from celery_gconc import GlobalConcurrency, __version__\n"
        "app = Celery('proj', broker='memory://')\n"
        "app.conf.global_concurrency_redis_url = 'redis://localhost:1/0'\n"
        "GlobalConcurrency(app)\n"
        "worker = app.WorkController(pool='solo', hostname='one@test')\n"
        "worker.blueprint.apply(worker)\n"
        "(step,) = [s for s in worker.consumer.blueprint.order if s.label == 'Global concurrency']\n"
        "assert step.info(worker.consumer)['global_concurrency']['version'] == __version__\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
