"""The site that ``make docs`` builds: which pages, in which order, in what look."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from celery_gconc import __version__

project = "celery-gconc"
author = "The celery-gconc developers"
copyright = f"2026, {author}"  # noqa: A001 - Sphinx's own name
version = release = __version__

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
nitpicky = True

#: Anchors of headings as GitHub makes them, so that a link leads to the same place here and there.
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"celery-gconc {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

#: Seconds that `make docs-links` waits for a site.
linkcheck_timeout = 15


#: Pages whose lists of pages are the site's navigation.
INDEXES = ("index", "decisions/index")


def navigation(text: str) -> str:
    """The site's navigation: a table of contents for each list of pages of an index, which stays plain Markdown."""
    tables = ""
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        pages = re.findall(r"^- \[[^\]]+\]\(([\w/-]+)\.md\)", part, re.MULTILINE)
        if pages:
            caption = part.partition("\n")[0].partition(":")[0]
            tables += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
    return tables


def out_of_the_site(app: Any, docname: str, source: list[str]) -> None:
    """Let links to files outside of docs/ (an example, the changelog) lead to copies of them that are on the site."""
    page = Path(app.env.doc2path(docname))

    def copied(link: re.Match[str]) -> str:
        target = (page.parent / link[1].partition("#")[0]).resolve()
        if target.is_dir():
            raise FileNotFoundError(f"{page}: a link to a folder: {link[1]}; name a file in it")
        return f"](path:{link[1].partition('#')[0]})" if Path(app.srcdir) not in target.parents else link[0]

    source[0] = re.sub(r"\]\((\.\./[^)\s]+)\)", copied, source[0])
    if docname in INDEXES:
        source[0] += navigation(source[0])


def setup(app: Any) -> None:
    """Sphinx calls it."""
    app.connect("source-read", out_of_the_site)
