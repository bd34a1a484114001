"""A worker that may not run, in a test: an exception there, at once; and the next one runs."""

from __future__ import annotations

import os
import unittest

from celery.contrib.testing.worker import start_worker
from celery.exceptions import ImproperlyConfigured

from tests.wild.recipes.app import add, app


class Refused(unittest.TestCase):
    def test_a_refusal_is_an_exception_of_the_test_and_the_next_worker_runs(self) -> None:
        with self.assertRaisesRegex(ImproperlyConfigured, os.environ["TEST_SAID"]):
            with start_worker(app, perform_ping_check=False):
                self.fail("it runs")
        app.conf.global_concurrency_enabled = False
        with start_worker(app, perform_ping_check=False):
            self.assertEqual(add.delay(1, 2).get(timeout=20), 3)
