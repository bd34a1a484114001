"""What a page says can be followed: links, settings, examples, commands, paths, and the names after a path."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from celery_gconc import GlobalConcurrency
from celery_gconc.settings import PREFIX, SETTINGS

from .pages import DOCS, ROOT, Fault, Page, Piece, all_pages
from .reference import COMMANDS

#: What is made by running something, and so isn't in every checkout.
MADE = ("docs/images/demo.svg", ".cache/", ".venv/", "dist/", "demo-output/")

#: Where paths are read. Elsewhere they are often the reader's own, as `proj/tasks.py` is.
WITH_PATHS = ("CONTRIBUTING.md", "SECURITY.md", ".github", "docs/decisions", "docs/explanation")

#: Its paths are those of Celery's own test suites.
WITHOUT_PATHS = DOCS / "explanation" / "conformance.md"

_SOURCES = ("celery_gconc", "model", "tests", "tools", "benchmarks", "examples", "docs", ".ci", ".github")
_KNOWN_SETTINGS = {PREFIX + name for name in SETTINGS} | {name for name in COMMANDS if name.startswith(PREFIX)}


def faults() -> Iterator[Fault]:
    """All of them, page by page."""
    pages = [Page(path) for path in all_pages()]
    for page in pages:
        for check in (_links, _links_outside, _settings, _examples, _commands):
            yield from check(page)
        if any(page.path.is_relative_to(ROOT / part) for part in WITH_PATHS) and page.path != WITHOUT_PATHS:
            yield from _paths(page)
            yield from _names_after_paths(page)
    yield from _map(pages)


def _links(page: Page) -> Iterator[Fault]:
    """Every link inside the project leads to a file and a heading."""
    for link in page.links():
        path, _, anchor = link.text.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        if not target.exists():
            if not _is_made(target):
                yield page.fault(link.line, f"the link {link.text} leads to no file")
        elif anchor and target.suffix == ".md" and anchor not in Page(target).anchors:
            yield page.fault(link.line, f"the link {link.text} leads to no heading")


def _links_outside(page: Page) -> Iterator[Fault]:
    """Links to other sites are of good form; whether they answer only `make docs-links` can tell."""
    for link in page.links(outside=True):
        url = urlsplit(link.text)
        if url.scheme != "https" or "." not in url.netloc or " " in link.text:
            yield page.fault(link.line, f"the link {link.text} is not https, or not to a site")


def _settings(page: Page) -> Iterator[Fault]:
    """Every setting that a page names exists."""
    for word in re.finditer(rf"\b{PREFIX}\w+", page.text):
        if word[0] not in _KNOWN_SETTINGS:
            yield page.fault(page.line(word.start()), f"there is no setting or command {word[0]}")


def _examples(page: Page) -> Iterator[Fault]:
    """Every Python example can be read, and calls methods of the extension that are there, with arguments they take."""
    for block in page.blocks("python"):
        lines = textwrap.dedent(block.text).splitlines()
        if lines and lines[0].startswith(">>>"):
            lines = [line[4:] if line.startswith((">>>", "...")) else "" for line in lines]
        try:
            tree = ast.parse("\n".join(lines))
        except SyntaxError as exc:
            yield page.fault(block.line + (exc.lineno or 1) - 1, f"not Python: {exc.msg}")
            continue
        for call in ast.walk(tree):
            match call:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="gconc"), attr=name)):
                    method = getattr(GlobalConcurrency, name, None)
                    if method is None:
                        yield page.fault(block.line + call.lineno - 1, f"the extension has no method {name}")
                        continue
                    try:
                        arguments = {word.arg or "": None for word in call.keywords}
                        inspect.signature(method).bind(None, *call.args, **arguments)
                    except TypeError as exc:
                        yield page.fault(block.line + call.lineno - 1, f"gconc.{name}: {exc}")


def _commands(page: Page) -> Iterator[Fault]:
    """What a page has one run is there: targets of make, modules of ours, markers of tests."""
    for piece in (*page.spans(), *page.blocks("", "console", "sh", "shell", "bash"), *page.indented()):
        for number, line in enumerate(piece.text.splitlines()):
            for fault in _of_command(re.sub(r"^\s*(?:\$ )?(?:\w+=\S+ )*", "", line)):
                yield page.fault(piece.line + number, fault)


def _of_command(command: str) -> Iterator[str]:
    if (target := re.match(r"make ([\w-]+)", command)) and target[1] not in _targets():
        yield f"the Makefile has no target {target[1]}"
    for script in re.findall(r"python3? ((?:tools|benchmarks|examples|tests)/\S+\.py)", command):
        if not (ROOT / script).is_file():
            yield f"there is no {script} to run"
    for module in re.findall(r"python3? -m ((?:tools|benchmarks|examples|tests)[\w.]*)", command):
        path = ROOT / module.replace(".", "/")
        if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file():
            yield f"there is no module {module} to run"
    if "pytest" in command:
        for marker in re.findall(r" -m [\"']?(?:not )?(\w+)", command.partition("pytest")[2]):
            if marker not in _markers():
                yield f"pyproject.toml has no marker {marker}"


def _paths(page: Page) -> Iterator[Fault]:
    """Every path that a page names is there: from the top, or as the end of a longer one (`lua/core.lua`)."""
    for piece in (*page.spans(), *_words_of_blocks(page)):
        if not _is_path(piece.text) or _is_made(ROOT / piece.text):
            continue
        if not _exists(piece.text.partition("::")[0]):
            yield page.fault(piece.line, f"there is no {piece.text}")


def _words_of_blocks(page: Page) -> Iterator[Piece]:
    """Paths in code blocks: only those that begin with a folder of ours, for the rest is anybody's."""
    for block in page.blocks():
        for number, line in enumerate(block.text.splitlines()):
            for word in re.findall(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, _SOURCES))})/[\w./*-]+", line):
                yield Piece(word.rstrip("."), block.line + number)


def _is_path(text: str) -> bool:
    if re.fullmatch(r"[\w.-]+\.(?:py|lua|pml|md|toml|yml)", text):
        return True
    return re.fullmatch(r"[\w.*-]+/[\w./*-]*(?:::[\w:\[\]]+)?", text) is not None and (
        text.partition("/")[0] in _SOURCES or re.search(r"(?:/|\.\w+)(?:::.*)?$", text) is not None
    )


def _is_made(path: Path) -> bool:
    return any(path.resolve().is_relative_to((ROOT / made).resolve()) for made in MADE)


def _exists(path: str) -> bool:
    if "*" in path:
        return any(ROOT.glob(path))
    if (ROOT / path).exists():
        return True
    return f"/{path.rstrip('/')}" in _ends()


@cache
def _ends() -> frozenset[str]:
    """Every end of the path of a file or folder of ours."""
    found = set()
    for source in _SOURCES:
        for path in (ROOT / source, *(ROOT / source).rglob("*")):
            parts = path.relative_to(ROOT).parts
            if "__pycache__" not in parts and "_build" not in parts:
                found.update("/" + "/".join(parts[start:]) for start in range(len(parts)))
    return frozenset(found | {f"/{path.name}" for path in ROOT.iterdir()})


def _names_after_paths(page: Page) -> Iterator[Fault]:
    """In a list item or table row that begins with a file of code, the names in backticks are names in that file."""
    for number, line in enumerate(page.prose.splitlines(), 1):
        begin = re.match(r"\s*(?:[-*|]|\d+\.) `([\w./-]+\.(?:py|lua))`", line)
        if begin is None or not (ROOT / begin[1]).is_file():
            continue
        for name in re.findall(r"`([A-Za-z_][\w.]*)(?:\(\))?`", line[begin.end() :]):
            if not name.endswith((".py", ".lua")) and name not in _names(ROOT / begin[1]):
                yield page.fault(number, f"{begin[1]} has no {name}")


@cache
def _names(path: Path) -> frozenset[str]:
    """The names that a file of code defines: functions, classes, constants, fields; those of a class with its name."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".lua":
        return frozenset(re.findall(r"[A-Za-z_]\w*", re.sub(r"--.*", "", text)))
    found = set()

    def visit(node: ast.AST, of: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = of
            match child:
                case ast.ClassDef(name=name):
                    inner = f"{name}."
                    found.add(name)
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found.update((name, of + name))
                case ast.Name(id=name, ctx=ast.Store()):
                    found.update((name, of + name))
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    found.update((name, of + name))
            visit(child, inner)

    visit(ast.parse(text), "")
    return frozenset(found)


def _map(pages: list[Page]) -> Iterator[Fault]:
    """Every page of docs/ is on its map, or on the index of a folder that is on it."""
    seen, listed = set(), {DOCS / "index.md"}
    while indexes := {path for path in listed if path.name == "index.md"} - seen:
        seen |= indexes
        for index in indexes:
            listed |= {(index.parent / link.text.partition("#")[0]).resolve() for link in Page(index).links()}
    for page in pages:
        if page.path.is_relative_to(DOCS) and page.path not in listed:
            yield page.fault(1, "no index page in docs/ links here")


@cache
def _targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@cache
def _markers() -> frozenset[str]:
    listed = re.search(
        r"^markers = \[$(.*?)^\]$", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return frozenset(re.findall(r'^    "(\w+)', listed[1] if listed else "", re.MULTILINE))
