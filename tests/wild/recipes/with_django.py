"""A worker beside a ``TransactionTestCase``: what the task writes, the test sees."""

from __future__ import annotations

import django
from celery import Celery
from celery.contrib.testing.worker import start_worker
from django.test import TransactionTestCase, override_settings

from celery_gconc import GlobalConcurrency

django.setup()

from django.contrib.auth.models import Group  # noqa: E402

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
gconc = GlobalConcurrency(app)


@app.task
def create(name: str) -> int:
    return Group.objects.create(name=name).pk


class WithWorker(TransactionTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.worker = start_worker(app, perform_ping_check=False)
        cls.worker.__enter__()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.worker.__exit__(None, None, None)
        super().tearDownClass()

    def test_the_task_writes_what_the_test_reads(self) -> None:
        pk = create.delay("ada").get(timeout=20)
        self.assertEqual(Group.objects.get(pk=pk).name, "ada")


class Eager(TransactionTestCase):
    @override_settings(CELERY_TASK_ALWAYS_EAGER=True)
    def test_eager(self) -> None:
        app.conf.task_always_eager = True
        self.addCleanup(setattr, app.conf, "task_always_eager", False)
        create.delay("grace")
        self.assertTrue(Group.objects.filter(name="grace").exists())
