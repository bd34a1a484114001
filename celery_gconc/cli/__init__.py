"""``celery -A <app> gconc ...``: what operators ask and change at a shell, with no worker needed.

Every ``celery`` command imports this package (entry point group ``celery.commands``), so what only some commands need
is imported by those.
"""

from __future__ import annotations

from typing import Any

import click
from celery.bin.base import handle_preload_options
from click_didyoumean import DYMGroup  # type: ignore[import-untyped]

from celery_gconc.cli.changes import get, pause, purge, reset, resume, set_
from celery_gconc.cli.diagnosis import doctor, explain, exporter, repair, simulate
from celery_gconc.cli.state import holders, status, waiting
from celery_gconc.cli.top import top


@click.group(cls=DYMGroup)
@click.pass_context
@handle_preload_options
def gconc(ctx: click.Context, **kwargs: Any) -> None:  # celery 5.4-5.6: kwargs are the app's own preload options
    """Inspect and change global concurrency limits.

    A LIMIT is queue:NAME, task:NAME, pool:NAME or app; a bare NAME is a queue.
    """


for command in (status, top, holders, waiting, explain, set_, get, reset, pause, resume, purge):
    gconc.add_command(command)
for command in (simulate, doctor, repair, exporter):
    gconc.add_command(command)
