"""The cluster's app, in a Flower that lacks what the environment names: as a later version of it may.

Flower itself was imported before, and goes on with what it has.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import prometheus_client
from flower import api, urls, views
from tornado.options import OptionParser


def _change_template(name: str, old: str, new: str) -> None:
    """Have Flower use templates of which one is different."""
    folder = Path(os.environ["TEST_TEMPLATES"])
    shutil.copytree(urls.settings["template_path"], folder)
    page = folder / name
    page.write_text(page.read_text().replace(old, new))
    urls.settings["template_path"] = str(folder)


def _forget_module(name: str) -> None:
    """Have it no longer be importable."""
    sys.modules[name] = None  # type: ignore[assignment]


BREAK: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "routes": lambda: delattr(urls, "handlers"),
    "class of the API": lambda: delattr(api, "BaseApiHandler"),
    "class of pages": lambda: delattr(views, "BaseHandler"),
    "registry": lambda: delattr(prometheus_client, "REGISTRY"),
    "bar": lambda: _change_template("navbar.html", ">Broker<", ">Brokers<"),
    "callback": lambda: delattr(OptionParser, "add_parse_callback"),
    "options": lambda: _forget_module("tornado.options"),
}

BREAK[os.environ["TEST_BREAK"]]()

from tests.cluster.app import app  # noqa: E402 - the app is loaded in the Flower that is there

__all__ = ["app"]
