"""``python tools/sizes.py``: no file of the product above 350 lines, no class above 300, no function above 50.

Python and Lua; a decorator and a docstring count, and there is no list of exceptions. In Lua a function is what begins
with ``function`` or ``local function`` and ends with the first ``end`` in the same column. One line for each offender,
and exit code 1 where there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MAX_FILE, MAX_CLASS, MAX_FUNCTION = 350, 300, 50

_LUA_FUNCTION = re.compile(r"( *)(?:local )?function ([\w.:]+)|( *)(?:local )?([\w.]+) = function\b")


@dataclass(frozen=True, slots=True)
class Part:
    """A file, class or function: where it begins, how long it is, and how long it may be."""

    path: Path
    line: int
    name: str
    lines: int
    most: int

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.name} has {self.lines} lines; at most {self.most}"


def main() -> int:
    """Look at all of the product; returns the exit code."""
    product = ROOT / "celery_gconc"
    parts = [part for path in sorted(product.rglob("*.py")) for part in _of_file(path, _of_python)]
    parts += [part for path in sorted(product.rglob("*.lua")) for part in _of_file(path, _of_lua)]
    offenders = [part for part in parts if part.lines > part.most]
    for part in offenders:
        print(part)
    return int(bool(offenders))


def _of_file(path: Path, inside: Callable[[Path, str], Iterator[Part]]) -> Iterator[Part]:
    text = path.read_text(encoding="utf-8")
    yield Part(path, 1, "the file", len(text.splitlines()), MAX_FILE)
    yield from inside(path, text)


def _of_python(path: Path, text: str) -> Iterator[Part]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            most = MAX_CLASS if isinstance(node, ast.ClassDef) else MAX_FUNCTION
            yield Part(path, first, node.name, (node.end_lineno or first) - first + 1, most)


def _of_lua(path: Path, text: str) -> Iterator[Part]:
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if (found := _LUA_FUNCTION.match(line)) is None or re.search(r"\bend\s*(--.*)?$", line):
            continue
        end = (found[1] or found[3] or "") + "end"
        last = next((n for n in range(number + 1, len(lines)) if re.match(rf"{end}\b", lines[n])), len(lines) - 1)
        yield Part(path, number + 1, found[2] or found[4], last - number + 1, MAX_FUNCTION)


if __name__ == "__main__":
    sys.exit(main())
