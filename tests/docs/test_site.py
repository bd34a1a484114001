"""The site of ``make docs``: it builds without a warning, has every page, and needs no other site to be read."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import unavailable
from tests.kit.servers import ROOT
from tests.kit.tiers import starts

DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).with_suffix("") for page in DOCS.rglob("*.md") if "_build" not in page.parts)

#: Tags that a browser loads something for when it shows a page, and the attribute that says from where.
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Loads(HTMLParser):
    """What a page has a browser load by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        value = dict(attrs).get(LOADED.get(tag, ""))
        if value:
            self.found.append(value)


@pytest.fixture(scope="module")
@starts("process")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` does."""
    if importlib.util.find_spec("sphinx") is None or importlib.util.find_spec("myst_parser") is None:
        unavailable("Sphinx and MyST are not installed: pip install 'celery-gconc[docs]'")
    folder = tmp_path_factory.mktemp("site")
    recipe = r"^docs:.*\n\t\$\(BIN\)/(.+) docs docs/_build/html$"
    command = re.search(recipe, (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert command is not None, "the Makefile's target docs is another"
    program, *options = command[1].split()
    assert program == "python"
    built = subprocess.run(
        [sys.executable, *options, "-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stderr
    return folder / "html"


def test_every_page_is_on_the_site_and_in_its_navigation(site: Path):
    home = (site / "index.html").read_text()
    pages = [f"{page}.html" for page in PAGES if page != Path("index")]
    assert [page for page in pages if not (site / page).exists() or f'href="{page}"' not in home] == []


def test_links_inside_the_site_lead_to_a_page_and_an_anchor_of_it(site: Path):
    broken = []
    for page in site.rglob("*.html"):
        for href in re.findall(r'<a [^>]*href="([^"]+)"', page.read_text()):
            parts = urlsplit(href)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / parts.path).resolve() if parts.path else page
            if not target.exists() or (
                parts.fragment and target.suffix == ".html" and f'id="{parts.fragment}"' not in target.read_text()
            ):
                broken.append(f"{page.relative_to(site)}: {href}")
    assert broken == []


def test_reading_the_site_needs_no_other_site(site: Path):
    asked = []
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text())
        asked += [f"{page.relative_to(site)}: {url}" for url in loads.found if urlsplit(url).netloc]
    for sheet in (site / "_static").rglob("*.css"):
        text = sheet.read_text()
        asked += [f"{sheet.name}: {url}" for url in re.findall(r"(?:@import|url\()\s*['\"]?(https?://[^'\")]+)", text)]
    assert asked == []


@pytest.mark.parametrize("picture", sorted((DOCS / "images").glob("*.svg")), ids=lambda path: path.name)
def test_every_drawing_brings_its_own_background_and_its_words(picture: Path):
    """It is shown on light pages and on dark ones, and to those who can't see it."""
    text = picture.read_text()
    assert re.search(r"<(rect|path)[^>]*fill[:=]", text), "nothing is painted behind it"
    assert "<title" in text or picture.name == "benchmarks.svg"
    assert re.findall(r'(?:href|src)="http[^"]+"|@import', text) == []
