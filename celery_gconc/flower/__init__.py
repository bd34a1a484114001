"""What Flower shows of the limits beside what it does by itself, installed where ``celery flower`` runs.

    GlobalConcurrency(app) -> Flower has read its options -> our collector in /metrics, /gconc, /api/gconc, a link to it

Flower has no plugins: each of these uses a seam that isn't documented (flower 2.0-2.2). So each stands alone: where one
can't be used the others are, one line in the log names those that are missing, and Flower starts in any case. Workers
tell Flower of the limits by themselves, whatever happens here: in the tab *Other* of a worker's page.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import click
from celery import Celery
from celery.utils.log import get_logger

from celery_gconc.settings import SWITCHED_OFF, Settings

logger = get_logger(__name__)

#: What the page says where ``/api/gconc`` is missing.
NO_API = "In this version of Flower, celery-gconc can show limits but not change them; use celery gconc in a shell."


def install_when_flower_starts(app: Celery) -> None:
    """Have :func:`install` called in the process of ``celery -A proj flower``, and in no other. Never raises.

    There Flower is imported before the app is; where it isn't, nothing of it is imported here either.
    """
    # click-plugins imports flower.command in each process of the celery command, so this alone doesn't tell.
    if "flower.command" not in sys.modules:
        return
    try:
        from tornado.options import options

        options.add_parse_callback(lambda: _flower_has_read_its_options(app))
    except Exception as exc:  # noqa: BLE001 - the app must load, whatever Tornado is like
        if "flower" in sys.argv:  # not another `celery` command, in which Flower is just imported
            click.echo(_what_is_missing({"everything": exc}), err=True)  # it hasn't begun to log


@cache
def install(app: Celery) -> None:
    """Add to Flower, in this process, all that can be added; at most once for an app. Never raises.

    Only needed by programs that make a ``flower.app.Flower`` of their own, before they make it.
    """
    if _is_switched_off(app):
        logger.info("%s: no limits are shown", SWITCHED_OFF)
        return
    from celery_gconc.flower.snapshots import SnapshotCache

    missing: dict[str, Exception] = {}

    def add(what: str, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception as exc:  # noqa: BLE001 - an undocumented seam may fail in any way, and Flower has to start
            missing[what] = exc

    cache = SnapshotCache(app)
    add("/metrics", lambda: _add_metrics(app))
    add("/api/gconc", lambda: _add_api(cache))
    add("/gconc", lambda: _add_page(cache, has_api="/api/gconc" not in missing))
    if "/gconc" not in missing:
        add("the link to /gconc", _add_link)
    if missing:
        logger.warning(_what_is_missing(missing))


def _is_switched_off(app: Celery) -> bool:
    with suppress(Exception):  # what is wrong with the settings, each page and command says
        return not Settings.from_app(app).enabled
    return False


def _flower_has_read_its_options(app: Celery) -> None:
    with suppress(Exception):  # in the middle of Flower's start: an error here would end it
        context = click.get_current_context(silent=True)
        # An app of Tornado's own may import the Celery app and read options too. An app may be a proxy: not `is`.
        if context is not None and context.info_name == "flower" and context.obj.app == app:
            install(app)


def _add_metrics(app: Celery) -> None:
    from prometheus_client import REGISTRY

    from celery_gconc.flower.metrics import Scrape

    REGISTRY.register(Scrape(app))


def _add_api(cache: Any) -> None:
    from flower import urls

    from celery_gconc.flower.api import route

    urls.handlers.insert(len(urls.handlers) - 1, route(cache))  # before the one that says 404 to everything


def _add_page(cache: Any, *, has_api: bool) -> None:
    from flower import urls

    from celery_gconc.flower.page import check_templates, routes

    check_templates(urls.settings["template_path"])
    at = len(urls.handlers) - 1  # before the one that says 404 to everything
    urls.handlers[at:at] = routes(cache, why_not="" if has_api else NO_API)


def _add_link() -> None:
    from flower import urls

    from celery_gconc.flower.page import LinkedTemplates

    urls.settings.setdefault("template_loader", LinkedTemplates(urls.settings["template_path"]))


def _what_is_missing(missing: dict[str, Exception]) -> str:
    try:
        from flower import __version__ as version
    except ImportError:
        version = "?"
    why = "; ".join(f"{what} ({type(exc).__name__}: {exc})" for what, exc in missing.items())
    return (
        f"celery-gconc: missing in this Flower ({version}): {' '.join(why.split())}. "
        "The limits are still on each worker's page, on the Other tab."
    )
