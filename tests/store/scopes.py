"""The scopes of a Lua text: which local hides another, and how long its functions are. As much Lua as ours needs."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"(?P<skip>\s+|--[^\n]*)|(?P<string>'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\")|(?P<name>[A-Za-z_]\w*)|(?P<other>\.\.\.|.)"
)

_OPENS = {"do", "then", "else", "repeat", "function"}
_CLOSES = {"end", "elseif", "else", "until"}


def _tokens(text: str) -> list[tuple[str, int]]:
    found, line = [], 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skip":
            found.append((match[0] if match.lastgroup != "string" else "''", line))
        line += match[0].count("\n")
    return found


def shadowed(text: str) -> list[str]:
    """Names of locals that hide another local where they are declared; ``_`` is no name."""
    tokens = [token for token, _ in _tokens(text)] + [""]
    scopes: list[set[str]] = [set()]
    found: list[str] = []
    coming: list[str] = []  # declared, and known from the next block or statement on

    def declare(name: str) -> None:
        if name != "_" and any(name in scope for scope in scopes):
            found.append(name)
        scopes[-1].add(name)

    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token in _CLOSES:
            scopes.pop()
        if token in _OPENS:
            scopes.append(set())
            for name in coming:
                declare(name)
            coming = []
        if token == "local" and tokens[at + 1] == "function":
            declare(tokens[at + 2])
        elif token == "local":
            for name in _names(tokens, at + 1):
                declare(name)
        elif token == "for":
            coming = list(_names(tokens, at + 1))
        elif token == "function":
            at = tokens.index("(", at)
            for name in _names(tokens, at + 1):
                declare(name)
        at += 1
    assert len(scopes) == 1, "the text was not understood"
    return found


def _names(tokens: list[str], at: int) -> Iterator[str]:
    while re.match(r"[A-Za-z_]", tokens[at]):
        yield tokens[at]
        if tokens[at + 1] != ",":
            return
        at += 2


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Each function, by its name or line, with its length in lines."""
    tokens = _tokens(text)
    open_blocks: list[tuple[str, str, int]] = []
    for at, (token, line) in enumerate(tokens):
        if token in ("end", "until"):
            kind, name, began = open_blocks.pop()
            if kind == "function":
                yield name, line - began + 1
        elif token in ("function", "repeat", "if", "do"):
            open_blocks.append((token, f"{tokens[at + 1][0]}:{line}", line))
