"""The page ``/gconc`` in Flower's look, and the link to it in the bar that is on all of Flower's pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from flower.views import BaseHandler
from tornado import web
from tornado.routing import URLSpec
from tornado.template import Loader, Template

from celery_gconc.flower.access import answer_with_snapshot, options_of, refusal
from celery_gconc.flower.snapshots import SnapshotCache
from celery_gconc.version import __version__

#: What the page is made of; its template extends Flower's ``base.html``.
FOLDER = Path(__file__).parent / "assets"
TEMPLATE = str(FOLDER / "gconc.html")

#: The item of Flower's bar after which ours comes, which is made like it.
_ITEM = re.compile(r"<li\b(?:(?!<li\b).)*?reverse_url\('broker'\).*?</li>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the template is told."""

    version: str
    #: Why nobody may change anything here; empty if they may.
    refusal: str
    #: Whether it keeps itself up to date (Flower's ``--auto-refresh``).
    is_live: bool


class PageHandler(BaseHandler):
    """The page, and with ``?json=1`` its data: who may see Flower's own pages sees both, login to the API or not."""

    def initialize(self, cache: SnapshotCache, why_not: str) -> None:
        """Take what :func:`routes` gives."""
        self.cache, self.why_not = cache, why_not

    @web.authenticated
    async def get(self) -> None:
        """Show the page, or tell what holds now."""
        if self.get_arguments("json"):
            await answer_with_snapshot(self, self.cache)
        else:
            is_live = bool(options_of(self).auto_refresh)
            facts = Facts(__version__, self.why_not or refusal(self), is_live)
            self.render(TEMPLATE, gconc=facts)  # type: ignore[no-untyped-call]


def routes(cache: SnapshotCache, *, why_not: str) -> list[URLSpec]:
    """Where the page is, and its script and style. *why_not* says why nothing can be changed from it, if so."""
    return [
        URLSpec(r"/gconc", PageHandler, {"cache": cache, "why_not": why_not}, name="gconc"),
        URLSpec(r"/gconc/(.+)", web.StaticFileHandler, {"path": str(FOLDER)}, name="gconc-file"),
    ]


def check_templates(folder: str) -> None:
    """Raise what is wrong with Flower's templates in *folder*, if the page can't be made with them."""
    templates = Loader(folder)
    templates.load("navbar.html")
    templates.load(TEMPLATE)


class LinkedTemplates(Loader):
    """Flower's templates, with one item more in the bar of its pages.

    Raises:
        LookupError: there is no such bar as in flower 2.0-2.2.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.load("navbar.html")

    def _create_template(self, name: str) -> Template:
        if name != "navbar.html":
            return super()._create_template(name)
        text = (Path(self.root) / name).read_text(encoding="utf-8")
        if (item := _ITEM.search(text)) is None or ">Broker<" not in item[0]:
            raise LookupError(f"no item 'Broker' in {name}")
        ours = item[0].replace("'broker'", "'gconc'").replace(">Broker<", ">Limits<")
        return Template(f"{text[: item.end()]}\n{ours}{text[item.end() :]}", name=name, loader=self)
