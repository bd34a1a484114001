"""Switched off, what is installed elsewhere than in a worker isn't there either."""

from __future__ import annotations

import click
import pytest
from celery import Celery

from celery_gconc import GlobalConcurrency, SettingError
from celery_gconc.shell import refuse_start


def off() -> Celery:
    app = Celery("proj", broker="redis://", set_as_current=False)
    app.conf.global_concurrency_enabled = False
    GlobalConcurrency(app)
    return app


def test_flower_stays_as_it_is():
    urls = pytest.importorskip("flower.urls")
    from celery_gconc.flower import install

    before = list(urls.handlers)
    install(off())
    assert urls.handlers == before


def test_a_start_is_refused_by_an_exception_in_any_program_but_the_celery_command():
    with click.Context(click.Command("flask test")), pytest.raises(SettingError, match="why"):
        refuse_start("why")
    from celery.bin.celery import celery

    with click.Context(celery), pytest.raises(SystemExit, match="Error: celery-gconc: why"):
        refuse_start("why")
