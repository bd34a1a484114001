"""What the pages have people type after ``celery -A proj``: each command exists, with these options and arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
from celery import Celery
from celery.bin.base import CLIContext
from celery.worker.control import Panel

from celery_gconc.cli import gconc

from .pages import DOCS, Fault, Page, all_pages
from .reference import COMMANDS

#: Where commands are shown that fail, to show how.
SHOWN_TO_FAIL = {"set_global_concurrency emails lots", "set_global_concurrency emials:x 3"}

#: What nobody types so: it has brackets, or names in capitals for what is meant.
SYNOPSIS = re.compile(r"\[|\b[A-Z]+\b")

TASK_ID = "7b0c8a4e-1f7d-4a7e-9d8e-1f6a1c2f9a55"


def faults() -> Iterator[Fault]:
    """All of them, and commands that no page shows."""
    pages = [Page(path) for path in all_pages()]
    for kind, ours in (
        ("gconc", set(gconc.commands)),
        *((kind, {name for name in COMMANDS if Panel.meta[name].type == kind}) for kind in ("control", "inspect")),
    ):
        shown = set()
        for page in pages:
            for line, (name, *words) in _typed(page, kind):
                shown.add(name)
                why = _of_gconc(name, words) if kind == "gconc" else _of_remote_control(kind, name, words)
                if why:
                    yield page.fault(line, f"celery {kind} {name}: {why}")
        for name in sorted(ours - shown):
            yield Fault(DOCS / "index.md", 1, f"no page shows celery {kind} {name} as it is typed")


def _typed(page: Page, kind: str) -> Iterator[tuple[int, list[str]]]:
    """Every ``celery -A ... <kind> ...``, in blocks and in sentences: its line, and the words that follow."""
    lines = list(enumerate(page.text.splitlines(), 1)) + [(span.line, span.text) for span in page.spans()]
    for number, line in lines:
        text = line.strip().removeprefix("$ ")
        found = re.match(rf"celery (?:-A \S+ )?{kind} ([^<.|]+(?:<task id>)?[^<.]*)$", text)
        if found and found[1] not in SHOWN_TO_FAIL and not SYNOPSIS.search(found[1]):
            yield number, shlex.split(found[1].replace("<task id>", TASK_ID))


def _of_gconc(name: str, words: list[str]) -> str | None:
    if (command := gconc.commands.get(name)) is None:
        return "there is no such command"
    if not words:
        return None
    app = Celery("proj", broker="redis://localhost:1/0", set_as_current=False)
    with click.Context(gconc, obj=CLIContext(app=app, no_color=True, workdir=None)) as parent:
        try:
            command.make_context(name, words, parent=parent).close()
        except click.UsageError as exc:
            return exc.format_message()
    return None


def _of_remote_control(kind: str, name: str, words: list[str]) -> str | None:
    meta = Panel.meta.get(name)
    if meta is None or meta.type != kind:
        return "there is no such command"
    if "-d" in words:
        del words[words.index("-d") : words.index("-d") + 2]
    arguments = [word for word in words if not word.startswith("-")]
    return None if meta.variadic or len(arguments) <= len(meta.args or ()) else "too many arguments"
