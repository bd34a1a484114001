"""How a start is refused, by whatever program it is made."""

from __future__ import annotations

import click
import pytest

from celery_gconc import SettingError
from celery_gconc.shell import refuse_start


def test_a_start_is_refused_by_an_exception_in_any_program_but_the_celery_command():
    with click.Context(click.Command("flask test")), pytest.raises(SettingError, match="why"):
        refuse_start("why")
    from celery.bin.celery import celery

    with click.Context(celery), pytest.raises(SystemExit, match="Error: celery-gconc: why"):
        refuse_start("why")
