"""What the pages have people type at a shell: each command exists, with these options and arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from celery import Celery
from celery.bin.base import CLIContext
from celery.worker.control import Panel

from celery_gconc.worker import control
from tests.servers import ROOT
from tests.unit.test_docs import PAGES

#: Where commands are shown that fail, to show how.
SHOWN_TO_FAIL = {"set_global_concurrency emails lots", "set_global_concurrency emials:x 3"}

#: What nobody types so: it has brackets, or names in capitals for what is meant.
SYNOPSIS = re.compile(r"\[|\b[A-Z]+\b")


def typed(command: str) -> Iterator[tuple[str, list[str]]]:
    """Every ``celery -A ... <command> ...`` of the pages, in blocks and in sentences: where, and what follows it."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [line.strip().removeprefix("$ ") for line in text.splitlines()]
        for line in lines + re.findall(r"`(celery [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            found = re.match(rf"celery (?:-A \S+ )?{command} ([^<.|]+(?:<task id>)?[^<.]*)$", line)
            if found and found[1] not in SHOWN_TO_FAIL and not SYNOPSIS.search(found[1]):
                words = shlex.split(found[1].replace("<task id>", "7b0c8a4e-1f7d-4a7e-9d8e-1f6a1c2f9a55"))
                yield f"{page.relative_to(ROOT)}: {line}", words


def test_every_gconc_command_that_a_page_shows_is_understood():
    from celery_gconc.cli import gconc

    app = Celery("proj", broker="redis://localhost:1/0", set_as_current=False)
    shown = set()
    for where, (name, *arguments) in typed("gconc"):
        shown.add(name)
        command = gconc.commands.get(name)
        assert command is not None, where
        if arguments:
            with click.Context(gconc, obj=CLIContext(app=app, no_color=True, workdir=None)) as parent:
                try:
                    command.make_context(name, arguments, parent=parent).close()
                except click.UsageError as exc:
                    pytest.fail(f"{where}: {exc.format_message()}")
    assert shown == set(gconc.commands), "a command that no page shows, or these pages were not read"


@pytest.mark.parametrize("kind", ["control", "inspect"])
def test_every_remote_control_command_that_a_page_shows_exists_and_takes_so_many_arguments(kind: str):
    shown = set()
    for where, (name, *words) in typed(kind):
        shown.add(name)
        meta = Panel.meta.get(name)
        assert meta is not None, where
        assert meta.type == kind, where
        if "-d" in words:
            del words[words.index("-d") : words.index("-d") + 2]
        arguments = [word for word in words if not word.startswith("-")]
        assert meta.variadic or len(arguments) <= len(meta.args or ()), where
    ours = {name for name, handler in Panel.data.items() if handler.__module__ == control.__name__}
    assert {name for name in ours if Panel.meta[name].type == kind} <= shown
