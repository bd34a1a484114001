"""Markdown pages as the lint reads them: headings, links, table rows, code; each with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

#: Where `make docs` builds the site.
BUILT = DOCS / "_build"

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a page's text, and the line on which it begins."""

    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Row:
    """A table row that begins with a name in backticks."""

    name: str
    cells: tuple[str, ...]
    line: int


class Page:
    """One Markdown file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")

    def fault(self, line: int, text: str) -> Fault:
        """A fault on this page."""
        return Fault(self.path, line, text)

    def line(self, offset: int) -> int:
        """The line of an offset in the text."""
        return self.text.count("\n", 0, offset) + 1

    @cached_property
    def prose(self) -> str:
        """The text with the content of code blocks blanked out; offsets stay."""
        return _BLOCK.sub(lambda block: _blank(block[0]), self.text)

    def blocks(self, *languages: str) -> Iterator[Piece]:
        """The content of the code blocks in these languages; without any, of all."""
        for block in _BLOCK.finditer(self.text):
            if not languages or block[2] in languages:
                yield Piece(block[3], self.line(block.start(3)))

    def indented(self) -> Iterator[Piece]:
        """Each line that is indented as code is."""
        for line in re.finditer(r"^    +(\S.*)$", self.prose, re.MULTILINE):
            yield Piece(line[1], self.line(line.start()))

    def spans(self) -> Iterator[Piece]:
        """What stands in backticks, outside of code blocks."""
        for span in re.finditer(r"`([^`\n]+)`", self.prose):
            yield Piece(span[1], self.line(span.start()))

    def links(self, *, outside: bool = False) -> Iterator[Piece]:
        """The targets of links and pictures that stay in the project, or of those that lead outside."""
        text = re.sub(r"`[^`\n]*`", lambda span: _blank(span[0]), self.prose)
        for link in re.finditer(r"\]\(([^)]+)\)", text):
            if outside == bool(re.match(r"\w+:", link[1])):
                yield Piece(link[1], self.line(link.start()))

    @cached_property
    def anchors(self) -> frozenset[str]:
        """The anchors of the headings, as GitHub makes them."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)

    @cached_property
    def rows(self) -> dict[str, Row]:
        """The table rows by the name that their first cell begins with; the first where several have it."""
        found: dict[str, Row] = {}
        for number, line in enumerate(self.text.splitlines(), 1):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if cells and (name := re.match(r"`([\w.]+)[`(]", cells[0])):
                found.setdefault(name[1], Row(name[1], tuple(cells), number))
        return found

    def section(self, heading: str) -> Piece | None:
        """The text under a heading, up to the next of any level; None where it is missing or empty."""
        found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", self.text, re.MULTILINE | re.DOTALL)
        return Piece(found[1], self.line(found.start())) if found and found[1].strip() else None


def all_pages() -> list[Path]:
    """Every Markdown file of the project."""
    found = {*ROOT.glob("*.md")}
    for folder in ("docs", "examples", "tests", ".github"):
        found.update((ROOT / folder).rglob("*.md"))
    return sorted(page for page in found if BUILT not in page.parents)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)
