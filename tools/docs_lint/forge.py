"""The YAML files for GitHub and pre-commit, which no test runs: they can be read, and call what is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from .pages import ROOT, Fault

#: A branch or tag that moves with a major version; a commit or a full version is a decision that nobody reviews here.
PINNED = re.compile(r"[\w.-]+/[\w./-]+@(?:release/)?v\d+")


def faults() -> Iterator[Fault]:
    """All of them, file by file."""
    for path in sorted({*ROOT.glob(".*.yaml"), *(ROOT / ".github").rglob("*.yml")}):
        text = path.read_text(encoding="utf-8")
        try:
            list(yaml.safe_load_all(text))
        except yaml.YAMLError as exc:
            mark = getattr(exc, "problem_mark", None)
            yield Fault(path, mark.line + 1 if mark else 1, f"not YAML: {getattr(exc, 'problem', exc)}")
            continue
        yield from _calls(path, text)


def _calls(path: Path, text: str) -> Iterator[Fault]:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for number, line in enumerate(text.splitlines(), 1):
        if (action := re.search(r"uses: (\S+)", line)) and not PINNED.fullmatch(action[1]):
            yield Fault(path, number, f"{action[1]}: pin it to a major version")
        for target in re.findall(r"\bmake ([\w-]+)", line.partition("#")[0]):
            if target not in targets:
                yield Fault(path, number, f"the Makefile has no target {target}")
        for script in re.findall(r"(?<![\w/])\.ci/\w+", line):
            if not (ROOT / script).exists():
                yield Fault(path, number, f"there is no {script}")
